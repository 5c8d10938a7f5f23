"""Time grids found by search: the quadratic one, a shortest path through candidate times, and gradient descent.

`evolution` has the search that needs neither costs that add up nor gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Posterior,
    Sampler,
    Solver,
    Step,
    Time,
    TimeGrid,
    Tree,
)

__all__ = ["descended", "path_costs", "quadratic", "shortest"]


def quadratic(steps: int, first: float = 1.0) -> TimeGrid:
    """t_i = first (1 - i / steps)^2: DDIM's quadratic spacing (2010.02502, appendix D)."""
    if steps < 1:
        raise ValueError(f"steps: expected an integer of at least 1, got {steps!r}")
    return TimeGrid.through([first * (1 - i / steps) ** 2 for i in range(steps + 1)])


def shortest(times: Sequence[float], costs: Tensor, steps: int) -> TimeGrid:
    """The grid of `steps` rows from the first time to the last with the least sum of costs.

    Dynamic programming over candidate times (Watson et al. 2021, 2106.03802): exact for costs that add up, in
    O(steps N^2).

    Args:
        times: (N,) candidates, in the order in which they are passed.
        costs: (N, N); entry [i, j] is that of a row from times[i] to times[j], read for i < j only.
        steps: 1 to N - 1.

    Raises:
        ValueError: shapes that do not fit, or more steps than there are candidates.
    """
    n = len(times)
    if costs.shape != (n, n):
        raise ValueError(f"costs: expected shape {(n, n)} for {n} times, got {tuple(costs.shape)}")
    if not 1 <= steps < n:
        raise ValueError(f"steps: expected 1 to {n - 1} for {n} times, got {steps!r}")
    allowed = torch.ones(n, n, dtype=torch.bool, device=costs.device).triu(1)
    costs = costs.double().masked_fill(~allowed, math.inf)
    best, came = costs[0], []  # of reaching each time in one row
    for _ in range(steps - 1):
        best, before = (best.unsqueeze(1) + costs).min(0)
        came.append(before)
    path = [n - 1]
    for before in reversed(came):
        path.append(int(before[path[-1]]))
    return TimeGrid.through([times[i] for i in (0, *reversed(path))])


@torch.no_grad()
def path_costs(denoiser: Denoiser, solver: Solver, x: Tree, times: Sequence[float], **fields: Any) -> Tensor:
    """Costs for `shortest`: what one DDIM step from times[i] to times[j] misses of the flow, learned from states.

    The flow is one run of `solver` through all the times, one call each. Entry [i, j] is the mean squared gap in
    units of the state's mean square at j, which the flow of a Gaussian keeps. That the errors of rows add up is
    an assumption, not a law.

    Args:
        denoiser: of an affine process without an anchor, and of a tensor state.
        solver: one call a row, such as `ExponentialAdams(3)`.
        x: states at times[0], (B, ...).
        times: (N,), falling.
        **fields: condition fields.
    """
    process = denoiser.process
    if not isinstance(process, AffineProcess) or process.anchored:
        raise ValueError(
            f"path_costs: needs an affine process without an anchor, got {type(process).__name__}"
        )
    steps = list(Sampler(solver, grid=TimeGrid.through(times)).steps(denoiser, x, **fields))
    if len(steps) != len(times) - 1:
        raise ValueError(
            f"solver: expected one call a row, {solver!r} takes {len(steps)} for {len(times) - 1}"
        )
    states = [step.x for step in steps] + [steps[-1].next]
    costs = states[0].new_full((len(times), len(times)), math.inf, dtype=torch.float64)
    for i, step in enumerate(steps):
        assert step.posterior is not None
        for j in range(i + 1, len(times)):
            numbers = process.step(times[i], times[j], 0.0)
            gap = numbers.a * step.x + numbers.b * step.posterior.mean - states[j]
            costs[i, j] = (
                gap.square().mean() / states[j].square().mean()
            )  # on its device: no wait in the loop
    return costs.cpu()


