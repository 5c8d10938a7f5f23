from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Condition, Denoiser, Keyed, Sampler, TimeGrid
from ornstein.denoisers import MixtureDenoiser
from ornstein.guides import AdaptiveGuidance, ClassifierFree
from ornstein.guides.adaptive import _counts
from ornstein.processes import Absorbing, RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP

from ..exact import AFFINE, joint, mixture, table

D = 12
ALWAYS = float("-inf")


def low_rank(process, floor: float = 0.0) -> MixtureDenoiser:
    """Three classes on planes in D dimensions: most directions hold no data, as for images."""
    generator = torch.Generator().manual_seed(1)
    means = torch.zeros(3, D, dtype=torch.float64)
    means[:, :2] = torch.tensor([[2.0, 0.0], [-1.5, 1.0], [0.0, -2.0]])
    axes = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    covariances = torch.zeros(3, D, D, dtype=torch.float64)
    covariances[:, :4, :4] = 0.3 * axes @ axes.mT
    covariances = covariances + floor * torch.eye(D, dtype=torch.float64)
    return MixtureDenoiser([0.4, 0.3, 0.3], means, covariances, process, labels=[0, 1, 2])


def run(guide, model, n=6, steps=16, solver=None, seed=0, label=None):
    label = torch.arange(n) % 3 if label is None else label
    return list(Sampler(solver or DPMSolverPP(2), steps).steps(guide(model), n, seed=seed, label=label))


def calls(step, n=6):
    return (torch.zeros(n, dtype=torch.long) + step.evaluations).tolist()


def test_a_threshold_above_1_is_classifier_free_guidance():
    model = low_rank(VariancePreserving())
    full, adaptive = (run(g, model) for g in (ClassifierFree(3.0), AdaptiveGuidance(3.0, 1.01)))
    assert torch.equal(full[-1].next, adaptive[-1].next)
    assert calls(adaptive[-1]) == [32] * 6


def test_a_threshold_of_minus_1_guides_once_and_is_conditional_then():
    model = low_rank(VariancePreserving())
    adaptive = run(AdaptiveGuidance(3.0, -1.0, after=ALWAYS), model, solver=DDIM())
    once = run(ClassifierFree(3.0), model, solver=DDIM())
    torch.testing.assert_close(
        adaptive[1].next, once[1].next, rtol=1e-12, atol=1e-12
    )  # the prior's draw is 0
    x, sampler, condition = adaptive[1].next, Sampler(DDIM(), 16), Condition({"label": torch.arange(6) % 3})
    for i in range(1, 16):
        x = sampler.step(model, x, i, condition).next
    torch.testing.assert_close(adaptive[-1].next, x, rtol=1e-10, atol=1e-10)
    assert calls(adaptive[-1]) == [17] * 6


@pytest.mark.parametrize("threshold", [-1.0, 0.9, 2.0])
def test_scale_1_is_the_conditional_model_at_any_threshold(threshold):
    model = low_rank(RectifiedFlow())
    adaptive = run(AdaptiveGuidance(1.0, threshold), model)
    label = torch.arange(6) % 3
    *_, plain = Sampler(DPMSolverPP(2), 16).steps(model, 6, seed=0, label=label)
    torch.testing.assert_close(adaptive[-1].next, plain.next)
    assert adaptive[-1].evaluations == 16


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP(2), Ancestral()], ids=repr)
def test_the_latch_stays_and_every_evaluation_is_counted(name, solver):
    guide, model = AdaptiveGuidance(3.0, 0.999), low_rank(AFFINE[name]())
    seen, guided = None, torch.zeros(6)
    for step in run(guide, model, solver=solver):
        if step.index < 0:
            continue
        before = torch.zeros(6, dtype=torch.bool) if seen is None else seen
        seen = step.memory[guide]
        assert (seen | ~before).all()  # latched rows stay
        guided += ~before
        if not before.all():
            assert (step.posterior.heads["agreement"][before] == 1).all()
    assert calls(step) == (guided + 16).tolist()  # 2 k + (N - k)
    assert guided.min() > 0 and guided.max() < 16


