"""Solvers that know the data's Gaussian fit: its probability flow is exact, and the network only corrects it.

With kappa = sigma / alpha, y = u / alpha and the fit's denoiser m + S (y - m), S = L / (L + kappa^2) in its
principal axes, the probability flow dy / d log kappa = y - D is solved by

    y_s - m = G (y_t - m) + int_{kappa_s}^{kappa_t} sqrt((L + kappa_s^2) / (L + kappa^2)) R(kappa) d log kappa,

    G = sqrt((L + kappa_s^2) / (L + kappa_t^2)),        R = D - m - S (y - m)

R is what the fit does not know. L is a number in each of r axes, and one number in all other directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Gaussian,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    accumulate,
    combine,
)
from ornstein.denoisers import GaussianFit

from .exponential import bases, quadrature
from .stochastic import one_time

__all__ = ["GaussianExponential", "Teleport"]

_FARTHEST = 1e4  # where an integral towards infinite noise is cut: what lies beyond weighs 1e-4 of it


class Teleport(Solver):
    """A row along the probability flow of the data's Gaussian fit, in closed form and without a network call:
    analytical teleportation (Wang and Vastola 2024, 2412.09726). Put it before any solver's grid,

        TimeGrid.through([1.0, t], solver=Teleport(fit)) + TimeGrid.through([t, ..., 0.0])

    Exact for Gaussian data; else off by what the score at high noise differs from the fit's.

    Args:
        fit: of the data, from `GaussianFit.of(samples)`.

    Raises:
        ValueError: the process is not affine, or starts from a point, where there is no flow.
    """

    def __init__(self, fit: GaussianFit) -> None:
        self.fit = fit

    def check(self, process: Process) -> None:
        """Affine processes whose time 1 is not a point."""
        super().check(process)
        assert isinstance(process, AffineProcess)
        if process.is_point(1.0):
            raise ValueError(
                f"{type(self).__name__}: {type(process).__name__} ends in a point at time 1, from which no flow "
                "starts; use the process's own grid with DPMSolverPP() or Ancestral()"
            )

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """How much each direction grows, as `a`."""
        assert isinstance(process, AffineProcess)
        times = [one_time(self, r.t, r.s) for r in grid]
        return [Row(t, s, self.fit.growth(process, t, s), calls=False) for t, s in times]

    def law(
        self, x: Any, posterior: Posterior | None, row: Row, memory: Any, condition: Condition | None = None
    ) -> tuple[Distribution, Any]:
        """The moved point."""
        process, fit = self.process, self._fitted(x)
        assert isinstance(process, AffineProcess)
        before, after = process.at(row.t), process.at(row.s)
        u = process.add_anchor(x, -before.anchor, condition).to(fit.mean.dtype)
        u_s = fit.carried(u, before.alpha, after.alpha, row.a).to(x.dtype)
        return Gaussian(process.add_anchor(u_s, after.anchor, condition), 0.0, process.space), memory

    def _fitted(self, x: Tensor) -> GaussianFit:
        """The fit where the state is, in its dtype or float32: in fewer bits its axes are not orthonormal."""
        mean = self.fit.mean
        if mean.shape != x.shape[1:]:
            raise ValueError(
                f"fit: of data of shape {tuple(mean.shape)}, the state's is {tuple(x.shape[1:])}"
            )
        dtype = torch.promote_types(x.dtype, torch.float32)
        if mean.device != x.device or mean.dtype != dtype:
            self.fit = self.fit.to(x.new_empty(0, dtype=dtype))
        return self.fit


class GaussianExponential(Teleport):
    """Exponential multistep predictor-corrector whose linear part is the data's Gaussian fit (module docstring).

    R / rho is extrapolated as a polynomial in log kappa through the last `order` calls (predictor), and the step
    just made is integrated again with the new call among them (corrector), which costs no further one.

        rho = kappa^2 / (L / 2 + kappa^2)

    R falls like kappa^2 where the noise is below the data's own scale, so R / rho stays level and the last step is
    integrated exactly to kappa = 0. The first row starts at time 1 and is `Teleport`'s; the first call corrects it.
    With L = 0 this is the exponential Adams-Bashforth method of DPM-Solver++ (2211.01095), corrected as in UniPC
    (2302.04867); with one L for all directions it is of the Rosenbrock type of DPM-Solver-v3 (2310.13268).

    Args:
        fit: of the data, from `GaussianFit.of(samples)`. A step costs two products with its axes (r, D).
        order: of the predictor, 1 to 5.
        corrector: how many earlier calls the corrector reads besides the new one; default `order`, 0 for none.
        last: the highest order of the step to time 0, which is infinitely long in log kappa.

    Raises:
        ValueError: orders out of range, or as of `Teleport`.
    """

    def __init__(self, fit: GaussianFit, order: int = 4, corrector: int | None = None, last: int = 2) -> None:
        corrector = order if corrector is None else corrector
        for name, value, least in (("order", order, 1), ("corrector", corrector, 0), ("last", last, 1)):
            if value not in range(least, 6):
                raise ValueError(f"{name}: expected an integer from {least} to 5, got {value!r}")
        super().__init__(fit)
        self.order, self.corrector, self.last = order, corrector, last
        self.history = max(order, corrector) if corrector else order - 1

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """Numbers of the directions off the axes: `a` of u, `b` of D, and `past`: of what R takes off D for u, of m,
        and of the earlier R. `c` holds (3 + 2 k, r), what the axes add for m and for u and D of each call.
        """
        assert isinstance(process, AffineProcess)
        first, *others = super().rows(process, grid)
        if not others or any(r.s >= r.t for r in grid):
            raise ValueError("GaussianExponential: expected a grid of at least two rows that fall")
        plan = _Plan(self, process, [grid[0].t, *(r.s for r in grid)])
        return [first] + [Row(r.t, r.s, *plan.numbers(i)) for i, r in enumerate(others, 1)]

    def law(
        self, x: Any, posterior: Posterior | None, row: Row, memory: Any, condition: Condition | None = None
    ) -> tuple[Distribution, Any]:
        """Remembers of the last `history` calls, newest first, D less what the fit believes off the axes, and the
        coordinates of u and D along them.
        """
        if posterior is None:
            return super().law(x, posterior, row, memory, condition)
        fit, process = self._fitted(x), self.process
        assert isinstance(process, AffineProcess)
        before, after = process.at(row.t), process.at(row.s)
        u = process.add_anchor(x, -before.anchor, condition).flatten(1).to(fit.mean.dtype)
        d = posterior.mean.flatten(1).to(fit.mean.dtype)
        believed, offset, *past = row.past
        known, along = memory or ((), u.new_zeros(len(u), 0, len(fit.axes)))
        along = torch.cat([(u @ fit.axes.T).unsqueeze(1), (d @ fit.axes.T).unsqueeze(1), along], 1)
        mean = accumulate(combine(row.a, u, row.b, d), offset, fit.flat)
        for weight, earlier in zip(past, known, strict=False):
            mean = accumulate(mean, weight, earlier)
        of_mean, on = row.c.to(along).tensor_split((1,), -2)
        added = (on[..., : along.shape[1], :] * along).sum(1).add_(of_mean.squeeze(-2))
        u_s = torch.addmm(mean, added, fit.axes).reshape(x.shape).to(x.dtype)
        if self.history:
            now = accumulate(d, -believed, u, inplace=False)
            memory = (now, *known)[: self.history], along[:, : 2 * self.history]
        return Gaussian(process.add_anchor(u_s, after.anchor, condition), 0.0, process.space), memory


class _Plan:
    """The numbers of a whole grid, from its times; kappa is infinite or not at the first, and 0 or not at the last."""

    def __init__(self, solver: GaussianExponential, process: AffineProcess, times: Sequence[float]) -> None:
        self.solver, self.levels = solver, [math.exp(-process.half_log_snr(t)) for t in times]
        self.alphas = [process.at(t).alpha for t in times]
        lowest = min(v for v in self.levels if v > 0)
        self.spectrum = solver.fit.spectrum.clamp(min=(1e-3 * lowest) ** 2)  # L = 0 as a limit
        self.centre = solver.fit.centre[0].double().cpu()

    def numbers(self, i: int) -> tuple[float, float, tuple[float, ...], Tensor]:
        """Of the step that starts with the i-th call: the corrector's share grows along, the predictor's is added.

        In each direction u_s - alpha_s m = own (u - alpha m) + on_r[0] (D - m) + sum_j on_r[j] R_j.
        """
        depth, (alpha, alpha_s) = self.solver.history + 1, self.alphas[i : i + 2]
        growth = ((self.spectrum + self.levels[i + 1] ** 2) / (self.spectrum + self.levels[i] ** 2)).sqrt()
        on_r = alpha_s * (growth * self._corrector(i, depth) + self._predictor(i, depth))
        own = growth * alpha_s / alpha - on_r[0] * self._belief(i)
        rest = [float(v[-1]) for v in (own, *on_r)]
        centred = [1 - self.alphas[j] * float(self._belief(j)[-1]) for j in range(i - 1, 0, -1)]
        taken = sum(w * c for w, c in zip(rest[2:], centred, strict=False))  # of m, within the earlier R
        offset = alpha_s - rest[0] * alpha - rest[1] - taken
        axes = [_beyond(own), _beyond(on_r[0])]
        for j, weights in zip(range(i - 1, i - depth, -1), on_r[1:], strict=True):
            belief = self._belief(j) if j > 0 else torch.zeros_like(weights)
            axes += [-_beyond(belief * weights), _beyond(weights)]
        calls = [self.alphas[max(j, 0)] for j in range(i, i - depth, -1)]
        of_mean = sum(
            -alpha * on_u - on_d for alpha, on_u, on_d in zip(calls, axes[::2], axes[1::2], strict=True)
        )
        along = torch.stack([of_mean * self.centre, *axes]).to(self.solver.fit.axes)
        return rest[0], rest[1], (float(self._belief(i)[-1]), offset, *rest[2:]), along

    def _belief(self, i: int) -> Tensor:
        """S / alpha: what the fit's denoiser makes of u - alpha m."""
        return self.spectrum / (self.spectrum + self.levels[i] ** 2) / self.alphas[i]

    def _predictor(self, i: int, depth: int) -> Tensor:
        """Weights of R at call i and before in the step from there. (depth, r + 1)"""
        order = self.solver.last if self.levels[i + 1] == 0 else self.solver.order
        return self._weights(range(i, max(i - min(order, self.solver.order), 0), -1), i, depth)

    def _corrector(self, i: int, depth: int) -> Tensor:
        """What the new call changes in the step to it."""
        if not self.solver.corrector:
            return torch.zeros(depth, len(self.spectrum), dtype=torch.float64)
        calls = range(i, max(i - 1 - self.solver.corrector, 0), -1)
        again = self._weights(calls, i - 1, depth)
        before = self._predictor(i - 1, depth) if i > 1 else torch.zeros_like(again)
        return again - before.roll(1, 0)

    def _weights(self, calls: Sequence[int], start: int, depth: int) -> Tensor:
        """int sqrt((L + kappa_s^2) / (L + kappa^2)) rho(kappa) / rho(kappa_j) l_j(log kappa) d log kappa, per call j
        and direction, over the step that begins at levels[start]; l_j are Lagrange's polynomials.
        """
        end = self.levels[start + 1]
        high = math.log(min(self.levels[start], _FARTHEST * self.levels[1]))
        low = math.log(end) if end else math.log(self.levels[start]) - math.log(_FARTHEST)
        places, shares = quadrature()
        log_kappa = low + (high - low) * places
        square = (2 * log_kappa).exp()[:, None]
        shape = self._rho(square) * ((self.spectrum + end**2) / (self.spectrum + square)).sqrt()
        shape *= (high - low) * shares[:, None]
        points = torch.tensor([math.log(self.levels[j]) for j in calls], dtype=torch.float64)
        weights = torch.zeros(depth, len(self.spectrum), dtype=torch.float64)
        for row, (j, polynomial) in enumerate(zip(calls, bases(log_kappa, points), strict=True)):
            weights[row] = polynomial @ shape / self._rho(torch.tensor(self.levels[j] ** 2))
        return weights

    def _rho(self, square: Tensor) -> Tensor:
        return square / (0.5 * self.spectrum + square)


def _beyond(numbers: Tensor) -> Tensor:
    """Along the axes, beyond what holds off them."""
    return numbers[:-1] - numbers[-1]
