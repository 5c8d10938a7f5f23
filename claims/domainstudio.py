"""DomainStudio: Fine-Tuning Diffusion Models for Domain-Driven Image Generation using Limited Data (Zhu et al. 2023,
2306.14153).

Measured here: the zoo's digits model fine-tuned on ten scans in another style (inverted, or turned by a quarter), with
and without the paper's terms; a surrogate for faces and paintings at 256 pixels. Style is judged by a classifier
trained on other scans in both styles, diversity by the distance between samples that have the same nearest target, in
the features of the digits classifier, in place of Intra-LPIPS, and quality by the Frechet distance in the same
features, since half-trained models, whose samples are noisy, are the most diverse. Not in this claim: text-to-image,
and low-rank fine-tuning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

import ornstein as orn
from ornstein import data, metrics, objectives
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Objective

CHECKS = {"smoke": (1, 2), "quick": (40, 80, 160), "full": (20, 40, 80, 160, 320, 640, 1280)}
SAMPLES = {"smoke": 40, "quick": 150, "full": 500}
TARGETS, CALLS = 10, 15
STYLE = 0.9
MORE = 1.1
STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": lambda x: -x,
    "turned": lambda x: x.rot90(1, (2, 3)),
}
BACK: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": lambda x: -x,
    "turned": lambda x: x.rot90(-1, (2, 3)),
}
PAPER = 4.0 / (TARGETS - 1)  # 4 times an element-wise mean
ARMS = ("plain", "frozen encoder", "published weights", "weights x 100")


class DomainStudio(Claim):
    slug = "domainstudio"
    statement = (
        "Fine-tuned on ten 8x8 digits in another style, the digits model with DomainStudio's terms at their published "
        "weights gives samples that are surely over a tenth more diverse than plain fine-tuning's, at no larger "
        "Frechet distance to real scans in the style, each arm at its own best stopping step (least distance with at "
        f"least {STYLE:.0%} of the samples in the style): reproduced if so in both styles, partly if in one, or only "
        "with the similarity terms' weights times 100"
    )
    baseline = (
        "plain fine-tuning of the same model on the same ten scans with the same noise, of all weights or of all but "
        "the encoder's, whichever ends at the smaller distance; the stopping step is chosen on the test itself for all"
    )
    effects = (
        *(
            Effect(
                f"{style}: {what}, {arm} / plain",
                of=f"{style} {arm} {what}",
                against=f"{style} best {what}",
                ratio=True,
            )
            for style in STYLES
            for arm in ARMS[2:]
            for what in ("diversity", "distance")
        ),
        *(
            Effect(f"{style}: {what}, {arm}", of=f"{style} {arm} {what}")
            for style in STYLES
            for arm in ARMS
            for what in ("diversity", "distance", "style")
        ),
        *(Effect(f"{style}: diversity of real scans", of=f"{style} real") for style in STYLES),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for i, style in enumerate(STYLES):
            judge = Judge(style, seed, 1 if budget == "smoke" else 6)
            found[f"{style} real"] = judge.diversity(judge.others[: SAMPLES[budget]])
            for j, arm in enumerate(ARMS):
                progress((4 * i + j) / 8, f"{style}: {arm}")
                curve = tuned(arm, judge, CHECKS[budget], SAMPLES[budget], seed)
                there = [point for point in curve if point["style"] >= STYLE] or curve[-1:]
                best = min(there, key=lambda point: point["distance"])
                found |= {f"{style} {arm} {what}": value for what, value in best.items()}
            plain = min(ARMS[:2], key=lambda arm: found[f"{style} {arm} distance"])
            found |= {
                f"{style} best {what}": found[f"{style} {plain} {what}"] for what in ("diversity", "distance")
            }
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        def more(style: str, arm: str) -> bool:
            reached = effects[f"{style}: style, {arm}"].value >= STYLE
            as_near = effects[f"{style}: distance, {arm} / plain"].value <= 1.0
            return reached and as_near and effects[f"{style}: diversity, {arm} / plain"].above(MORE)

        said = "; ".join(
            f"{style}, {arm}: {effects[f'{style}: diversity, {arm} / plain'].value:.3g} of plain's diversity at "
            f"{effects[f'{style}: distance, {arm} / plain'].value:.3g} of its distance"
            for style in STYLES
            for arm in ARMS[2:]
        )
        published, strong = ([s for s in STYLES if more(s, arm)] for arm in ARMS[2:])
        if len(published) == len(STYLES):
            return Verdict("reproduced", said)
        if published or strong:
            where = (
                f"published weights: {', '.join(published) or 'none'}; x 100: {', '.join(strong) or 'none'}"
            )
            return Verdict("partly", f"over a tenth more diverse with {where}; {said}")
        return Verdict("not reproduced", said)


class Judge:
    """The ten targets of a seed, and what is measured of samples; the style classifier never sees the targets."""

    def __init__(self, style: str, seed: int, epochs: int) -> None:
        scans, self.back = data.load("digits"), BACK[style]
        order = torch.randperm(len(scans.train), generator=torch.Generator().manual_seed(seed))
        images = scans.train.batch(order)["x_0"]
        self.targets, self.others = (STYLES[style](part) for part in (images[:TARGETS], images[TARGETS:]))
        x = torch.cat([images[TARGETS:], self.others])
        label = (torch.arange(len(x)) >= len(self.others)).long()
        both = replace(scans, train=data.TensorSplit(x, {"label": label}), classes=("source", "target"))
        self.styles = metrics.train_classifier(both, width=8, epochs=epochs, seed=seed)[0]
        self.digits = metrics.load_classifier("digits")

    def style(self, x: Tensor) -> float:
        """Share of samples that look like the target's style."""
        with torch.no_grad():
            return float((self.styles(x).argmax(1) == 1).double().mean())

    def distance(self, x: Tensor) -> float:
        """Frechet distance to real scans in the style."""
        ends = (metrics.classifier_features(self.digits, self.back(v)) for v in (x, self.others))
        return float(metrics.frechet_distance(*ends, resamples=2).value)

    def diversity(self, x: Tensor) -> float:
        """Mean distance between samples with one nearest target, over such pairs of each target, then over targets."""
        features, centres = (
            metrics.classifier_features(self.digits, self.back(v)) for v in (x, self.targets)
        )
        nearest, apart = torch.cdist(features, centres).argmin(1), torch.cdist(features, features)
        groups = [apart[nearest == k][:, nearest == k] for k in range(TARGETS)]
        return float(torch.stack([g.sum() / (len(g) * (len(g) - 1)) for g in groups if len(g) > 1]).mean())


