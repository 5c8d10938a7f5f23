from __future__ import annotations

import pytest
import torch

from ornstein.alignment import search_boundary, shared_start
from ornstein.core import Condition, Denoiser, Keyed, Posterior, Sampler, Shared, TimeGrid, sum_event
from ornstein.guides import Clamp, ClassifierFree
from ornstein.processes import MeanReverting, RectifiedFlow, UniformNoise, VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP

from ..exact import covariance, joint, mixture

D = 3


class LinearGaussian(Denoiser):
    """Exact where x_0 given y is N(B y, C): the flow's map is x_0 = B y + A x_T + (what is left of B y at time 1)."""

    fields = frozenset({"measurement"})
    shape = (D,)

    def __init__(self, process, c):
        super().__init__()
        self.process = process
        self.register_buffer("c", c)
        self.b = covariance(D, 5)

    def mean(self, y):
        return y @ self.b.T

    def forward(self, x, t, condition=None, step=None):
        alpha, _, sigma = self.process.at(t)
        m = self.mean(condition["measurement"])
        gain = alpha * self.c @ torch.linalg.inv(alpha**2 * self.c + sigma**2 * torch.eye(D))
        return Posterior(self.process, x, t, m + (x - alpha * m) @ gain.T, condition=condition)


def squared(x, y):
    return sum_event((x - y) ** 2)