class Counted(Denoiser):
    """Counts the rows that a model really evaluates."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, 0
        self.process, self.shape, self.fields = model.process, model.shape, model.fields

    def forward(self, x, t, condition=None, step=None):
        self.rows += len(x)
        return self.model(x, t, condition, step)


def test_savings_are_real():
    model = Counted(low_rank(VariancePreserving()))
    *_, last = run(AdaptiveGuidance(3.0, 0.999), model)
    assert model.rows == sum(calls(last)) < 6 * 32


def test_a_sample_does_not_depend_on_its_batch():
    model, guide = low_rank(VariancePreserving()), AdaptiveGuidance(3.0, 0.999)
    *_, whole = run(guide, model)
    assert len(set(calls(whole))) > 1
    for i in range(6):
        alone = run(guide, model, 1, seed=Keyed(0, torch.tensor([i])), label=torch.tensor([i % 3]))[-1]
        torch.testing.assert_close(whole.next[i : i + 1], alone.next, rtol=1e-10, atol=1e-10)
        assert calls(alone, 1) == calls(whole)[i : i + 1]


def test_rows_may_be_resampled():
    model, guide = low_rank(VariancePreserving()), AdaptiveGuidance(3.0, 0.999)
    for step in Sampler(DDIM(), 16).steps(guide(model), 6, seed=0, label=torch.arange(6) % 3):
        if step.index == 8:
            latched = step.memory[guide]
            step.select(torch.tensor([5, 0, 0]))
            assert torch.equal(step.memory[guide], latched[[5, 0, 0]])
    assert step.next.shape == (3, D)


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("t", [0.15, 0.5, 0.9])
def test_the_agreement_is_the_cosine_of_the_gaussians_own_noises(name, t):
    """noise = sigma S^-1 (x - alpha m), S = alpha^2 C + sigma^2; unconditional: averaged by responsibilities."""
    process = AFFINE[name]()
    model = low_rank(process, floor=0.05)
    x = process.at(t).sigma * torch.randn(
        4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    label = torch.tensor([0, 1, 2, 0])
    alpha, _, sigma = process.at(t)
    covariances = model.vectors @ torch.diag_embed(model.values) @ model.vectors.mT
    spread = alpha**2 * covariances + sigma**2 * torch.eye(D)
    gap = x[:, None] - alpha * model.means
    noises = sigma * torch.linalg.solve(spread, gap.unsqueeze(-1)).squeeze(-1)
    log_p = (
        -0.5 * (gap * noises).sum(-1) / sigma - 0.5 * spread.logdet() + torch.tensor([0.4, 0.3, 0.3]).log()
    )
    everything = (log_p.softmax(1).unsqueeze(-1) * noises).sum(1)
    expected = torch.cosine_similarity(noises[torch.arange(4), label], everything)
    guide = AdaptiveGuidance(3.0, 2.0)
    sampler = Sampler(DDIM(), grid=TimeGrid([(t, t / 2)]))
    step = sampler.step(guide(model), x, 0, Condition({"label": label}))
    torch.testing.assert_close(step.posterior.heads["agreement"], expected, rtol=1e-9, atol=1e-9)


def test_at_low_noise_low_rank_data_agree_and_full_dimensional_data_do_not():
    """With variance in every direction gamma tends to the cosine of the data's own scores; on planes most of what is
    seen is noise, and gamma tends to 1."""
    process, label = VarianceExploding(0.01, 50.0), torch.arange(300) % 3
    lower = {}
    for floor in (0.0, 4.0):
        model = low_rank(process, floor)
        x_0 = _of_class(model, label)
        for sigma in (0.01, 0.001):
            t = process.time_at(-math.log(sigma))
            x = x_0 + sigma * torch.randn(
                300, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64
            )
            guided = AdaptiveGuidance(2.0, 2.0)(model)
            step = Sampler(DDIM(), grid=TimeGrid([(t, t / 2)])).step(
                guided, x, 0, Condition({"label": label})
            )
            lower[floor, sigma] = float(step.posterior.heads["agreement"].quantile(0.2))
    assert lower[0.0, 0.01] > 0.999 and lower[0.0, 0.001] > 0.99999
    assert lower[4.0, 0.001] == pytest.approx(lower[4.0, 0.01], abs=0.01) and lower[4.0, 0.001] < 0.97


def _of_class(model, label):
    axes = model.vectors[label] * model.values[label].sqrt().unsqueeze(1)
    z = torch.randn(len(label), D, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model.means[label] + (axes @ z).squeeze(-1)


def test_pure_noise_is_no_agreement():
    """At time 1 of a flow both noises are x itself; by default that does not count."""
    model = low_rank(RectifiedFlow())
    first = run(AdaptiveGuidance(3.0, 0.999), model)[1]
    assert (first.posterior.heads["agreement"] > 1 - 1e-12).all()
    assert not any(v.any() for k, v in first.memory.items() if isinstance(k, AdaptiveGuidance))
    eager = AdaptiveGuidance(3.0, 0.999, after=ALWAYS)
    assert run(eager, model)[1].memory[eager].all()


def test_without_a_step_guidance_is_full():
    model, x = low_rank(VariancePreserving()), torch.randn(3, D, dtype=torch.float64)
    condition = Condition({"label": torch.arange(3)})
    expected = ClassifierFree(3.0)(model)(x, 0.4, condition)
    torch.testing.assert_close(AdaptiveGuidance(3.0, -1.0)(model)(x, 0.4, condition).mean, expected.mean)


def test_rows_without_a_label_latch_at_once():
    model, guide = mixture(VariancePreserving()), AdaptiveGuidance(3.0, 0.999, after=ALWAYS)
    guide.threshold = 1 - 1e-12
    steps = list(
        Sampler(DDIM(), 8).steps(guide(model), torch.ones(2, 3, dtype=torch.float64), label=[1, None])
    )
    assert calls(steps[-1], 2)[1] == 9 < calls(steps[-1], 2)[0]


def test_gradients_pass_and_nothing_is_kept_on_the_guide():
    model, guide = low_rank(VariancePreserving()), AdaptiveGuidance(3.0, 0.999)
    x = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    before = dict(vars(guide))
    Sampler(DDIM(), 6)(guide(model), x, label=1, grad=True).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0 and vars(guide) == before


def test_what_has_no_noise_is_refused():
    with pytest.raises(ValueError, match="no condition"):
        AdaptiveGuidance()(table(Absorbing(3)))
    discrete = table(Absorbing(3))
    discrete.fields = frozenset({"label"})
    with pytest.raises(ValueError, match="predicted noises, which Absorbing has not"):
        AdaptiveGuidance()(discrete)
    tree = joint(RectifiedFlow(), Absorbing(2))
    tree.fields = frozenset({"label"})
    with pytest.raises(ValueError, match=r"Absorbing \(leaf 'label'\)"):
        AdaptiveGuidance()(tree)
    with pytest.raises(ValueError, match="AdaptiveGuidance outside"):
        ClassifierFree(2.0)(AdaptiveGuidance()(mixture(VariancePreserving())))
    with pytest.raises(ValueError, match="threshold"):
        AdaptiveGuidance(2.0, float("nan"))


def test_a_tree_state_counts_from_where_its_noisiest_leaf_does():
    model = joint(RectifiedFlow(), Absorbing(2))
    clean, noisy = 0.05, 0.95
    for times, wanted in (((clean, clean), True), ((clean, noisy), False), ((noisy, clean), False)):
        t = dict(zip(("image", "label"), times, strict=True))
        assert bool(_counts(model.process, t, 0.0).all()) is wanted
