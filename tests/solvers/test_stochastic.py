"""The stochastic family: weak orders by exact recursions on a Gaussian, and each formula written out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.processes import EDM, RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import (
    DDIM,
    Churn,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    ExponentialAdams,
    Forward,
    Heun,
    ReverseDiffusion,
    SASolver,
    SDEDPMSolverPP,
    Stochastic,
    churned,
)
from ornstein.solvers.adams import moment

from ..exact import AFFINE, gaussian, mixture
from ..processes.test_anchor import MeanReverting, Residual
from .test_order import _slope

NAMES = ("vp-linear", "ve", "flow")
DATA = 0.6  # variance of the data in the exact recursions


def through(process, steps: int, high: float = -1.0, low: float = 2.0) -> TimeGrid:
    return TimeGrid.through(process.time_at(torch.linspace(high, low, steps + 1)).tolist())


def variance_after(solver, process, grid: TimeGrid, data: float = DATA) -> float:
    """The variance that rows which read earlier posterior means lead to, exactly: every state is a linear map of
    independent normals, the start and each step's noise."""
    rows = solver.on(process).rows(process, grid)
    level = process.at(grid[0].t)
    x = torch.zeros(len(rows) + 1)
    x[0] = math.sqrt(level.alpha**2 * data + level.sigma**2)
    memory: list[torch.Tensor] = []
    for i, row in enumerate(rows):
        at = process.at(row.t)
        d = at.alpha * data / (at.alpha**2 * data + at.sigma**2) * x
        x = row.a * x + row.b * d + sum((w * m for w, m in zip(row.past, memory, strict=False)), 0.0 * x)
        x[i + 1] += row.scale
        memory = [d, *memory]
    return float((x**2).sum())


WEAK = {
    "euler-maruyama": (EulerMaruyama(0.7), 1),
    "euler-maruyama-0.5": (EulerMaruyama(0.5), 1),
    "reverse-diffusion": (ReverseDiffusion(), 1),
    "sde-dpm++1": (SDEDPMSolverPP(1), 1),
    "sde-dpm++2-midpoint": (SDEDPMSolverPP(2), 2),
    "sde-dpm++2-taylor": (SDEDPMSolverPP(2, "taylor"), 2),
    "sde-dpm++2-half": (SDEDPMSolverPP(2, stochasticity=0.5), 2),
    "sde-dpm++3": (SDEDPMSolverPP(3), 2),  # as its docstring says
    "sa-2-0": (SASolver(2, 0), 2),
    "sa-1-2": (SASolver(1, 2), 2),
    "sa-3-3": (SASolver(3, 3), 2),
    "sa-level": (SASolver(1, 2, lambda level: 0.8 if 0 < level < 1.5 else 0.0), 2),
}


@pytest.mark.parametrize("solver", WEAK)
@pytest.mark.parametrize("name", NAMES)
def test_weak_order_on_a_gaussian(name, solver):
    """The error of the variance, free of sampling error, falls at the stated order, or faster before it settles."""
    process, (method, order), steps = AFFINE[name](), WEAK[solver], [64, 128, 256]
    errors = []
    for n in steps:
        grid = through(process, n)
        level = process.at(grid[-1].s)
        exact = level.alpha**2 * DATA + level.sigma**2
        errors.append(abs(variance_after(method, process, grid) - exact))
    assert _slope(errors, steps) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (SASolver(1, 0, 0.0), 1),
        (SASolver(2, 0, 0.0), 2),
        (SASolver(2, 2, 0.0), 2),
        (SASolver(3, 3, 0.0), 3),
        (SDEDPMSolverPP(2, "taylor", 0.0), 2),
        (SDEDPMSolverPP(3, stochasticity=0.0), 2),
        (EulerMaruyama(0.0), 1),
        (ReverseDiffusion(0.0), 1),
    ],
    ids=repr,
)
def test_deterministic_order_on_a_mixture(solver, order):
    process, steps = VariancePreserving(), [40, 80, 160]
    truth = mixture(process)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    fine = Sampler(SASolver(3, 3, 0.0), grid=through(process, 2000))(truth, x)
    ends = [Sampler(solver, grid=through(process, n))(truth, x) for n in steps]
    errors = [float((end - fine).norm(dim=1).mean()) for end in ends]
    assert _slope(errors, steps) == pytest.approx(order, abs=0.35)


