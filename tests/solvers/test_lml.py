"""LML: its limits, the dense formula, and the float32 trap of its released form."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Sampler
from ornstein.processes import RectifiedFlow, VariancePreserving
from ornstein.solvers import DDIM, LML, Ancestral, DPMSolverPP, Heun, SASolver, Stochastic
from ornstein.solvers.lml import turned

from ..exact import AFFINE, mixture
from ..processes.test_anchor import MeanReverting, Residual
from .test_stochastic import through

INNER = [DDIM(), DPMSolverPP(2), Stochastic(0.5), Ancestral(), SASolver(2, 2)]


def naive(g, e, damping):
    """g - e <e, g> / (damping + |e|^2), given the length of g again: the form that is released."""
    inner = (e * g).flatten(1).sum(1, keepdim=True) / (damping + (e * e).flatten(1).sum(1, keepdim=True))
    v = g - inner * e
    return v * (g.norm(dim=1, keepdim=True) / v.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("direction", ["increment", "noise"])
@pytest.mark.parametrize("inner", INNER, ids=repr)
@pytest.mark.parametrize("name", ["vp-linear", "flow"])
def test_without_momentum_and_with_infinite_damping_it_is_its_inner_solver(name, inner, direction):
    """(a) and (b), bit for bit the same noise."""
    truth, grid = mixture(AFFINE[name]()), through(AFFINE[name](), 7)
    x = torch.randn(4, 3)
    plain = Sampler(inner, grid=grid)(truth, x, seed=2)
    for wrapped in (LML(inner, 1e-9, 0.0, direction), LML(inner, 1e14, 0.4, direction)):
        torch.testing.assert_close(Sampler(wrapped, grid=grid)(truth, x, seed=2), plain, rtol=1e-9, atol=1e-9)


def test_little_damping_leaves_what_is_across_e():
    """(c), and (d) the length is that of g."""
    g, e = torch.randn(5, 4, 4), torch.randn(5, 4, 4)
    v = turned(g, e, 1e-13, relative=True)
    torch.testing.assert_close((v * e).flatten(1).sum(1), torch.zeros(5), atol=1e-10, rtol=0)
    for damping in (1e-3, 1.0, 50.0):
        for relative in (True, False):
            v = turned(g, e, damping, relative)
            torch.testing.assert_close(v.flatten(1).norm(dim=1), g.flatten(1).norm(dim=1))


@pytest.mark.parametrize("damping", [1e-2, 1.0, 30.0])
def test_it_is_the_dense_inverse(damping):
    """(e) (damping + e e^T)^-1 g, with the length of g."""
    g, e = torch.randn(5, 6), torch.randn(5, 6)
    dense = torch.linalg.solve(damping * torch.eye(6) + e[:, :, None] * e[:, None], g[..., None])[..., 0]
    dense = dense * (g.norm(dim=1, keepdim=True) / dense.norm(dim=1, keepdim=True))
    torch.testing.assert_close(turned(g, e, damping, relative=False), dense, rtol=1e-10, atol=1e-10)
    square = (e * e).sum(1)
    for i in range(5):
        relative = turned(g[i : i + 1], e[i : i + 1], damping / float(square[i]), relative=True)
        torch.testing.assert_close(relative, dense[i : i + 1], rtol=1e-10, atol=1e-10)


def test_the_float32_trap():
    """(f) the released form agrees in float64, and in float32 is mostly rounding noise at the published damping.

    momentum = 0, so that e = g and the exact answer is g itself; d = 3072 is CIFAR-10.
    """
    g = torch.randn(8, 3072, generator=torch.Generator().manual_seed(0))
    for damping, wrong in ((5e-3, 0.005), (8e-4, 0.05), (5e-5, 0.5)):
        stable = turned(g, g, damping, relative=False)
        torch.testing.assert_close(stable, g, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(naive(g, g, damping), g, rtol=1e-5, atol=1e-6)
        single = g.float()
        torch.testing.assert_close(
            turned(single, single, damping, relative=False), single, rtol=1e-5, atol=1e-6
        )
        off = (naive(single, single, damping) - single).norm(dim=1) / single.norm(dim=1)
        off = off.nan_to_num(1.0)  # nothing but rounding is left, or nothing at all
        assert float(off.median()) > wrong


def test_momentum_mixes_the_step_before():
    """e = momentum g_before + (1 - momentum) g with g_before the raw direction, not an average of averages."""
    process = VariancePreserving()
    truth, x, grid = mixture(process), torch.randn(4, 3), through(VariancePreserving(), 5)
    inner = DPMSolverPP(2)
    steps = Sampler(LML(inner, 0.7, 0.3), grid=grid).steps(truth, x)
    rows, before, memory = inner.on(process).rows(process, grid), None, []
    for step, row in zip(steps, rows, strict=True):
        d = step.posterior.mean
        g = row.b * d + sum((w * m for w, m in zip(row.past, memory, strict=False)), 0.0 * d)
        e = g if before is None else 0.3 * before + 0.7 * g
        torch.testing.assert_close(
            step.next, row.a * step.x + turned(g, e, 0.7, True), rtol=1e-11, atol=1e-11
        )
        before, memory = g, [d]


def test_the_noise_direction_leaves_the_predicted_data():
    """The released DDIM: x_s = alpha_s D + sigma_s v with v the turned noise."""
    process = VariancePreserving()
    truth, x, grid = mixture(process), torch.randn(4, 3), through(VariancePreserving(), 5)
    before = None
    for step in Sampler(LML(DDIM(), 0.7, 0.3, "noise"), grid=grid).steps(truth, x):
        to, g = process.at(step.s), step.posterior.noise
        e = g if before is None else 0.3 * before + 0.7 * g
        expected = to.alpha * step.posterior.mean + to.sigma * turned(g, e, 0.7, True)
        torch.testing.assert_close(step.next, expected, rtol=1e-10, atol=1e-10)
        before = g


def test_it_acts_in_the_shifted_variable():
    process, y = MeanReverting(left=0.0), torch.randn(6, 3)
    shift = 5.0
    solver = LML(DPMSolverPP(2), 0.5, 0.3, "noise")
    end = Sampler(solver, 9)(Residual(process), 6, seed=0, anchor=y)
    moved = Sampler(solver, 9)(Residual(process), 6, seed=0, anchor=y + shift)
    torch.testing.assert_close(moved, end + shift, rtol=1e-8, atol=1e-8)


def test_a_batch_is_its_rows_and_branches_carry_their_memory():
    truth = mixture(RectifiedFlow())
    sampler = Sampler(LML(DPMSolverPP(2), 1.0, 0.3), 6)
    torch.testing.assert_close(sampler(truth, 3)[:1], sampler(truth, 1), rtol=1e-10, atol=1e-10)
    chosen = torch.tensor([2, 2, 0])
    plain = sampler(truth, 3)
    run = sampler.steps(truth, 3)
    for step in run:
        if step.index == 2:
            step.select(chosen)
    torch.testing.assert_close(step.next, plain[chosen], rtol=1e-10, atol=1e-10)


def test_wrong_use_is_refused():
    for wrong, match in (
        ({"damping": 0.0}, "damping"), ({"momentum": 1.0}, "momentum"), ({"direction": "score"}, "direction"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            LML(DDIM(), **wrong)
    with pytest.raises(ValueError, match="one row a step"):
        Sampler(LML(Heun()), 4).program(VariancePreserving())