def pairs(model, n, seed=0):
    """References whose residuals come in pairs of opposite sign, so that they average to 0."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n, D, generator=generator, dtype=torch.float64).repeat(2, 1)
    gap = torch.randn(n, D, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(model.c).T
    return {"x_0": model.mean(y) + torch.cat([gap, -gap]), "fields": {"measurement": y}}


def test_one_candidate_is_ordinary_sampling():
    model, sampler = mixture(VariancePreserving()), Sampler(DPMSolverPP(2), 8)
    references = {
        "x_0": torch.zeros(4, 3, dtype=torch.float64),
        "fields": {"label": torch.tensor([0, 1, 1, 0])},
    }
    found = search_boundary(sampler, model, references, squared, 1, seed=5)
    alone = [sampler(model, 1, seed=5, label=k) for k in (0, 1)]
    ours = sampler(model, 2, seed=found.source(), label=[0, 1])
    torch.testing.assert_close(ours, torch.cat(alone), rtol=1e-10, atol=1e-10)
    assert found.chosen == 0 and found.evaluations == 4 * 8


def test_more_candidates_are_never_worse_on_the_references():
    model, sampler = mixture(VariancePreserving()), Sampler(DDIM(), 6)
    x_0 = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    references = {"x_0": x_0, "fields": {"label": torch.arange(6) % 2}}
    found = [search_boundary(sampler, model, references, squared, n) for n in (1, 3, 9)]
    torch.testing.assert_close(found[1].scores, found[2].scores[:3])
    least = [float(f.scores.min()) for f in found]
    assert least == sorted(least, reverse=True) and least[2] < least[0]
    again = sampler(model, 6, seed=found[2].source(), label=torch.arange(6) % 2)
    assert float(squared(again, x_0).mean()) == pytest.approx(least[2], rel=1e-12)


def test_of_a_gaussian_every_candidate_has_its_score_in_closed_form():
    """h = B y + A z with A = C^(1/2), so the score is the references' own spread + |A z|^2, and 0 is the best start."""
    model = LinearGaussian(RectifiedFlow(), covariance(D, 7))
    references, sampler = pairs(model, 20), Sampler(DPMSolverPP(2), grid=_fine(model.process))
    z = torch.randn(6, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = search_boundary(sampler, model, references, squared, torch.cat([z, torch.zeros(1, D)]))
    spread = squared(references["x_0"], model.mean(references["fields"]["measurement"])).mean()
    values, axes = torch.linalg.eigh(model.c)
    root = axes @ values.sqrt().diag() @ axes.T
    expected = spread + squared(torch.cat([z, torch.zeros(1, D)]) @ root.T, torch.zeros(7, D))
    torch.testing.assert_close(found.scores, expected, rtol=2e-3, atol=1e-3)
    assert found.chosen == 6 and float(found.scores[6]) == pytest.approx(float(spread), rel=1e-12)
    # over many references the spread is the posterior variance
    many = pairs(model, 40_000, 1)
    own = squared(many["x_0"], model.mean(many["fields"]["measurement"])).mean()
    assert float(own) == pytest.approx(float(model.c.trace()), rel=0.02)


def _fine(process):
    return TimeGrid.log_snr(400, process, largest=1e3, smallest=1e-3)


def test_the_map_is_affine_and_its_slope_does_not_depend_on_the_condition():
    model, sampler = LinearGaussian(VariancePreserving(), covariance(D, 7)), Sampler(DDIM(), 5)
    y = torch.randn(2, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def ends(z):
        return sampler(model, 2, seed=shared_start(z), measurement=y)

    base = ends(torch.zeros(D))
    slopes = torch.stack([ends(e) - base for e in torch.eye(D)])
    torch.testing.assert_close(slopes[:, 0], slopes[:, 1], rtol=1e-10, atol=1e-12)
    z = torch.randn(D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(ends(z), base + torch.einsum("i,ibd->bd", z, slopes), rtol=1e-9, atol=1e-9)


def test_symmetries_of_the_map_leave_the_score_alone():
    model, sampler = LinearGaussian(RectifiedFlow(), 0.4 * torch.eye(D)), Sampler(DDIM(), 12)
    turn = torch.linalg.qr(
        torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0]
    z = torch.randn(5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    references = pairs(model, 10)
    one, other = (search_boundary(sampler, model, references, squared, c).scores for c in (z, z @ turn.T))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


class Anchored(LinearGaussian):
    """The same, read off a process that falls back to y: the mean of x_0 is y itself."""

    fields = frozenset({"anchor"})

    def forward(self, x, t, condition=None, step=None):
        level, y = self.process.at(t), condition["anchor"]
        gain = (
            level.alpha * self.c @ torch.linalg.inv(level.alpha**2 * self.c + level.sigma**2 * torch.eye(D))
        )
        gap = x - (level.alpha + level.anchor) * y
        return Posterior(self.process, x, t, y + gap @ gain.T, condition=condition)


def test_of_a_process_with_an_anchor_the_noise_of_the_prior_is_chosen():
    model, sampler = Anchored(MeanReverting(), 0.02 * covariance(D, 3)), Sampler(DPMSolverPP(2), 12)
    y = torch.randn(8, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.cat([torch.randn(4, D, generator=torch.Generator().manual_seed(1)).double(), torch.zeros(1, D)])
    found = search_boundary(sampler, model, {"x_0": y, "fields": {"anchor": y}}, squared, z)
    assert found.chosen == 4 and float(found.scores[4]) < 1e-20  # no noise: at y, where the mean is
    first = next(iter(sampler.steps(model, 8, seed=found.source(), anchor=y)))
    torch.testing.assert_close(first.next, model.process.prior(y, Condition({"anchor": y})).mean)


def test_guides_act_as_ever():
    model, sampler = mixture(VariancePreserving()), Sampler(DPMSolverPP(2), 8)
    guided = Clamp(torch.tensor([True, False, False]), torch.tensor([0.7, 0.0, 0.0]))(
        ClassifierFree(2.0)(model)
    )
    references = {"x_0": torch.ones(2, 3, dtype=torch.float64), "fields": {"label": torch.tensor([0, 1])}}
    found = search_boundary(sampler, guided, references, squared, 5)
    x = sampler(guided, 2, seed=found.source(), label=[0, 1])
    assert (x[:, 0] == 0.7).all() and found.evaluations == 5 * 2 * 16
    assert float(squared(x, references["x_0"]).mean()) == pytest.approx(float(found.scores.min()))


def test_trees_and_stochastic_solvers_have_starts_too():
    tree = joint(RectifiedFlow(), UniformNoise(2))
    tree.fields = frozenset({"label"})
    x_0 = {
        "image": torch.zeros(2, 2, dtype=torch.float64),
        "label": torch.zeros(2, dtype=torch.long),
    }
    references = {"x_0": x_0, "fields": {"label": torch.tensor([0, 1])}}

    def distance(x, y):
        return squared(x["image"], y["image"])

    found = search_boundary(Sampler(Ancestral(), 4), tree, references, distance, 4)
    assert found.scores.argmin() == found.chosen and len(found.draws) == 2
    model = mixture(VariancePreserving())
    same = Sampler(Ancestral(), 4)(model, 3, seed=Shared(Keyed(0, 1)), label=1)
    ours = Sampler(Ancestral(), 4)(
        model, 3, seed=shared_start(Keyed(0, 1).fold(-1).normal(torch.empty(1, 3))[0]), label=1
    )
    torch.testing.assert_close(ours, same)


def test_wrong_searches_are_refused():
    model, sampler = mixture(VariancePreserving()), Sampler(DDIM(), 3)
    references = {"x_0": torch.zeros(2, 3, dtype=torch.float64), "fields": {"label": torch.tensor([0, 1])}}
    with pytest.raises(ValueError, match="candidates: expected a count"):
        search_boundary(sampler, model, references, squared, 0)
    with pytest.raises(ValueError, match="one number a sample"):
        search_boundary(sampler, model, references, lambda x, y: (x - y).mean())
    with pytest.raises(ValueError, match=r"references: expected pairs with one of the fields \['label'\]"):
        search_boundary(
            sampler, model, {"x_0": torch.zeros(2, 3), "fields": {"text": torch.zeros(2)}}, squared
        )
    with pytest.raises(ValueError, match="asked for"):
        search_boundary(sampler, model, references, squared, torch.zeros(2, 4))
