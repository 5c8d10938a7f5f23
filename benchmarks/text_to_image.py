"""Whether the scenes model draws what its prompts ask for: by guidance scale and by number of steps.

    OMP_NUM_THREADS=1 python -m benchmarks.text_to_image [--model NAME] [--prompts N] [--table FILE] [--figure FILE]

Prompts are captions of held-out scenes. The parser reads the pictures; what it reads in the true pictures of the same
prompts stands beside them, and the same pictures under other samples' prompts are the level of chance.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch

import ornstein as orn
from ornstein import data, guides
from ornstein.data import scenes as world
from ornstein.metrics import Estimate, permuted_score, scene_score
from ornstein.zoo import data_options_of

from .codecs import SEED

GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
STEPS = (5, 10, 15, 25, 50)
SHOWN = (
    "binding",
    "swap",
    "count",
    "relation",
    "place",
    "texture",
    "size",
    "style",
    "background",
    "success",
    "readable",
)
SIDED = ("relation", "place")
PAIRS = (("left", "right"), ("top", "bottom"), ("above", "below"), ("over", "under"))
OTHER = {word: other for pair in PAIRS for word, other in (pair, pair[::-1])}
SETS: dict[str, dict[str, Any]] = {
    "one object": {"most": 1, "combinations": "seen"},
    "one object, of a pair never trained on": {"most": 1, "combinations": "unseen"},
    "two kinds, one of each": {"most": 2, "combinations": "seen"},
    "any scene of its world": {"combinations": "seen"},
}


def turned(text: str) -> str:
    """The prompt with all sides and places turned about."""
    return re.sub(rf"\b({'|'.join(OTHER)})\b", lambda match: OTHER[match[0]], text)


def prompts(
    name: str, count: int, options: dict[str, Any], seed: int = SEED
) -> tuple[list[str], world.Scenes]:
    """Captions of `count` scenes of a set, in the world that the model was trained in, and the scenes."""
    own = {k: v for k, v in options.items() if k in world.World.options()}
    drawn = world.draw_scenes(8 * count, seed, world.World(**{**own, **SETS[name]}))
    kept = torch.arange(8 * count)
    if "two" in name:
        kept = kept[(drawn.group.amax(1) == 1) & (drawn.counts == 2)]
    scenes = drawn.rows(kept[:count])
    return [caption.text for caption in world.captions(scenes, seed)], scenes


def drawn_for(model: Any, texts: list[str], guidance: float, steps: int) -> torch.Tensor:
    """Pictures of the texts, one each; picture i has the noise of seed i."""
    guided = guides.ClassifierFree(guidance)(model) if guidance != 1 else model
    parts = torch.arange(len(texts)).split(100)
    return torch.cat(
        [
            orn.sample(guided, len(p), steps=steps, seed=p.tolist(), text=[texts[i] for i in p.tolist()])
            for p in parts
        ]
    )


def cell(estimate: Estimate | None) -> str:
    """In per cent."""
    if estimate is None:
        return ""
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def table(model: Any, options: dict[str, Any], count: int, guidance: float, steps: int) -> list[str]:
    """All scores of all sets, beside the true pictures and the level of chance."""
    lines = [f"| prompts | pictures | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|"]
    for name in SETS:
        texts, scenes = prompts(name, count, options)
        made = drawn_for(model, texts, guidance, steps)
        real = scene_score(texts, world.render(scenes, made.shape[-1]))
        for what, score in (
            ("drawn", scene_score(texts, made)),
            ("true", real),
            ("drawn, other prompts", permuted_score(texts, made)),
            ("drawn, turned about", scene_score([turned(text) for text in texts], made)),
        ):
            found = score.estimates()
            if "turned" in what:
                found = {side: found[side] for side in SIDED if side in found}
            lines.append(f"| {name} | {what} | {' | '.join(cell(found.get(s)) for s in SHOWN)} |")
            print(lines[-1], flush=True)
    return lines


def overlap(options: dict[str, Any], count: int) -> list[str]:
    """How many of the prompts stand word for word among the captions that the model was trained on."""
    known = set(data.load("scenes", **options).train.texts or ())
    shares = [sum(text in known for text in prompts(name, count, options)[0]) / count for name in SETS]
    cells = ", ".join(f"{name} {share:.0%}" for name, share in zip(SETS, shares, strict=True))
    return [f"Prompts that stand word for word among the training captions: {cells}."]


def curves(
    model: Any, options: dict[str, Any], count: int, guidance: float, steps: int
) -> tuple[list[str], dict[str, Any]]:
    """Binding by guidance scale and by number of steps, on other prompts than the table's."""
    swept: dict[str, Any] = {}
    lines = [f"| | {' | '.join(SETS)} |", "|---" * (len(SETS) + 1) + "|"]
    pairs = [("guidance", w, w, steps) for w in GUIDANCE] + [("steps", n, guidance, n) for n in STEPS]
    for kind, value, scale, rows in pairs:
        cells = []
        for name in SETS:
            texts, _ = prompts(name, count, options, SEED + 1)
            estimate = scene_score(texts, drawn_for(model, texts, scale, rows)).estimate("binding")
            swept.setdefault((kind, name), []).append((value, estimate))
            cells.append(cell(estimate))
        lines.append(f"| {kind} {value:g} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines, swept


def draw_figure(swept: dict[str, Any], path: Path) -> None:
    """Two panels: against guidance, against steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for panel, kind in zip(panels, ("guidance", "steps"), strict=True):
        for name in SETS:
            values, estimates = zip(*swept[kind, name], strict=True)
            shown = [100 * e.value for e in estimates]
            spread = [
                [100 * (e.value - e.low) for e in estimates],
                [100 * (e.high - e.value) for e in estimates],
            ]
            panel.errorbar(values, shown, spread, marker="o", markersize=3, capsize=2, label=name)
        panel.set_xlabel(kind)
    panels[1].set_xscale("log")
    panels[0].set_ylabel("binding, %")
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables; write them and the figure where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    model, options = orn.load(asked.model), data_options_of(asked.model)
    scores = table(model, options, asked.prompts, asked.guidance, asked.steps)
    known = overlap(options, asked.prompts)
    swept: list[str] = []
    if asked.figure:
        swept, points = curves(model, options, asked.prompts, asked.guidance, asked.steps)
        draw_figure(points, asked.figure)
    if asked.table:
        asked.table.write_text("\n".join([*scores, "", *known, "", *swept, ""]), "utf-8")


if __name__ == "__main__":
    main()
