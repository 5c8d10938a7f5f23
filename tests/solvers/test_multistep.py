"""Multistep methods against their papers' formulas, written out in the papers' own quantities."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import AffineProcess, Condition, Denoiser, Posterior, Sampler, TimeGrid
from ornstein.processes import RectifiedFlow, VariancePreserving
from ornstein.solvers import (
    DDIM,
    DEIS,
    DPMSolver,
    DPMSolverPP,
    Euler,
    ExponentialAdams,
    Heun,
    RungeKutta4,
    SASolver,
    UniPC,
)

from ..exact import AFFINE, Learned, gaussian, mixture

EXACT = {"rtol": 1e-12, "atol": 1e-12}
ALL = [
    DPMSolverPP(2, "taylor"),
    DPMSolverPP(3),
    ExponentialAdams(4),
    ExponentialAdams(3, 0.5),
    ExponentialAdams(3, math.inf),
    ExponentialAdams(2, 0.5, corrector=True),
    ExponentialAdams(3, lower_final=True),
    UniPC(3),
    DEIS(3),
    DEIS(4, "rho"),
    DPMSolver(3),
    DPMSolver(2, "data"),
    RungeKutta4(),
]


def uneven(process, steps: int = 7) -> TimeGrid:
    levels = [-1.5 + 3.5 * (i / steps) ** 1.3 for i in range(steps + 1)]
    return TimeGrid.through(process.time_at(torch.tensor(levels)).tolist())


def start() -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def numbers(process, t: float) -> tuple[float, float, float]:
    level = process.at(t)
    return level.alpha, level.sigma, math.log(level.alpha / level.sigma)


def test_3m_is_the_formula_of_the_authors_code():
    """multistep_dpm_solver_third_update of 2211.01095's repository."""
    process = VariancePreserving()
    truth, x, grid = mixture(process), start(), uneven(VariancePreserving())
    ours = Sampler(DPMSolverPP(3), grid=grid)(truth, x)
    past: list[tuple[float, torch.Tensor]] = []
    for t, s, _ in grid:
        (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
        past = [(lam_t, truth(x, t).mean), *past[:2]]
        h, d = lam_s - lam_t, past[0][1]
        phi_1 = math.expm1(-h)
        phi_2 = phi_1 / h + 1
        phi_3 = phi_2 / h - 0.5
        new = sigma_s / sigma_t * x - alpha_s * phi_1 * d
        if len(past) > 1:
            r_0 = (past[0][0] - past[1][0]) / h
            d_10 = (d - past[1][1]) / r_0
        if len(past) == 2:
            new = new - 0.5 * alpha_s * phi_1 * d_10
        if len(past) == 3:
            r_1 = (past[1][0] - past[2][0]) / h
            d_11 = (past[1][1] - past[2][1]) / r_1
            d_1 = d_10 + r_0 / (r_0 + r_1) * (d_10 - d_11)
            d_2 = (d_10 - d_11) / (r_0 + r_1)
            new = new + alpha_s * phi_2 * d_1 - alpha_s * phi_3 * d_2
        x = new
    torch.testing.assert_close(ours, x, **EXACT)


def test_the_taylor_form_of_2m_is_the_formula_written_out():
    """alpha_s ((1 - e^-h) D + (1 - (1 - e^-h) / h) (D - D_before) / r): MR Sampler's, and diffusers' "heun"."""
    process = VariancePreserving("cosine")
    truth, x, grid = mixture(process), start(), uneven(VariancePreserving("cosine"))
    ours = Sampler(DPMSolverPP(2, "taylor"), grid=grid)(truth, x)
    before = None
    for t, s, _ in grid:
        (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
        h, d = lam_s - lam_t, truth(x, t).mean
        gained = -math.expm1(-h)
        x = sigma_s / sigma_t * x + alpha_s * gained * d
        if before is not None:
            x = x + alpha_s * (1 - gained / h) * (d - before[1]) / (before[0] / h)
        before = h, d
    torch.testing.assert_close(ours, x, **EXACT)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc_is_the_algorithm_of_the_paper(p, variant):
    """2302.04867, algorithms 5 and 6: states corrected and predicted apart, coefficients by their linear system."""
    process = VariancePreserving()
    truth, x, grid = mixture(process), start(), uneven(VariancePreserving())
    ours = Sampler(UniPC(p, variant), grid=grid)(truth, x)
    past: list[tuple[float, torch.Tensor]] = []
    predicted, corrected, correct = x, x, None
    for t, s, _ in grid:
        (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
        d = truth(predicted, t).mean
        if correct is not None:
            corrected = correct(d)
        past = [(lam_t, d), *past[: p - 1]]
        h = lam_s - lam_t
        height = -h if variant == "bh1" else math.expm1(-h)
        base = sigma_s / sigma_t * corrected - alpha_s * math.expm1(-h) * d
        ratios = [(lam - lam_t) / h for lam, _ in past[1:]]
        slopes = [(m - d) / r for (_, m), r in zip(past[1:], ratios, strict=True)]
        predicted = base - alpha_s * height * combination(h, height, ratios, slopes)

        def correct(now, base=base, h=h, d=d, ratios=ratios, slopes=slopes, alpha_s=alpha_s, height=height):
            return base - alpha_s * height * combination(h, height, [*ratios, 1.0], [*slopes, now - d])

    torch.testing.assert_close(ours, predicted, **EXACT)


def combination(h: float, height: float, ratios: list[float], slopes: list[torch.Tensor]) -> torch.Tensor:
    if not ratios:
        return torch.zeros(())
    phi = math.expm1(-h) / -h - 1
    wanted = []
    for i in range(1, len(ratios) + 1):
        wanted.append(phi * math.factorial(i) / height)
        phi = phi / -h - 1 / math.factorial(i + 1)
    powers = torch.tensor([[r**k for r in ratios] for k in range(len(ratios))])
    shares = torch.linalg.solve(powers, torch.tensor(wanted)) if len(ratios) > 1 else torch.tensor([0.5])
    return sum(w * v for w, v in zip(shares, slopes, strict=True))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_deis_in_rho_is_the_linear_multistep_of_k_diffusion(order):
    """d(x / alpha) / d rho = noise, with polynomials in rho integrated term by term."""
    process = VariancePreserving()
    truth, x, grid = mixture(process), start(), uneven(VariancePreserving())
    ours = Sampler(DEIS(order, "rho"), grid=grid)(truth, x)
    past: list[tuple[float, torch.Tensor]] = []
    for t, s, _ in grid:
        (alpha_t, sigma_t, _), (alpha_s, sigma_s, _) = numbers(process, t), numbers(process, s)
        past = [(sigma_t / alpha_t, truth(x, t).noise), *past[: order - 1]]
        low, high = sigma_t / alpha_t, sigma_s / alpha_s
        powers = torch.tensor([[r**k for r, _ in past] for k in range(len(past))])
        integrals = torch.tensor([(high ** (k + 1) - low ** (k + 1)) / (k + 1) for k in range(len(past))])
        shares = torch.linalg.solve(powers, integrals)
        moved = sum(w * noise for w, (_, noise) in zip(shares, past, strict=True))
        x = alpha_s / alpha_t * x + alpha_s * moved
    torch.testing.assert_close(ours, x, rtol=1e-11, atol=1e-11)


def test_deis_in_time_integrates_its_polynomials():
    """tAB1 (2204.13902, eq. 15) with the integral over a very fine trapezoid."""
    process = VariancePreserving()
    truth, x, grid = mixture(process), start(), uneven(VariancePreserving(), 4)
    ours = Sampler(DEIS(2), grid=grid)(truth, x)
    past: list[tuple[float, torch.Tensor]] = []
    for t, s, _ in grid:
        (alpha_t, _, _), (alpha_s, _, _) = numbers(process, t), numbers(process, s)
        past = [(t, truth(x, t).noise), *past[:1]]
        tau = torch.linspace(t, s, 200_001)
        level = process.at(tau)
        rho = level.sigma / level.alpha
        moved = (rho[-1] - rho[0]) * past[0][1]
        if len(past) == 2:
            weight = torch.trapezoid((tau - t) / (past[1][0] - t), rho)
            moved = moved + weight * (past[1][1] - past[0][1])
        x = alpha_s / alpha_t * x + alpha_s * moved
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


def test_members_of_one_family_meet():
    process = VariancePreserving()
    truth, x, grid = mixture(process), start(), uneven(process)

    def end(solver):
        return Sampler(solver, grid=grid)(truth, x)

    torch.testing.assert_close(end(DPMSolverPP(2, "taylor")), end(ExponentialAdams(2)), **EXACT)
    torch.testing.assert_close(end(DPMSolverPP(3, "taylor")), end(ExponentialAdams(3)), **EXACT)
    torch.testing.assert_close(end(DEIS(3, "log-rho")), end(ExponentialAdams(3, math.inf)), **EXACT)
    torch.testing.assert_close(end(UniPC(3)), end(UniPC(3, "bh1")), rtol=0.1, atol=0.1)
    torch.testing.assert_close(end(ExponentialAdams(1, math.inf)), end(DDIM()), **EXACT)
    torch.testing.assert_close(end(ExponentialAdams(3)), end(SASolver(3, 0, 0.0)), **EXACT)
    pec = ExponentialAdams(3, corrector=True)
    torch.testing.assert_close(end(pec), end(SASolver(3, 4, 0.0)), **EXACT)


def test_the_rosenbrock_method_is_exact_where_the_data_are_the_gaussian_it_takes_out():
    """In one step of any length."""
    from ornstein.denoisers import GaussianDenoiser

    process = VariancePreserving()
    truth = GaussianDenoiser(torch.zeros(3), 0.7 * torch.eye(3), process)
    x = start()
    end = Sampler(ExponentialAdams(1, 0.7), grid=TimeGrid.through([0.9, 0.1]))(truth, x)
    torch.testing.assert_close(end, truth.flow(x, 0.9, 0.1), **EXACT)


@pytest.mark.parametrize("solver", ALL, ids=repr)
@pytest.mark.parametrize("name", AFFINE)
def test_a_run_between_ends_of_infinite_half_log_snr_is_near_the_flow(name, solver):
    process = AFFINE[name]()
    truth = gaussian(process)
    x = start() * process.at(1.0).sigma
    end = Sampler(solver, 40)(truth, x)
    exact = truth.flow(x, 1.0, 0.0)
    assert float((end - exact).norm(dim=1).mean() / exact.norm(dim=1).mean()) < 0.02


class Anchored(AffineProcess):
    """VP of the residual: x_t = alpha x_0 + (1 - alpha) y + sigma z."""

    anchored = True
    fields = frozenset({"anchor"})

    def schedule(self, t):
        alpha, _, sigma = VariancePreserving().schedule(t)
        return alpha, 1 - alpha, sigma


class Shifted(Denoiser):
    """A denoiser of u = x - anchor_weight y, told x."""

    fields = frozenset({"anchor"})

    def __init__(self, inner: Denoiser, process: AffineProcess) -> None:
        super().__init__()
        self.inner, self.process = inner, process

    def forward(self, x, t, condition=None, step=None):
        u = x - self.process.at(t).anchor * condition["anchor"]
        return Posterior(self.process, x, t, self.inner(u, t).mean, condition=condition)


@pytest.mark.parametrize("solver", [*ALL, Heun(), Euler()], ids=repr)
def test_an_anchor_is_seen_by_no_method(solver):
    """In u = x - anchor_weight y the runs are one run; Runge-Kutta methods see the slope of the weight, however."""
    plain, process = VariancePreserving(), Anchored()
    truth = mixture(plain)
    y, u = torch.full((4, 3), 0.7), start()
    grid = uneven(plain)
    first, last = grid[0].t, grid[-1].s
    end = Sampler(solver, grid=grid)(
        Shifted(truth, process), u + process.at(first).anchor * y, condition=Condition({"anchor": y})
    )
    end = end + (process.at(0.0).anchor - process.at(last).anchor) * y  # the readout took the rest at time 0
    exact = isinstance(solver, RungeKutta4 | Heun | Euler)
    tolerance = {"rtol": 0.05, "atol": 0.05} if exact else {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(end, Sampler(solver, grid=grid)(truth, u), **tolerance)


class Constant(Denoiser):
    """The same prediction everywhere."""

    def __init__(self, process: AffineProcess) -> None:
        super().__init__()
        self.process = process

    def forward(self, x, t, condition=None, step=None):
        return Posterior(self.process, x, t, torch.ones_like(x))


DATA = [DPMSolverPP(2), DPMSolverPP(3), ExponentialAdams(4), UniPC(3), DPMSolver(2, "data"), DPMSolver(3)]


@pytest.mark.parametrize("solver", DATA, ids=repr)
def test_what_is_added_to_a_state_is_kept(solver):
    """It decays with the noise, as in the exact flow: corrections and later stages are increments to it."""
    process = VariancePreserving()
    sampler, ends = Sampler(solver, grid=uneven(process, 3)), []
    for shift in (0.0, 1.0):
        for step in sampler.steps(Constant(process), start()):
            if step.index == 1:
                step.next, at = step.next + shift, step.s
        ends.append(step.next)
    kept = process.at(step.s).sigma / process.at(at).sigma
    torch.testing.assert_close(ends[1] - ends[0], torch.full_like(ends[0], kept), **EXACT)


@pytest.mark.parametrize(
    "solver", [UniPC(2), ExponentialAdams(3, 0.5), DEIS(3), DPMSolver(2), DPMSolverPP(3)], ids=repr
)
def test_samples_at_rows_of_their_own_go_the_same_way(solver):
    """`Sampler.step` with an index per sample gives what the loop gives."""
    process = VariancePreserving()
    truth, x = mixture(process), start()[:2]
    sampler = Sampler(solver, grid=uneven(process, 5))
    steps = list(sampler.steps(truth, x))
    early, late = steps[3], steps[4]
    memory = {
        solver: tuple(torch.stack([a[0], b[1]]) for a, b in zip(early._before, late._before, strict=False))
    }
    together = torch.stack([early.x[0], late.x[1]])
    step = sampler.step(truth, together, torch.tensor([3, 4]), memory=memory)
    expected = torch.stack([early.next[0], late.next[1]])
    torch.testing.assert_close(step.next, expected, **EXACT)


@pytest.mark.parametrize(
    "solver", [DPMSolverPP(2), ExponentialAdams(3, 0.5), UniPC(2), DEIS(2), DPMSolver(2)], ids=repr
)
def test_a_learned_schedule_has_gradients(solver):
    process = Learned()
    end = Sampler(solver, grid=uneven(process, 4))(gaussian(process), start(), grad=True)
    (gradient,) = torch.autograd.grad((end**2).mean(), process.pace)
    assert torch.isfinite(gradient) and gradient != 0


def test_the_order_falls_at_the_ends_and_when_asked():
    process = RectifiedFlow()
    rows = [row for _, row in Sampler(ExponentialAdams(3), 6).program(process)]
    assert [len(r.past) for r in rows] == [0, 0, 1, 2, 2, 0]
    rows = [row for _, row in Sampler(ExponentialAdams(3, lower_final=True), 6).program(process)]
    assert [len(r.past) for r in rows] == [0, 0, 1, 2, 1, 0]


def test_one_call_a_row():
    truth = gaussian(VariancePreserving())
    for solver, calls in ((UniPC(3), 7), (DEIS(3), 7), (DPMSolver(3), 19), (RungeKutta4(), 25)):
        *_, last = Sampler(solver, 7).steps(truth, 2)
        assert last.evaluations == calls, solver


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DPMSolverPP(4), "order: expected 1 to 3, got 4"),
        (lambda: DPMSolverPP(2, "midpiont"), "Did you mean 'midpoint'"),
        (lambda: UniPC(5), "order: expected 1 to 4"),
        (lambda: UniPC(2, "bh3"), "unknown variant 'bh3'"),
        (lambda: DEIS(2, "t"), "unknown clock 't'"),
        (lambda: ExponentialAdams(2, -1.0), "variance: expected a number from 0 to infinity"),
        (lambda: DPMSolver(4), "order: expected 1, 2 or 3"),
        (lambda: DPMSolver(2, "score"), "unknown prediction 'score'"),
    ],
)
def test_wrong_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_vector_times_are_refused():
    grid = TimeGrid([(torch.tensor([0.4, 0.5]), torch.tensor([0.2, 0.3]))])
    for solver in (UniPC(2), DPMSolver(2), RungeKutta4()):
        with pytest.raises(ValueError, match="one time for all"):
            Sampler(solver, grid=grid).program(VariancePreserving())


def test_a_solver_prints_as_it_was_made():
    assert repr(UniPC(2)) == "UniPC(order=2, variant='bh2', lower_final=False)"
    assert repr(DPMSolverPP(3)) == "DPMSolverPP(order=3, variant='midpoint', lower_final=False)"
