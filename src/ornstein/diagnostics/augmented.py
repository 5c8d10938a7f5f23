"""The log-determinant of the flow as further coordinates of the state, for the library's own solvers."""

from __future__ import annotations

import torch
from torch import Tensor

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
from ornstein.processes.divergence import divergence

from .clock import Flow, place_of, tau_of

__all__ = ["carried_on_grid"]


class Turning(AffineProcess):
    """The flow of `clock.py` as a process: alpha = cos(theta), sigma = sin(theta), its clock linear in time.

    Whatever the denoiser's own process is, a solver does the same here.

    Args:
        first: tau at time 0.
        last: tau at time 1, at most 0.
    """

    def __init__(self, first: float, last: float) -> None:
        super().__init__()
        ends = place_of(torch.tensor([first, last], dtype=torch.float64))
        self.first, self.last = ends.tolist()

    def tau(self, t: Tensor) -> Tensor:
        """tau of each time."""
        return tau_of(self.first + (self.last - self.first) * t)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-tanh(tau), 0, 1 / cosh(tau)."""
        tau = self.tau(t)
        return -torch.tanh(tau), torch.zeros_like(t), 1 / torch.cosh(tau)


class WithLogDet(Denoiser):
    """A denoiser of (v flattened, l_1, ..., l_M), whose flow has dl/dt = div(dv/dt) beside dv/dt.

    Solvers of affine processes step each coordinate by the same numbers from its posterior mean, and the posterior
    mean under which l has the velocity div(dv/dt) is `process.mean_from("velocity", ...)`. So any deterministic
    solver of the library integrates both, at its own order.
    """

    process: Turning
    estimates = "velocity"

    def __init__(self, flow: Flow, process: Turning, probes: Tensor | None, chunk: int, like: Tensor) -> None:
        super().__init__()
        self.flow, self.process, self.event = flow, process, like.shape
        self.probes, self.chunk = probes, chunk

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """One call of the inner denoiser, and its vector-Jacobian products."""
        size = self.event[1:].numel()
        time = self.flow.time(self.process.tau(torch.as_tensor(t, dtype=torch.float64)))
        with torch.enable_grad():
            v = x[:, :size].reshape(self.event).detach().requires_grad_()
            mean = self.flow.mean(self.flow.state(v, time), time)
            trace = divergence(mean, v, self.probes, chunk=self.chunk).detach().T
        means = torch.cat([mean.detach().flatten(1), self._of_log_det(x[:, size:], trace, t)], 1)
        return Posterior(self.process, x, t, means)

    def _of_log_det(self, log_det: Tensor, trace: Tensor, t: Time) -> Tensor:
        """div(dv/dt) = p dim + q tr(dD/dv), where dv/dt = p v + q D."""
        level, slope = self.process.at(t), self.process.slope(t)
        p = slope.sigma / level.sigma
        rate = p * self.event[1:].numel() + (slope.alpha - p * level.alpha) * trace
        mean: Tensor = self.process.mean_from("velocity", log_det, rate, t)
        return mean


def carried_on_grid(
    flow: Flow,
    v: Tensor,
    ends: tuple[float, float],
    probes: Tensor | None,
    chunk: int,
    solver: Solver,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """v at the second tau, and log |det dv / dv| of the way there for each probe, (M, B), by even steps of the clock.

    Raises:
        ValueError: the solver draws noise, or cannot step up to where no signal is left.
    """
    if solver.stochastic:
        raise ValueError(f"solver: {solver!r} draws noise; the flow needs a deterministic one, as Heun()")
    augmented = WithLogDet(flow, Turning(*ends), probes, chunk, v)
    start = torch.cat([v.flatten(1), v.new_zeros(len(v), 1 if probes is None else len(probes))], 1)
    end = Sampler(solver, grid=TimeGrid.uniform(steps, 0.0, 1.0))(augmented, start)
    if not bool(torch.isfinite(end).all()):
        raise ValueError(f"solver: {solver!r} gives no finite numbers on the way up; use Heun(), or none")
    size = v[0].numel()
    return end[:, :size].reshape(v.shape), end[:, size:].T