def test_moments_are_integrals():
    """M_0 = 1 - e^-g and M_k = 1 - k/g M_{k-1}, g = (1 + c^2) h."""
    for h, c in ((0.3, 1.0), (1.4, 0.5), (6.0, 1.0), (2.0, 0.0)):
        g, before = (1 + c**2) * h, -math.expm1(-(1 + c**2) * h)
        for k in (1, 2):
            before = 1 - k / g * before
            span = SimpleNamespace(start=-0.2, end=h - 0.2, length=h)
            assert moment(span, c, k) == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("name", AFFINE)
def test_first_order_members_coincide(name):
    process = AFFINE[name]()
    truth, x = mixture(process), torch.randn(4, 3)
    for c in (0.4, 1.0):
        ends = [
            Sampler(s, 9)(truth, x, seed=3)
            for s in (Stochastic(c), SDEDPMSolverPP(1, stochasticity=c), SASolver(1, 0, c))
        ]
        for end in ends[1:]:
            torch.testing.assert_close(end, ends[0], rtol=1e-12, atol=1e-12)
    plain = Sampler(DDIM(), 9)(truth, x)
    torch.testing.assert_close(Sampler(SASolver(1, 0, 0.0), 9)(truth, x), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("order", "variant"), [(1, "midpoint"), (2, "midpoint"), (2, "taylor"), (3, "taylor")]
)
def test_without_noise_sde_dpm_solver_is_dpm_solver(order, variant):
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    ends = [
        Sampler(s, 9)(truth, x) for s in (SDEDPMSolverPP(order, variant, 0.0), DPMSolverPP(order, variant))
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_without_noise_sa_solver_is_exponential_adams(calls):
    """tau = 0 is the deterministic form: Adams-Bashforth, and with one call more in the corrector Adams-Moulton."""
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    for mend in (False, True):
        pair = SASolver(calls, calls + 1 if mend else 0, 0.0), ExponentialAdams(calls, corrector=mend)
        ends = [Sampler(s, 9)(truth, x) for s in pair]
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0])
def test_euler_maruyama_and_reverse_diffusion_are_their_formulas(w):
    """2011.13456, appendix E, in its own quantities: a step of the variance-preserving and -exploding SDEs."""
    z = torch.randn(4, 3)
    for process in (VariancePreserving(), VarianceExploding(0.01, 5.0)):
        truth, x = mixture(process), torch.randn(4, 3)
        t, s = 0.6, 0.55
        score = truth(x, t).score
        f, _, g = process.drift_and_diffusion(t)
        expected = x - (t - s) * (f * x - 0.5 * (1 + w**2) * g**2 * score) + w * g * math.sqrt(t - s) * z
        torch.testing.assert_close(
            _step(EulerMaruyama(w), truth, x, t, s, z), expected, rtol=1e-12, atol=1e-12
        )
        if isinstance(process, VariancePreserving):  # x_i = sqrt(1 - beta) x_{i-1} + sqrt(beta) z
            beta = 1 - (process.at(t).alpha / process.at(s).alpha) ** 2
            forward, spread = (math.sqrt(1 - beta) - 1) * x, math.sqrt(beta)
        else:  # x_i = x_{i-1} + sqrt(sigma_i^2 - sigma_{i-1}^2) z
            forward, spread = 0.0 * x, math.sqrt(process.at(t).sigma ** 2 - process.at(s).sigma ** 2)
        expected = x - forward + 0.5 * (1 + w**2) * spread**2 * score + w * spread * z
        torch.testing.assert_close(
            _step(ReverseDiffusion(w), truth, x, t, s, z), expected, rtol=1e-12, atol=1e-12
        )