def objective_of(arm: str, source: nn.Module) -> Objective:
    plain = objectives.Denoising(drop=0.0)
    if arm in ARMS[:2]:
        return plain
    weight = PAPER * (1 if arm == "published weights" else 100)
    return objectives.Regularised(
        plain,
        {
            "similarity": objectives.PairwiseSimilarity(source, weight=weight),
            "fine similarity": objectives.PairwiseSimilarity(source, "haar", weight),
            "fine": objectives.HighFrequency(1.0),
        },
    )


def tuned(arm: str, judge: Judge, checks: tuple[int, ...], n: int, seed: int) -> list[dict[str, float]]:
    """What is measured of samples at every check."""
    source = orn.load("digits").requires_grad_(False)
    model = copy.deepcopy(source).requires_grad_(True)
    model.fit = None  # the Gaussian fit is the source's
    if arm == "frozen encoder":
        for part in ("stem", "encoder", "down"):
            getattr(model.network, part).requires_grad_(False)
    objective = objective_of(arm, source)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-4, fused=True)
    found = []
    for step in range(1, checks[-1] + 1):
        model.train()
        optimiser.zero_grad()
        objective(model, {"x_0": judge.targets}, Keyed(1000 * seed + step, TARGETS)).total.backward()
        optimiser.step()
        if step in checks:
            x = orn.sample(model.eval(), n, steps=CALLS, seed=seed)
            named = {"style": judge.style(x), "diversity": judge.diversity(x), "distance": judge.distance(x)}
            found.append(named)
    return found


claim = DomainStudio()
