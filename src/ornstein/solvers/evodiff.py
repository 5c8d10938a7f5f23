"""EVODiff: a multistep method whose difference terms are rebalanced by inner products of successive calls."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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
    Tree,
    align,
)

from .ancestral import refuse_from_data
from .stochastic import one_time

__all__ = ["EVODiff"]

LONG = 20  # steps above which the released code squashes zeta in another way


class Span(NamedTuple):
    """The numbers of one step t -> s of second order; all 0 for a step of first order.

    gain = sigma_s H = alpha_s (1 - e^-h), H = alpha_s / sigma_s - alpha_t / sigma_t, r = h_before / h,
    weight = (1 - tn^2) / 2, base = sqrt((sigma_s / sigma_t) / (sigma_t / sigma_before)),
    turn = 2 - (sigma_s / sigma_t)^2 in a long run, 0 in a short one.
    """

    gain: Any = 0.0
    rise: Any = 0.0
    r: Any = 0.0
    weight: Any = 0.0
    base: Any = 0.0
    turn: Any = 0.0


class EVODiff(Solver):
    """EVODiff (Li et al. 2025, 2509.26096), as its released code computes it: one network call a step.

    With m, m_1 the last two posterior means, b = alpha_s (1 - e^-h), r = h_before / h and <,> sums over an image's
    plane, a step t -> s predicts, and corrects itself once the next call m_t = D(x_P, s) is known:

        x_E = (sigma_s / sigma_t) x + b m                                (first order: DDIM)
        D_1 = m - r_1 m_1,      r_1 = (1 - w) base + w <m, m_1> / <m_1, m_1>
        x_P = x_E + b D_1 / (2 r_i),    r_i = clamp(sigmoid(|r_1| / 4) r, r / 4, 3 r / 2)
        D_2 = m_t - r_2 m,      r_2 likewise from m_t and m
        x_s = x_E + b B / (2 zeta),     B = -eta D_1 / r + (1 - eta) r D_2

    eta and zeta are sigmoids of inner products of D_1 and D_2 (`_eta`, `_zeta`). The state shown is x_P; the
    correction is an increment to it that the next row adds, so that what a guide did to x_P is kept. The law is a
    point mass given (x, memory). On smooth problems the method is of first order: its gain terms do not vanish with
    the step. In a long run (more than 20 rows) zeta has another form.

    Args:
        final: "repo" ends with the released code's rule, x = (1 - sqrt(sigma_s sigma_t)) x_E + b (m - q m_1) / 2,
            whose factor is not dimensionless and whose bias does not vanish with the steps; "ddim" with x_E.
        coefficients: "channel" has inner products, and so coefficients, for every image and channel; "sample"
            for every sample. A state of vectors has one channel.
    """

    history = 2

    def __init__(self, final: str = "repo", coefficients: str = "channel") -> None:
        if final not in ("repo", "ddim"):
            raise ValueError(f"final: expected 'repo' or 'ddim', got {final!r}")
        if coefficients not in ("channel", "sample"):
            raise ValueError(f"coefficients: expected 'channel' or 'sample', got {coefficients!r}")
        self.final, self.coefficients = final, coefficients

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step; `past` holds the numbers of this step and of the one before, for `law`.

        Steps from or to an end of infinite log-SNR, and the last, are of first order.
        """
        assert isinstance(process, AffineProcess)
        refuse_from_data(self, process, grid)
        times = [one_time(self, r.t, r.s) for r in grid]
        spans = [self._span(process, times, i) for i in range(len(times))]
        rows = []
        for i, (t, s) in enumerate(times):
            numbers = process.step(t, s, 0.0)
            a, b, earlier = numbers.a, numbers.b, 0.0
            if self.final == "repo" and i == len(times) - 1 and _lengths(process, times, i)[1] > 0:
                a, b, earlier = _last(process, t, s, a, b)
            before = spans[i - 1] if i else Span()
            anchor = process.at(s).anchor - a * process.at(t).anchor
            rows.append(Row(t, s, a, b, (earlier, *spans[i], *before), anchor))
        return rows

    def _span(self, process: AffineProcess, times: list[tuple[float, float]], i: int) -> Span:
        h, before = _lengths(process, times, i)
        if i == len(times) - 1 or not (0 < h < math.inf and 0 < before < math.inf):
            return Span()
        (t, s), old = times[i], times[i - 1][0]
        at, to, was = (process.at(v) for v in (t, s, old))
        ratio, ended = to.sigma / at.sigma, times[-1][1]
        near = (s + ended) / (times[0][0] + ended)
        return Span(
            gain=process.step(t, s, 0.0).b,
            rise=to.alpha / to.sigma - at.alpha / at.sigma,
            r=before / h,
            weight=0.5 * (1 - near**2),
            base=(ratio * was.sigma / at.sigma) ** 0.5,
            turn=2 - ratio**2 if len(times) > LONG else 0.0,
        )

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """Correct the step before, then probe."""
        assert posterior is not None
        earlier, now, before = row.past[0], Span(*row.past[1:7]), Span(*row.past[7:])
        reads = _acts(now.r) + _acts(earlier), 2 * _acts(before.r)
        if max(reads) > 0 and len(memory or ()) < min(max(reads), 2):
            raise ValueError("EVODiff: this row reads earlier steps; pass their memory, or start at row 0")
        kept = memory or ()
        if _acts(before.r):
            x = x + self._correction(posterior.mean, kept[0], kept[1], before)
        plain = row._replace(past=(earlier,) if _acts(earlier) else ())
        law, memory = super().law(x, posterior, plain, memory, condition)
        assert isinstance(law, Gaussian)
        mean = law.mean + self._probe(posterior.mean, kept[0], now) if _acts(now.r) else law.mean
        return Gaussian(mean, 0.0, law.space), memory

    def _probe(self, m: Tensor, m_1: Tensor, span: Span) -> Tensor:
        """x_P - x_E."""
        span, acting = _aligned(span, m)
        difference, r = self._difference(m, m_1, span)
        return 0.5 * acting * span.gain * difference / r

    def _correction(self, m_t: Tensor, m: Tensor, m_1: Tensor, span: Span) -> Tensor:
        """x_s - x_P."""
        span, acting = _aligned(span, m)
        d_1, r_i = self._difference(m, m_1, span)
        d_2, _ = self._difference(m_t, m, span)
        before, after = d_1 / span.r, span.r * d_2
        eta = self._eta(before, after)
        b = -eta * before + (1 - eta) * after
        gap = 0.5 * span.gain * (d_1 - b) / r_i
        long = bool((torch.as_tensor(span.turn) != 0).any())
        along = m - m_1 if long else None
        zeta = self._zeta(self._onto(gap, d_1) / span.gain, m, along, span)
        return 0.5 * acting * span.gain * (b / zeta - d_1 / r_i)

    def _difference(self, m: Tensor, m_1: Tensor, span: Span) -> tuple[Tensor, Any]:
        """m - r_1 m_1, and r_i."""
        r_1 = (1 - span.weight) * span.base + span.weight * self._onto(m, m_1)
        return m - r_1 * m_1, _refined(r_1, span.r)

    def _eta(self, before: Tensor, after: Tensor) -> Tensor:
        """Between 1/4 and 1/2."""
        return 0.5 * torch.sigmoid((0.5 * self._onto(after + before, after - before)).abs())

    def _zeta(self, share: Tensor, m: Tensor, along: Tensor | None, span: Span) -> Tensor:
        """Between 0.38 and 1 in a short run, and between 0 and 0.62 in a long one."""
        excess = share.abs() - 0.5
        if along is None:
            return torch.sigmoid(excess)
        return torch.sigmoid(-excess * torch.sigmoid(self._onto(m, along / span.rise) * span.turn))

    def _onto(self, a: Tensor, b: Tensor) -> Tensor:
        """<a, b> / <b, b>, held within [-2, 2]."""
        first = 2 if self.coefficients == "channel" and a.ndim > 2 else 1
        if a.ndim == 1:  # a state of one number: each is a direction of its own
            a, b = a[:, None], b[:, None]
            return self._onto(a, b)[:, 0]
        axes = tuple(range(first, a.ndim))
        square = (b * b).sum(axes, keepdim=True).clamp(min=torch.finfo(b.dtype).tiny)
        return ((a * b).sum(axes, keepdim=True) / square).clamp(-2, 2)