def _step(solver, truth, x, t, s, z):
    (step,) = Sampler(solver, grid=TimeGrid.through([t, s])).steps(truth, x)
    return step.distribution.transform(None if step.distribution.deterministic else z)


def test_euler_maruyama_without_noise_is_eulers_rule():
    process = VariancePreserving("cosine")
    truth, x = mixture(process), torch.randn(4, 3)
    grid = through(process, 8)
    ends = [Sampler(s, grid=grid)(truth, x) for s in (EulerMaruyama(0.0), Euler())]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [EulerMaruyama(), ReverseDiffusion()], ids=repr)
def test_predictors_know_the_anchor(solver):
    """The reversal's y-term is that of the forward kernel: data constant in u stay constant in expectation."""
    process, y = MeanReverting(left=0.0), torch.randn(2, 3)
    (row,) = solver.on(process).rows(process, TimeGrid.through([0.5, 0.49]))
    scaled = MeanReverting(left=0.0).vp  # in (x - y) / noise this is variance preservation, whose y-term is 0
    (plain,) = solver.on(scaled).rows(scaled, TimeGrid.through([0.5, 0.49]))
    assert row.a == pytest.approx(plain.a) and row.scale == pytest.approx(0.2 * plain.scale)
    assert row.c == pytest.approx(1 - row.a - row.b, abs=1e-12)
    end = Sampler(solver, 40)(Residual(process), 2, seed=0, anchor=y)
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("form", ["midpoint", "taylor"])
def test_sde_dpm_solver_2_is_the_formula_written_out(form):
    """2211.01095, eq. 19, and the other form of k-diffusion's `dpmpp_2m_sde`, in their own quantities."""
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    grid, before = through(process, 6), None
    steps = Sampler(SDEDPMSolverPP(2, form), grid=grid).steps(truth, x, seed=7)
    for step in steps:
        t, s = process.at(step.t), process.at(step.s)
        h = float(process.half_log_snr(step.s) - process.half_log_snr(step.t))
        d, z = truth(x, step.t).mean, step.distribution.noise(step.noise)
        x = s.sigma / t.sigma * math.exp(-h) * x + s.alpha * -math.expm1(-2 * h) * d
        if before is not None:
            slope = (d - before[1]) / (before[0] / h)
            share = -0.5 * math.expm1(-2 * h) if form == "midpoint" else math.expm1(-2 * h) / (2 * h) + 1
            x = x + s.alpha * share * slope
        x = x + s.sigma * math.sqrt(-math.expm1(-2 * h)) * z
        torch.testing.assert_close(step.next, x, rtol=1e-12, atol=1e-12)
        before = h, d


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_sde_dpm_solver_3_is_k_diffusions_formula(eta):
    """`dpmpp_3m_sde` of k-diffusion in sigma alone: a variance-exploding process."""
    process = VarianceExploding(0.01, 50.0)
    truth, x = mixture(process), torch.randn(4, 3)
    steps = Sampler(SDEDPMSolverPP(3, stochasticity=math.sqrt(eta)), grid=through(process, 7)).steps(
        truth, x, seed=1
    )
    earlier: list[tuple[float, torch.Tensor]] = []
    for step in steps:
        sigma, target = process.at(step.t).sigma, process.at(step.s).sigma
        h, d = math.log(sigma / target), truth(x, step.t).mean
        g = h * (eta + 1)
        x = math.exp(-g) * x - math.expm1(-g) * d
        phi_2 = math.expm1(-g) / g + 1
        if len(earlier) == 1:
            x = x + phi_2 * (d - earlier[0][1]) / (earlier[0][0] / h)
        elif earlier:
            r_0, r_1 = earlier[0][0] / h, earlier[1][0] / h
            d_0, d_1 = (d - earlier[0][1]) / r_0, (earlier[0][1] - earlier[1][1]) / r_1
            first, second = d_0 + (d_0 - d_1) * r_0 / (r_0 + r_1), (d_0 - d_1) / (r_0 + r_1)
            x = x + phi_2 * first - (phi_2 / g - 0.5) * second
        if eta:
            spread = target * math.sqrt(-math.expm1(-2 * h * eta))
            x = x + spread * step.distribution.noise(step.noise)
        torch.testing.assert_close(step.next, x, rtol=1e-11, atol=1e-11)
        earlier = [(h, d), *earlier][:2]