def descended(
    denoiser: Denoiser,
    solver: Solver,
    x: Tree,
    loss: Callable[[Tree], Tensor],
    grid: TimeGrid,
    iterations: int = 100,
    rate: float = 0.03,
    **fields: Any,
) -> TimeGrid:
    """A grid whose inner times follow the gradient of a loss of the samples, by Adam on log steps of half-log-SNR.

    Args:
        denoiser: differentiable, of an affine process.
        solver: any that takes learned schedules, such as `DDIM()` or `DPMSolverPP()`.
        x: states at the grid's first time.
        loss: samples -> number, smaller is better, such as the squared gap to a fine run from the same x.
        grid: where to begin; its first and last time stay.
        iterations: steps of Adam; each is a run of the sampler and back.
        rate: of learning.
        **fields: condition fields.

    Returns:
        The best grid that was met, the first included.
    """
    process = denoiser.process
    if not isinstance(process, AffineProcess):
        raise ValueError(f"descended: needs an affine process, got {type(process).__name__}")
    if len(grid) < 2:
        raise ValueError("grid: a grid of one row has no inner time to move")
    retimed = Retimed(denoiser, process, grid)
    sampler = Sampler(solver, grid=TimeGrid.uniform(len(grid)))
    paces = list(retimed.process.parameters(recurse=False))
    optimizer = torch.optim.Adam(paces, lr=rate)
    best, found = math.inf, grid
    for _ in range(iterations + 1):
        value = loss(sampler(retimed, x, grad=True, **fields))
        if value.item() < best:
            best, found = value.item(), TimeGrid.through(retimed.process.times().tolist())
        value.backward(inputs=paces)  # the model's own parameters get no gradient
        optimizer.step()
        optimizer.zero_grad()
    return found


class Rewound(AffineProcess):
    """A process whose time n/N, (n-1)/N, ..., 0 is the n-th of some learned times of another; linear between."""

    def __init__(self, inner: AffineProcess, grid: TimeGrid) -> None:
        super().__init__()
        self.inner, self.ends = inner, (grid[0].t, grid[-1].s)
        self.anchored, self.fields = inner.anchored, inner.fields
        levels = inner.half_log_snr(torch.tensor([row.t for row in grid[1:]], dtype=torch.float64))
        self.first = nn.Parameter(levels[:1].clone())
        self.log_steps = nn.Parameter(levels.diff().log())

    def times(self) -> Tensor:
        """(N + 1,), from first to last."""
        levels = torch.cat([self.first, self.first + self.log_steps.exp().cumsum(0)])
        with torch.no_grad():
            at = self.inner.time_at(levels).clamp(1e-9, 1 - 1e-9)
            level, slope = self.inner.at(at), self.inner.slope(at)
            speed = slope.alpha / level.alpha - slope.sigma / level.sigma
        free = at + (levels - levels.detach()) / speed  # the inverse function's derivative
        first, last = (torch.tensor([v], dtype=torch.float64) for v in self.ends)
        return torch.cat([first, free, last])

    def inner_time(self, t: Tensor) -> Tensor:
        """The other process's time."""
        times = self.times().flip(0)
        position = t * (len(times) - 1)
        low = position.detach().floor().clamp(max=len(times) - 2).long()
        return torch.lerp(times[low], times[low + 1], position - low)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The other's, at its time."""
        return self.inner.schedule(self.inner_time(t))

    def end(self, condition: Condition | None) -> Tree:
        """The other's."""
        return self.inner.end(condition)


class Retimed(Denoiser):
    """A denoiser on `Rewound` time."""

    process: Rewound

    def __init__(self, inner: Denoiser, process: AffineProcess, grid: TimeGrid) -> None:
        super().__init__()
        self.inner, self.process, self.shape = inner, Rewound(process, grid), inner.shape
        self.estimates, self.fields = inner.estimates, inner.fields

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The inner denoiser's posterior, with a time for every sample so that gradients pass."""
        at = self.process.inner_time(torch.as_tensor(t, dtype=torch.float64))
        posterior: Posterior = self.inner(x, at.expand(len(x)) if at.ndim == 0 else at, condition, step)
        return posterior

    def prepare(self, condition: Condition) -> Condition:
        """The inner denoiser's."""
        return self.inner.prepare(condition)

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The inner denoiser's."""
        return self.inner.tokenise(name, words)