def _refined(r_1: Tensor, r: Any) -> Tensor:
    """clamp(sigmoid(|r_1| / 4) r, r / 4, 3 r / 2)."""
    return torch.sigmoid(0.25 * r_1.abs()).clamp(0.25, 1.5) * r


def _acts(number: Any) -> bool:
    """Whether a number of a row is there: not 0, or one for every sample."""
    return isinstance(number, Tensor) or number != 0


def _aligned(span: Span, x: Tensor) -> tuple[Span, Any]:
    """The numbers broadcast against `x`, and 0 for the samples whose step is of first order."""
    if not isinstance(span.r, Tensor):
        return span, 1.0
    made = Span(*(align(v, x) for v in span))
    acting = made.r != 0
    filled = {k: torch.where(acting, getattr(made, k), 1.0) for k in ("gain", "rise", "r")}
    return made._replace(**filled), acting.to(x.dtype)


def _lengths(process: AffineProcess, times: list[tuple[float, float]], i: int) -> tuple[float, float]:
    """h of the step i and of the one before; nan where there is none."""

    def length(t: float, s: float) -> float:
        return process.half_log_snr(s) - process.half_log_snr(t) if s != t else 0.0

    return length(*times[i]), length(*times[i - 1]) if i else math.nan


def _last(process: AffineProcess, t: float, s: float, a: float, b: float) -> tuple[float, float, float]:
    """The released code's last step as numbers of x, m and m_1."""
    at, to = process.at(t).sigma, process.at(s).sigma
    rho, shrink = to / at, 1 - (to * at) ** 0.5
    q = 1 - 0.5 * (rho if rho < 0.5 else rho - 0.5) ** 0.5
    return shrink * a, shrink * b + 0.5 * b, -0.5 * b * q
