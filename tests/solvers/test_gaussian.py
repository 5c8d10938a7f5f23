"""Teleportation, and the exponential multistep method whose linear part is the data's Gaussian fit."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scipy.integrate import quad

from ornstein.core import Sampler, TimeGrid
from ornstein.denoisers import GaussianDenoiser, GaussianFit, MixtureDenoiser
from ornstein.processes import BrownianBridge, RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM, DPMSolverPP, GaussianExponential, Heun, RungeKutta4, Teleport, best

from ..exact import AFFINE, covariance, gaussian, mixture


def exact_fit(truth: MixtureDenoiser, rank: int = 3) -> GaussianFit:
    """The mean and the covariance of a mixture, in principal axes."""
    weights = truth.log_weights.exp()
    mean = weights @ truth.means
    gap = truth.means - mean
    within = (truth.vectors * truth.values.unsqueeze(1)) @ truth.vectors.mT
    total = torch.einsum("k,kij->ij", weights, within) + torch.einsum("k,ki,kj->ij", weights, gap, gap)
    values, axes = torch.linalg.eigh(total)
    kept = values.flip(0)[:rank]
    rest = float(values.flip(0)[rank:].mean()) if rank < len(values) else 0.0
    return GaussianFit(mean, axes.T.flip(0)[:rank].contiguous(), kept, rest)


def through(process, levels: list[float]) -> TimeGrid:
    return TimeGrid.through([process.time_at(-math.log(v)) if v else 0.0 for v in levels])


def start(process, n: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0)) * process.at(1.0).sigma


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("skip", [0.9, 0.4, 0.05])
def test_on_gaussian_data_teleportation_is_exact_at_any_skip(name, skip):
    process = AFFINE[name]()
    truth, x = gaussian(process), start(process)
    grid = TimeGrid.through([1.0, skip], solver=Teleport(exact_fit(truth)))
    fine = TimeGrid.through(torch.linspace(skip, 0.02, 200).tolist())
    end = Sampler(RungeKutta4(), grid=grid + fine)(truth, x)
    torch.testing.assert_close(end, truth.flow(x, 1.0, 0.02), rtol=1e-4, atol=1e-5)
    first, *_ = Sampler(DDIM(), grid=grid).steps(truth, x)
    torch.testing.assert_close(first.next, truth.flow(x, 1.0, skip))
    assert first.evaluations == 0


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("calls", [2, 3, 9])
def test_on_gaussian_data_the_best_sampler_is_exact_at_any_number_of_calls(name, calls):
    process = AFFINE[name]()
    truth, x = gaussian(process), start(process)
    sampler = best(calls, process, exact_fit(truth))
    torch.testing.assert_close(sampler(truth, x), truth.flow(x, 1.0, 0.0), rtol=1e-5, atol=1e-5)
    *_, last = sampler.steps(truth, x)
    assert last.evaluations == calls


def test_without_variance_it_is_exponential_adams_bashforth_in_the_posterior_mean():
    """DPM-Solver++(2M) with the exact weights of an uneven grid, written out; L = 0 is taken as a limit."""
    process = VariancePreserving()
    truth, x = mixture(process, labels=False), start(process)
    nothing = GaussianFit.isotropic(torch.zeros(3, dtype=torch.float64), 0.0)
    grid = through(process, [50.0, 5.0, 2.0, 0.6, 0.3])
    ours = Sampler(GaussianExponential(nothing, order=2, corrector=0), grid=grid)(truth, x)
    log = lambda t: -process.half_log_snr(t)  # noqa: E731
    first = process.at(grid[0].t), process.at(grid[0].s)
    x, before = x * first[1].sigma / first[0].sigma, None
    for row in grid[1:]:
        a, b, d = log(row.t), log(row.s), truth(x, row.t).mean
        alone = 1 - math.exp(b - a)  # int e^{b - l} dl
        x = x / process.at(row.t).alpha * math.exp(b - a) + alone * d
        if before is not None:
            slope = (a - b) - alone  # int e^{b - l} (a - l) dl, up to the divided difference
            x = x + slope * (d - before[1]) / (before[0] - a)
        x, before = x * process.at(row.s).alpha, (a, d)
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("name", ["vp-linear", "flow"])
def test_it_is_the_formula_written_out(name, last):
    """Module docstring, order 2 with corrector 2, dense matrices and adaptive quadrature."""
    process = AFFINE[name]()
    truth, x = mixture(process, labels=False), start(process, 3)
    fit = exact_fit(truth)
    levels = [process.at(0.95).sigma / process.at(0.95).alpha, 2.0, 0.9, 0.5, 0.2, 0.0]
    grid = through(process, levels)
    ours = Sampler(GaussianExponential(fit, order=2, corrector=2, last=last), grid=grid)(truth, x)

    def weights(nodes: list[float], high: float, low: float) -> list[torch.Tensor]:
        rho = lambda k, v: k * k / (v / 2 + k * k)  # noqa: E731

        def one(j: int, v: float) -> float:
            def integrand(log_k: float) -> float:
                k = math.exp(log_k)
                other = [math.log(n) for i, n in enumerate(nodes) if i != j]
                line = math.prod((log_k - o) / (math.log(nodes[j]) - o) for o in other)
                return math.sqrt((v + low**2) / (v + k * k)) * rho(k, v) / rho(nodes[j], v) * line

            return quad(integrand, math.log(low or high * 1e-7), math.log(high), epsabs=1e-13, limit=200)[0]

        return [torch.tensor([one(j, float(v)) for v in fit.variances]) for j in range(len(nodes))]

    grow = lambda a, b: ((fit.variances + b * b) / (fit.variances + a * a)).sqrt()  # noqa: E731
    c = (x / process.at(grid[0].t).alpha - fit.mean) @ fit.axes.T
    behind, c, found = c, c * grow(levels[0], levels[1]), []
    for i, level in enumerate(levels[1:-1], 1):
        alpha, t = process.at(grid[i].t).alpha, grid[i].t
        d = (truth(alpha * (c @ fit.axes + fit.mean), t).mean - fit.mean) @ fit.axes.T
        found.insert(0, (level, d - fit.variances / (fit.variances + level**2) * c))
        seen = found[:3]
        again = weights([k for k, _ in seen], levels[i - 1], level)
        c = behind * grow(levels[i - 1], level) + sum(w * r for w, (_, r) in zip(again, seen, strict=True))
        behind = c
        nodes = found[: 2 if levels[i + 1] else last]
        ahead = weights([k for k, _ in nodes], level, levels[i + 1])
        c = c * grow(level, levels[i + 1]) + sum(w * r for w, (_, r) in zip(ahead, nodes, strict=True))
    torch.testing.assert_close(ours, c @ fit.axes + fit.mean, rtol=1e-6, atol=1e-6)


def falling(process, n: int) -> TimeGrid:
    """From a noise at which low orders to start with cost nothing, to one at which the mixture shows."""
    return through(process, torch.linspace(math.log(3e3), math.log(0.3), n + 1).exp().tolist())


@functools.cache
def solved() -> tuple[MixtureDenoiser, torch.Tensor, torch.Tensor]:
    truth = mixture(VarianceExploding(0.01, 4e3), labels=False)
    x = 3e3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    return truth, x, Sampler(RungeKutta4(), grid=falling(truth.process, 700))(truth, x)


@pytest.mark.parametrize(("order", "corrector"), [(1, 0), (2, 0), (3, 0), (4, 0), (2, 2), (3, 3)])
def test_order_on_a_mixture(order, corrector):
    """And the corrector, which reads one call more than the predictor, adds one."""
    truth, x, fine = solved()
    errors = [
        Sampler(GaussianExponential(exact_fit(truth), order, corrector), grid=falling(truth.process, n))(
            truth, x
        )
        - fine
        for n in (160, 240)
    ]
    before, after = (float(e.norm(dim=1).median()) for e in errors)
    assert math.log(before / after) / math.log(1.5) > order + bool(corrector) - 0.3


def test_shift_scale_and_rotation_of_the_data_shift_scale_and_rotate_the_samples():
    process = RectifiedFlow()
    truth = mixture(process, labels=False)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    shift, size = torch.tensor([1.0, -2.0, 0.5]), 3.0
    dense = (truth.vectors * truth.values.unsqueeze(1)) @ truth.vectors.mT
    other = MixtureDenoiser(
        truth.log_weights.exp(), size * truth.means @ turn.T + shift, size**2 * turn @ dense @ turn.T, process
    )
    y = start(process, 6) * 40.0  # x / alpha at sigma / alpha = 40
    here, there = (process.time_at(-math.log(v)) for v in (40.0, 40.0 * size))

    def end(model: MixtureDenoiser, y: torch.Tensor, t: float, calls: int = 6) -> torch.Tensor:
        plan = best(calls, process, exact_fit(model))
        grid = TimeGrid.through([t, *(r.s for r in plan.grid)])
        return Sampler(plan.solver, grid=grid)(model, y * process.at(t).alpha)

    moved = end(other, size * y @ turn.T + shift, there)
    torch.testing.assert_close(moved, size * end(truth, y, here) @ turn.T + shift, rtol=1e-6, atol=1e-6)


def test_a_low_rank_is_a_full_rank_with_equal_variances():
    process = VariancePreserving("cosine")
    truth, x = mixture(process, labels=False), start(process)
    low = exact_fit(truth, 1)
    eye = torch.eye(3, dtype=torch.float64)
    values, axes = torch.linalg.eigh(low.stretched(eye, low.spectrum))
    whole = GaussianFit(low.mean, axes.T.contiguous(), values)
    ends = [best(7, process, fit)(truth, x) for fit in (low, whole)]
    torch.testing.assert_close(ends[0], ends[1])


def test_it_beats_dpm_solver_at_equal_calls():
    process = VarianceExploding(0.002, 80.0)
    truth, x = mixture(process, labels=False), start(process, 200)
    levels = torch.linspace(math.log(79.9), math.log(1e-4), 400).exp().tolist()
    fine = Sampler(RungeKutta4(), grid=TimeGrid.through([1.0, *(r.s for r in through(process, levels))]))(
        truth, x
    )
    error = lambda sampler: float((sampler(truth, x) - fine).norm(dim=1).median())  # noqa: E731
    assert error(best(8, process, exact_fit(truth))) < 0.2 * error(Sampler(DPMSolverPP(2), 8))


def test_rows_may_differ_between_samples_once_the_first_is_behind():
    process = VariancePreserving()
    truth, x = mixture(process, labels=False), start(process, 2)
    sampler = best(5, process, exact_fit(truth))
    steps = list(sampler.steps(truth, x))
    at = torch.tensor([3, 2])
    mixed = torch.stack([steps[3].x[0], steps[2].x[1]])
    owner = sampler.solver
    (known, along), (fewer, shorter) = steps[2].memory[owner], steps[1].memory[owner]
    fewer = (*fewer, torch.zeros_like(fewer[0]))
    shorter = torch.cat([shorter, torch.zeros_like(shorter[:, :2])], 1)
    pairs = zip(known, fewer, strict=True)
    memory = {
        owner: (tuple(torch.stack([a[0], b[1]]) for a, b in pairs), torch.stack([along[0], shorter[1]]))
    }
    law = sampler.step(truth, mixed, at, memory=memory).distribution
    torch.testing.assert_close(law.mean[1], steps[2].next[1])


def test_single_precision_states_stay_so():
    process = RectifiedFlow()
    fit = exact_fit(mixture(process, labels=False))
    truth = mixture(process, labels=False).float()
    assert best(4, process, fit)(truth, start(process).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: best(1, RectifiedFlow(), f), "calls: expected an integer of at least 2"),
        (lambda f: best(2.5, RectifiedFlow(), f), "calls: expected an integer"),
        (lambda f: GaussianExponential(f, order=6), "order: expected"),
        (lambda f: GaussianExponential(f, corrector=-1), "corrector: expected"),
        (lambda f: GaussianExponential(f).on(BrownianBridge()), "ends in a point"),
        (lambda f: Teleport(f).on(BrownianBridge()), "ends in a point"),
        (lambda f: GaussianExponential(f).rows(RectifiedFlow(), TimeGrid.through([0.5, 1.0, 0.2])), "fall"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(exact_fit(gaussian(RectifiedFlow())))


def test_a_fit_of_other_data_is_refused():
    process = RectifiedFlow()
    fit = GaussianFit.isotropic(torch.zeros(4, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match=r"fit: of data of shape \(4,\), the state's is \(3,\)"):
        best(4, process, fit)(gaussian(process), start(process))


def test_teleporting_before_heun_needs_fewer_calls_for_the_same_error():
    """A Gaussian is the whole score here, so all of Heun's error comes from where it still has to integrate."""
    process = VariancePreserving()
    truth = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), covariance(3), process)
    x, fit = start(process), exact_fit(truth)
    exact = truth.flow(x, 1.0, 0.0)
    plain = TimeGrid.through([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    skipped = TimeGrid.through([1.0, 0.4], solver=Teleport(fit)) + plain[3:]
    errors = [float((Sampler(Heun(), grid=g)(truth, x) - exact).norm()) for g in (plain, skipped)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("dtype, ulp", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("solver", [Teleport, GaussianExponential])
def test_states_in_half_precision_are_moved_by_the_fit_in_float32(solver, dtype, ulp) -> None:
    """Two steps differ by the rounding of their ends; the fit's axes rounded so are not orthonormal."""
    data = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 2, 16)
    fit, process = GaussianFit.of(data, 8), VariancePreserving()
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    run = Sampler(solver(fit), grid=TimeGrid.through([1.0, 0.8, 0.5]))
    exact, found = (run(fit.denoiser(process), start) for start in (x.float(), x))
    assert found.dtype == dtype
    assert float((found.float() - exact).abs().max() / exact.abs().max()) < 4 * ulp
