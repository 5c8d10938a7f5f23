"""The probability flow integrated with its error controlled, with or without the log-determinant of its map."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Denoiser, sum_event
from ornstein.processes.divergence import divergence

from .clock import Flow, affine_process, condition_of, pace_at, place_of, tau_at, tau_of, tau_of_level

__all__ = ["carried", "reference", "slope_and_divergence"]

State = tuple[Tensor, Tensor]


def reference(
    denoiser: Denoiser,
    x: Tensor,
    t: float,
    s: float,
    rtol: float = 1e-8,
    *,
    atol: float | None = None,
    level: float = 1e-5,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """x_t carried to time s by the probability flow, tightly enough to be the truth for solvers: dopri8 in the clock
    of `clock.py`, every row within the tolerance.

    Args:
        denoiser: guided or not.
        x: (B, ...), at time t.
        t: where it starts; not where there is no noise, since the flow has no direction there.
        s: where it ends, below t or above it. Below sigma / alpha = `level` the posterior mean at that level stands
            for the rest, which is off by about level^2 times half the score.
        rtol: relative tolerance.
        atol: absolute tolerance, of states divided by sqrt(alpha^2 + sigma^2); by default rtol.
        level: see s.
        condition: a ready Condition in place of fields.
        **fields: condition fields, as in sampling.

    Raises:
        ValueError: a process without such a flow, or a start without noise.
        ImportError: torchdiffeq is not installed.
    """
    process = affine_process(denoiser, "reference")
    flow = Flow(denoiser, process, condition_of(denoiser, x, condition, fields))
    first, asked = tau_at(process, t), tau_at(process, s)
    last = max(asked, tau_of_level(level))
    if first < last and asked < last:
        raise ValueError(f"t: the flow cannot start at t={t}, with less noise than level={level}")
    end = torch.tensor(last, dtype=torch.float64, device=x.device)
    places = place_of(torch.tensor([first, last], dtype=torch.float64, device=x.device))
    options = {"norm": _largest, "step_t": places}  # steps end there: the clock does not reach beyond time 1
    given = {"rtol": rtol, "atol": rtol if atol is None else atol, "options": options}

    def rate(place: Tensor, v: Tensor) -> Tensor:
        return pace_at(place) * flow.slope(tau_of(place), v)

    with torch.no_grad():
        v = flow.scaled(x, t)
        v = v if first == last else _odeint()(rate, v, places, method="dopri8", **given)[-1]
        if asked < last:
            v = -torch.tanh(end).to(v.dtype) * v - flow.slope(end, v)  # = D
        return flow.state(v, s)


def carried(
    flow: Flow,
    v: Tensor,
    ends: tuple[float, float],
    probes: Tensor | None,
    chunk: int,
    rtol: float,
    atol: float,
) -> State:
    """v at the second tau, and log |det dv / dv| of the way there for each probe, (M, B)."""
    size = v[0].numel()  # the log-determinant is integrated per dimension: both then have the same tolerance

    def rates(place: Tensor, state: State) -> State:
        slope, spread = slope_and_divergence(flow, tau_of(place), state[0], probes, chunk)
        pace = pace_at(place)
        return pace * slope, pace * spread / size

    start = v, v.new_zeros(1 if probes is None else len(probes), len(v))
    places = place_of(torch.tensor(ends, dtype=torch.float64, device=v.device))
    norm = lambda state: torch.maximum(_largest(state[0]), _largest(state[1].T))  # noqa: E731
    options = {"norm": norm, "step_t": places}
    v_s, log_det = _odeint()(rates, start, places, rtol=rtol, atol=atol, method="dopri5", options=options)
    return v_s[-1], log_det[-1] * size


def slope_and_divergence(
    flow: Flow, tau: Tensor, v: Tensor, probes: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """dv / dtau and its divergence in v for each probe, (M, B), detached."""
    with torch.enable_grad():
        place = v.detach().requires_grad_()
        slope = flow.slope(tau, place)
        spread = divergence(slope, place, probes, chunk=chunk)
    return slope.detach(), spread.detach()


def _largest(error: Tensor) -> Tensor:
    """The root-mean-square of the worst row, so that every row keeps the tolerance whatever the batch."""
    return (sum_event(error**2) / error[0].numel()).amax().sqrt()


def _odeint() -> Any:
    try:
        return importlib.import_module("torchdiffeq").odeint
    except ImportError as error:
        raise ImportError(
            "error-controlled integration needs torchdiffeq: pip install 'ornstein[likelihood]'; "
            "log_likelihood(..., solver=solvers.Heun(), steps=100) does without"
        ) from error
