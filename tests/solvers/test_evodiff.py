"""EVODiff against its released update written out, its limits, its invariances, and its measured order."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Recorded, Row, Sampler, TimeGrid
from ornstein.denoisers import MixtureDenoiser
from ornstein.processes import EDM, RectifiedFlow, VariancePreserving
from ornstein.solvers import DDIM, DPMSolverPP, EVODiff, evodiff

from ..exact import AFFINE, mixture
from ..processes.test_anchor import MeanReverting, Residual
from .test_order import _slope
from .test_stochastic import through


def images(process, shape=(2, 3, 4), seed: int = 0) -> MixtureDenoiser:
    g = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(5, *shape, generator=g)
    return MixtureDenoiser([0.2] * 5, means, torch.full((5,), 0.05), process)


def levels(process, steps: int, high: float = 80.0, low: float = 0.002) -> TimeGrid:
    points = torch.linspace(-math.log(high), -math.log(low), steps + 1)
    return TimeGrid.through(process.time_at(points).tolist())


def released(truth, process, x, grid: TimeGrid, final: str) -> torch.Tensor:
    """The released loop: predict, evaluate at the prediction, correct at once; coefficients per image and channel."""
    times, long = [grid[0].t, *(r.s for r in grid)], len(grid) > 20
    sigma, alpha = ([getattr(process.at(t), k) for t in times] for k in ("sigma", "alpha"))
    kappa = [s / a for s, a in zip(sigma, alpha, strict=True)]

    def dot(a, b):
        return torch.einsum("bchw,bchw->bc", a, b)[..., None, None]

    def onto(a, b):
        return (dot(a, b) / dot(b, b)).clamp(-2, 2)

    m = [truth(x, times[0]).mean]
    rise = 1 / kappa[1] - 1 / kappa[0]
    x = sigma[1] / sigma[0] * x + sigma[1] * rise * m[0]
    m.append(truth(x, times[1]).mean)
    for i in range(2, len(times)):
        rise, ratio = 1 / kappa[i] - 1 / kappa[i - 1], sigma[i] / sigma[i - 1]
        gain = sigma[i] * rise
        euler = ratio * x + gain * m[-1]
        if i == len(times) - 1:
            q = 1 - 0.5 * math.sqrt(ratio if ratio < 0.5 else ratio - 0.5)
            last = (1 - math.sqrt(sigma[i] * sigma[i - 1])) * euler + 0.5 * gain * (m[-1] - q * m[-2])
            return last if final == "repo" else euler
        r = math.log(kappa[i - 2] / kappa[i - 1]) / math.log(kappa[i - 1] / kappa[i])
        near = (times[i] + times[-1]) / (times[0] + times[-1])
        w, base = 0.5 * (1 - near**2), math.sqrt(ratio / (sigma[i - 1] / sigma[i - 2]))
        r_1 = (1 - w) * base + w * onto(m[-1], m[-2])
        d_1 = m[-1] - r_1 * m[-2]
        r_i = torch.clamp(torch.sigmoid(0.25 * r_1.abs()) * r, 0.25 * r, 1.5 * r)
        probe = euler + 0.5 * gain / r_i * d_1
        new = truth(probe, times[i]).mean
        r_2 = (1 - w) * base + w * onto(new, m[-1])
        d_2 = new - r_2 * m[-1]
        before, after = d_1 / (r * rise), r / rise * d_2
        eta = 0.5 * torch.sigmoid((0.5 * onto(after + before, after - before)).abs())
        b = -eta / r * d_1 + r * (1 - eta) * d_2
        excess = (onto(probe - euler - 0.5 * gain / r_i * b, d_1) / gain).abs() - 0.5
        if long:
            slope = (m[-1] - m[-2]) / rise
            zeta = torch.sigmoid(-excess * torch.sigmoid(onto(m[-1], slope) * (2 - ratio**2)))
        else:
            zeta = torch.sigmoid(excess)
        x = euler + 0.5 * gain / zeta * b
        m.append(new)
    raise AssertionError


@pytest.mark.parametrize("final", ["repo", "ddim"])
@pytest.mark.parametrize("steps", [3, 8, 25])
def test_it_is_the_released_update_on_the_edm_process(steps, final):
    process = EDM()
    truth, grid = images(process), levels(process, steps)
    x = 80 * torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    ours = Sampler(EVODiff(final), grid=grid)(truth, x)
    torch.testing.assert_close(ours, released(truth, process, x, grid, final), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("steps", [8, 25])
def test_and_on_a_variance_preserving_one(steps):
    process = VariancePreserving()
    truth, grid = images(process), through(process, steps)
    x = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    ours = Sampler(EVODiff(), grid=grid)(truth, x)
    torch.testing.assert_close(ours, released(truth, process, x, grid, "repo"), rtol=1e-11, atol=1e-11)


def test_one_call_a_step_and_no_noise():
    truth = images(VariancePreserving())
    *_, last = Sampler(EVODiff(), 7).steps(truth, torch.randn(2, 2, 3, 4), seed=Recorded())
    assert last.evaluations == 7


def test_a_plain_probe_is_dpm_solver_2m(monkeypatch):
    """(a) r_1 = 1 and r_i = r: the probe is DPM-Solver++(2M) with the midpoint rule."""
    process = VariancePreserving()
    truth, x, grid = images(process), torch.randn(3, 2, 3, 4), through(VariancePreserving(), 6)
    monkeypatch.setattr(EVODiff, "_difference", lambda self, m, m_1, span: (m - m_1, span.r))
    monkeypatch.setattr(EVODiff, "_correction", lambda self, m_t, m, m_1, span: 0.0)
    # the last step is of first order in one and of second in the other
    ours, theirs = (list(Sampler(s, grid=grid).steps(truth, x)) for s in (EVODiff("ddim"), DPMSolverPP(2)))
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.next, b.next, rtol=1e-12, atol=1e-12)


def test_a_plain_corrector_is_unic_1(monkeypatch):
    """(b) r_2 = 1, eta = 0, zeta = 1, r = 1: x_E + b (D(x_P) - D) / 2, UniC-1 of 2302.04867 with B(h) = e^h - 1."""
    process = VariancePreserving()
    truth, grid = images(process), through(VariancePreserving(), 4)
    monkeypatch.setattr(EVODiff, "_difference", lambda self, m, m_1, span: (m - m_1, span.r))
    monkeypatch.setattr(EVODiff, "_eta", lambda self, before, after: torch.zeros(()))
    monkeypatch.setattr(EVODiff, "_zeta", lambda self, *given: torch.ones(()))
    x = torch.randn(3, 2, 3, 4)
    first, second, third, _ = Sampler(EVODiff("ddim"), grid=grid).steps(truth, x)
    b, a = process.step(second.t, second.s, 0.0).b, process.step(second.t, second.s, 0.0).a
    corrected = a * second.x + b * second.posterior.mean
    corrected = corrected + 0.5 * b * (third.posterior.mean - second.posterior.mean)
    row = process.step(third.t, third.s, 0.0)
    expected = row.a * corrected + row.b * third.posterior.mean
    probe = 0.5 * row.b * (third.posterior.mean - second.posterior.mean)
    torch.testing.assert_close(third.next, expected + probe, rtol=1e-10, atol=1e-10)
    assert first.index == 0


def test_scale_equivariance_of_all_but_the_released_last_step():
    """(d) data, state and noise times c: the steps are equivariant, the released end is not."""
    process, c = EDM(), 3.0
    grid = levels(process, 9)
    scaled = TimeGrid.through([c * r.t for r in grid] + [c * grid[-1].s])
    plain = images(process)
    big = MixtureDenoiser(
        [0.2] * 5, c * plain.means.reshape(5, 2, 3, 4), torch.full((5,), 0.05 * c**2), process
    )
    x = 40 * torch.randn(3, 2, 3, 4)
    for final, equal in (("ddim", True), ("repo", False)):
        ends = Sampler(EVODiff(final), grid=grid)(plain, x), Sampler(EVODiff(final), grid=scaled)(big, c * x)
        assert torch.allclose(c * ends[0], ends[1], rtol=1e-8, atol=1e-8) is equal


def test_the_order_is_one_and_the_released_end_leaves_a_floor():
    """(e) as released first order (less its end); the end at sigma = 0.05 costs a few per cent at any step count."""
    process, steps = EDM(), [20, 40, 80, 160]
    truth = images(process, (3, 4, 4), seed=3)
    x = 80 * torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def errors(solver, low):
        fine = Sampler(DPMSolverPP(2), grid=levels(process, 1200, low=low))(truth, x)
        ends = [Sampler(solver, grid=levels(process, n, low=low))(truth, x) for n in steps]
        return [float((end - fine).norm() / fine.norm()) for end in ends]

    plain = errors(EVODiff("ddim"), 0.002)
    assert _slope(plain, steps) == pytest.approx(EVODiff().order, abs=0.25)
    floor = errors(EVODiff("repo"), 0.05)
    assert floor[-1] > 0.02 and floor[-1] > 0.5 * floor[0]


@pytest.mark.parametrize("name", AFFINE)
def test_vectors_and_every_process_and_a_batch_is_its_rows(name):
    process = AFFINE[name]()
    truth = mixture(process)
    for solver in (EVODiff(), EVODiff("ddim", "sample")):
        batch = Sampler(solver, 8)(truth, 3, seed=0)
        one = Sampler(solver, 8)(truth, 1, seed=0)
        assert torch.isfinite(batch).all()
        torch.testing.assert_close(batch[:1], one, rtol=1e-9, atol=1e-9)


def test_coefficients_are_per_channel_or_per_sample():
    truth = images(VariancePreserving())
    x = torch.randn(2, 2, 3, 4)
    ends = [Sampler(EVODiff("ddim", k), 8)(truth, x) for k in ("channel", "sample")]
    assert (ends[0] - ends[1]).abs().max() > 1e-4


def test_it_knows_the_anchor():
    """With anchor_weight = 1 - alpha, mean reversion is variance preservation of (x_0 - y) / noise."""
    process, y = MeanReverting(left=0.0), torch.randn(6, 3)
    end = Sampler(EVODiff("ddim"), 12)(Residual(process), 6, seed=0, anchor=y)
    shifted = Sampler(EVODiff("ddim"), 12)(Residual(process), 6, seed=0, anchor=y + 5)
    assert torch.isfinite(end).all() and not torch.allclose(shifted, end)
    (row, *_) = EVODiff("ddim").on(process).rows(process, TimeGrid.through([0.9, 0.5, 0.1]))
    assert row.c == pytest.approx(process.step(0.9, 0.5, 0.0).c)


def test_samples_at_different_rows_may_share_a_step():
    process = VariancePreserving()
    truth, sampler = images(process), Sampler(EVODiff(), grid=through(VariancePreserving(), 6))
    steps = list(sampler.steps(truth, torch.randn(2, 2, 3, 4)))
    for first, second in ((2, 4), (3, 5)):
        x = torch.cat([steps[first].x[:1], steps[second].x[1:]])
        owner = sampler.solver
        memory = {
            owner: tuple(
                torch.cat([a[:1], b[1:]])
                for a, b in zip(steps[first - 1].memory[owner], steps[second - 1].memory[owner], strict=True)
            )
        }
        both = sampler.step(truth, x, torch.tensor([first, second]), memory=memory).distribution.mean
        torch.testing.assert_close(both[:1], steps[first].distribution.mean[:1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(both[1:], steps[second].distribution.mean[1:], rtol=1e-9, atol=1e-9)


def test_wrong_use_is_refused():
    for wrong, match in (({"final": "heun"}, "final"), ({"coefficients": "batch"}, "coefficients")):
        with pytest.raises(ValueError, match=match):
            EVODiff(**wrong)
    truth, sampler = mixture(RectifiedFlow()), Sampler(EVODiff(), 6)
    with pytest.raises(ValueError, match="reads earlier steps"):
        sampler.step(truth, torch.randn(2, 3), 3)
    assert isinstance(sampler.program(truth.process)[0][1], Row)
    assert evodiff.LONG == 20 and DDIM().order == 1
