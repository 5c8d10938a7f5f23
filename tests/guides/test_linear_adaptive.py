from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Sampler, TimeGrid
from ornstein.denoisers import MixtureDenoiser
from ornstein.guides import (
    ClassifierFree,
    GuidancePolicy,
    LinearAdaptiveGuidance,
    fit_linear_guidance,
    linear_guidance_residuals,
    record_guidance,
)
from ornstein.processes import Absorbing, VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM, DPMSolverPP, Forward

from ..exact import AFFINE, joint, mixture
from .test_adaptive import calls, low_rank

SAMPLER = Sampler(DDIM(), 12)


class TwoScales(MixtureDenoiser):
    """Conditional N(0, 1/2), unconditional N(0, 2): covariances that commute, so that trajectories are lines."""

    def __init__(self, process):
        super().__init__([1.0, 1.0], [[0.0] * 3] * 2, [0.5, 2.0], process, labels=[0, 1])

    def many(self, x, t, conditions, step=None):
        wide = Condition({"label": torch.ones(len(x), dtype=torch.long)})
        return [self(x, t, conditions[0], step), self(x, t, wide, step)]


@pytest.mark.parametrize("name", [n for n in AFFINE if n != "flow"])
def test_a_linear_past_is_predicted_without_error(name):
    model = TwoScales(AFFINE[name]())
    seen = record_guidance(SAMPLER, model, 20, scale=3.0, seed=0, label=0)
    coefficients = fit_linear_guidance(seen)
    others = record_guidance(SAMPLER, model, 20, scale=3.0, seed=1, label=0)
    residuals = [r for r in linear_guidance_residuals(others, coefficients) if r is not None]
    assert len(residuals) == 3 and max(residuals) < 1e-9
    all_but_first = ["guided"] + ["predicted"] * 11
    exact = LinearAdaptiveGuidance(3.0, fit_linear_guidance(seen, all_but_first))
    *_, full = SAMPLER.steps(ClassifierFree(3.0)(model), 5, seed=2, label=0)
    *_, predicted = SAMPLER.steps(exact(model), 5, seed=2, label=0)
    torch.testing.assert_close(predicted.next, full.next, rtol=1e-5, atol=1e-6)
    assert predicted.evaluations == 13 and full.evaluations == 24


def test_equal_branches_are_predicted_without_error():
    model = MixtureDenoiser([1.0], [[0.5, -1.0, 0.0]], [0.7], VariancePreserving(), labels=[0])
    seen = record_guidance(SAMPLER, model, 10, scale=3.0, seed=0, label=0)
    assert max(r or 0.0 for r in linear_guidance_residuals(seen, fit_linear_guidance(seen))) < 1e-10


def test_the_normal_equations_hold():
    seen = record_guidance(SAMPLER, mixture(VariancePreserving()), 40, scale=2.0, seed=0, label=1)
    coefficients = fit_linear_guidance(seen)
    for i in (1, 3, 5):
        past = [seen.unconditional[j] for j in range(0, i, 2)]
        columns = torch.stack([v.flatten() for v in [*seen.conditional[: i + 1], *past]], 1)
        gap = (
            columns @ torch.tensor([*coefficients[i][0], *coefficients[i][1]])
            - seen.unconditional[i].flatten()
        )
        assert (columns.T @ gap).abs().max() < 1e-8 * columns.norm() * seen.unconditional[i].norm()
        assert 0 < gap.norm() < 0.2 * seen.unconditional[i].norm()


def test_the_plan_and_its_evaluations():
    model = low_rank(VariancePreserving())
    options = {"label": torch.arange(60) % 3}
    coefficients = fit_linear_guidance(record_guidance(SAMPLER, model, 60, scale=3.0, seed=0, **options))
    assert [c if isinstance(c, str) else "predicted" for c in coefficients] == [
        "guided", "predicted", "guided", "predicted", "guided", "predicted", *["conditional"] * 6
    ]  # fmt: skip
    guide = LinearAdaptiveGuidance(3.0, coefficients)
    *_, last = SAMPLER.steps(guide(model), 4, seed=1, label=[0, 1, 2, 0])
    assert calls(last, 4) == [15] * 4  # three times 2, nine times 1
    early = GuidancePolicy(3.0, ["guided"] * 3 + ["conditional"] * 9)  # 15 evaluations too
    others = {"seed": 1, "label": torch.arange(90) % 3}
    full, linear, plain = (SAMPLER(g(model), 90, **others) for g in (ClassifierFree(3.0), guide, early))
    assert (linear - full).norm() < 0.8 * (plain - full).norm()


def test_a_sample_does_not_depend_on_its_batch_and_may_be_resampled():
    model, options = low_rank(VariancePreserving()), {"label": torch.arange(60) % 3}
    sampler = Sampler(DPMSolverPP(2), 12)
    guide = LinearAdaptiveGuidance(
        3.0, fit_linear_guidance(record_guidance(sampler, model, 60, scale=3.0, seed=0, **options))
    )
    start = torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = sampler(guide(model), start, label=[0, 1, 2])
    for i in range(3):
        alone = sampler(guide(model), start[i : i + 1], label=[i])
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-9, atol=1e-9)
    for step in sampler.steps(guide(model), start, label=[0, 1, 2]):
        if step.index == 2:
            step.select(torch.tensor([2, 2]))
    torch.testing.assert_close(step.next, whole[[2, 2]], rtol=1e-9, atol=1e-9)


def test_the_coefficients_are_plain_numbers():
    import json

    seen = record_guidance(SAMPLER, mixture(VariancePreserving()), 10, scale=2.0, seed=0, label=1)
    coefficients = fit_linear_guidance(seen)
    again = LinearAdaptiveGuidance(2.0, json.loads(json.dumps(coefficients)))
    model, direct = mixture(VariancePreserving()), LinearAdaptiveGuidance(2.0, coefficients)
    assert torch.equal(*(SAMPLER(g(model), 3, seed=0, label=1) for g in (again, direct)))


def test_what_cannot_be_predicted_is_refused():
    model = mixture(VarianceExploding())
    with pytest.raises(ValueError, match="first not predicted"):
        fit_linear_guidance(
            record_guidance(SAMPLER, model, 4, scale=2.0, label=1), ["predicted"] + ["guided"] * 11
        )
    with pytest.raises(ValueError, match="plan: expected 12"):
        fit_linear_guidance(record_guidance(SAMPLER, model, 4, scale=2.0, label=1), ["guided"])
    with pytest.raises(ValueError, match="scale other than 1"):
        record_guidance(SAMPLER, model, 4, scale=1.0, label=1)
    noised = TimeGrid([(1.0, 0.5), (0.5, 0.7, Forward()), (0.7, 0.0)])
    with pytest.raises(ValueError, match="each row must call"):
        record_guidance(Sampler(DDIM(), grid=noised), model, 4, scale=2.0, label=1)
    with pytest.raises(ValueError, match=r"coefficients\[1\]: expected 2 of conditional and 1"):
        LinearAdaptiveGuidance(2.0, ["guided", ([1.0], [1.0])])
    with pytest.raises(ValueError, match="'unconditional'"):
        LinearAdaptiveGuidance(2.0, ["guided", "unconditional"])
    with pytest.raises(ValueError, match="has choices for 1 rows"):
        SAMPLER(LinearAdaptiveGuidance(2.0, ["guided"])(model), 2, label=1)
    tree = joint(VariancePreserving(), Absorbing(2))
    tree.fields = frozenset({"label"})
    with pytest.raises(ValueError, match="which ProductProcess has not"):
        LinearAdaptiveGuidance(2.0, ["guided"])(tree)