@pytest.mark.parametrize("c", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("orders", [(1, 1), (2, 2), (3, 2), (3, 4), (1, 3)])
def test_sa_solver_is_predict_evaluate_correct_with_one_noise(orders, c):
    """2309.05019, algorithm 1, with the polynomials integrated by quadrature and the corrected state carried on."""
    process, (predictor, corrector) = VariancePreserving(), orders
    truth, x = mixture(process), torch.randn(4, 3)
    steps = Sampler(SASolver(predictor, corrector, c), grid=through(process, 6)).steps(truth, x, seed=2)
    calls: list[tuple[float, torch.Tensor]] = [(float(process.half_log_snr(through(process, 6)[0].t)), None)]
    state, owed = x, None
    for step in steps:
        at, to = process.at(step.t), process.at(step.s)
        here, there = (float(process.half_log_snr(v)) for v in (step.t, step.s))
        calls[0] = here, truth(step.x, step.t).mean
        state = owed(calls) if owed else state

        def integrated(nodes, here=here, there=there, at=at, to=to):
            g, h = 1 + c**2, there - here
            points, mass = _gauss(here, there)
            kernel = to.alpha * g * torch.exp(-g * (there - points)) * mass
            values = 0.0
            for j, (node, d) in enumerate(nodes):
                basis = torch.ones_like(points)
                for i, (other, _) in enumerate(nodes):
                    basis = basis * ((points - other) / (node - other) if i != j else 1.0)
                values = values + (kernel * basis).sum() * d
            return to.sigma / at.sigma * math.exp(-(c**2) * h), values

        law = step.distribution
        noise = (
            0.0
            if c == 0
            else to.sigma * math.sqrt(-math.expm1(-2 * c**2 * (there - here))) * law.noise(step.noise)
        )
        kept, drift = integrated(calls[:predictor])
        torch.testing.assert_close(step.next, kept * state + drift + noise, rtol=1e-10, atol=1e-10)

        def correct(known, state=state, noise=noise, integrated=integrated):
            kept, drift = integrated(known[:corrector])
            return kept * state + drift + noise

        owed = correct
        calls = [(there, None), *calls]


def _gauss(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    import numpy as np

    nodes, mass = np.polynomial.legendre.leggauss(40)
    half = 0.5 * (high - low)
    return torch.as_tensor(low + half * (nodes + 1)), torch.as_tensor(half * mass)


def test_sa_solvers_stochasticity_may_follow_the_level():
    process = VariancePreserving()
    truth = mixture(process)
    sampler = Sampler(SASolver(2, 2, lambda level: float(-1 < level < 1)), 12)
    steps = list(sampler.steps(truth, torch.randn(2, 3)))
    scales = [(process.half_log_snr(s.t), s.distribution.scale) for s in steps[:-1]]
    assert all((scale > 0) == (-1 < level < 1) for level, scale in scales)
    with pytest.raises(ValueError, match="stochasticity"):
        Sampler(SASolver(2, 2, lambda level: -1.0), 4).program(process)


def test_sampled_marginals_agree_with_the_recursion():
    process = RectifiedFlow()
    truth = gaussian(process)
    x = Sampler(SASolver(2, 2), 40)(truth, 20_000, seed=3)
    torch.testing.assert_close(x.mean(0), truth.means[0], atol=0.03, rtol=0)
    reference = truth.sample_data(200_000, torch.Generator().manual_seed(0)).T.cov()
    torch.testing.assert_close(x.T.cov(), reference, atol=0.04, rtol=0.04)


# --- EDM's churn


def test_without_churn_edm_is_heun():
    process = EDM()
    grid = TimeGrid.karras(6, process)
    assert churned(grid, process, churn=0.0) == grid
    assert churned(grid, process, low=90.0, high=99.0) == grid


@pytest.mark.parametrize("noise", [1.0, 1.003])
def test_edm_with_churn_is_algorithm_2_written_out(noise):
    process, churn, low, high = EDM(), 3.0, 0.05, 50.0
    truth, grid = mixture(process), TimeGrid.karras(7, EDM())
    x = 80 * torch.randn(4, 3)
    steps = list(
        Sampler(Heun(), grid=churned(grid, process, churn, low, high, noise)).steps(truth, x, seed=4)
    )
    rows = iter(steps)
    for t, s, _ in grid:
        sigma, target = 80 * t, 80 * s
        gamma = min(churn / 7, math.sqrt(2) - 1) if low <= sigma <= high else 0.0
        hat = sigma * (1 + gamma)
        if gamma:
            up = next(rows)
            z = up.distribution.noise(up.noise)
            x = x + math.sqrt(hat**2 - sigma**2) * noise * z
            torch.testing.assert_close(up.next, x, rtol=1e-12, atol=1e-11)
        slope = (x - truth(x, hat / 80).mean) / hat
        ahead = x + (target - hat) * slope
        step = next(rows)
        if target:
            slope = 0.5 * (slope + (ahead - truth(ahead, s).mean) / target)
            step = next(rows)
        x = x + (target - hat) * slope
        torch.testing.assert_close(step.next, x, rtol=1e-9, atol=1e-9)
    assert next(rows, None) is None
    assert steps[-1].evaluations == 2 * 7 - 1  # churn asks no network


def test_churn_goes_up_by_the_kernel_and_keeps_the_marginal():
    process = VariancePreserving()
    (plain,) = Forward().on(process).rows(process, TimeGrid.through([0.3, 0.4]))
    (row,) = Churn(1.5).on(process).rows(process, TimeGrid.through([0.3, 0.4]))
    assert (row.a, row.scale) == (plain.a, 1.5 * plain.scale)
    truth, n = gaussian(process), 20_000
    grid = churned(through(process, 60), process, churn=20.0, noise=1.0, low=0.0, high=9.0)
    start = process.at(grid[0].t)
    x = start.alpha * truth.sample_data(n, torch.Generator().manual_seed(0))
    x = x + start.sigma * torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    end, level = Sampler(Heun(), grid=grid)(truth, x, seed=Keyed(0, n)), process.at(grid[-1].s)
    data = truth.sample_data(200_000, torch.Generator().manual_seed(2))
    exact = level.alpha**2 * data.T.cov() + level.sigma**2 * torch.eye(3)
    torch.testing.assert_close(end.T.cov(), exact, atol=0.04, rtol=0.04)


def test_churn_never_leaves_the_process():
    process = RectifiedFlow()
    rows = churned(TimeGrid.log_snr(6, process), process, churn=99.0, low=0.0, high=math.inf)
    assert all(0 <= row.t <= 1 and 0 <= row.s <= 1 for row in rows)
    rows.check()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EulerMaruyama(-1), "stochasticity"),
        (lambda: SDEDPMSolverPP(4), "order"),
        (lambda: SDEDPMSolverPP(2, "exact"), "variant"),
        (lambda: SASolver(0), "predictor"),
        (lambda: SASolver(2, 5), "corrector"),
        (lambda: SASolver(2, 2, -1.0), "stochasticity"),
        (lambda: Churn(0.0), "noise"),
        (lambda: churned(TimeGrid.uniform(3), EDM(), churn=-1.0), "churn"),
    ],
)
def test_wrong_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    "solver", [EulerMaruyama(), ReverseDiffusion(), SDEDPMSolverPP(2), SASolver()], ids=repr
)
def test_rows_up_and_vector_times_are_refused(solver):
    process = VariancePreserving()
    with pytest.raises(ValueError, match="goes up"):
        Sampler(solver, grid=TimeGrid.through([0.2, 0.4])).program(process)
    with pytest.raises(ValueError, match=r"one time for all|vector time"):
        Sampler(solver, grid=TimeGrid([(torch.tensor([0.4, 0.5]), torch.tensor([0.2, 0.3]))])).program(
            process
        )
