"""A process is a rule for stepping. Here: its contract, and the affine family that most of the field lives
on.

    x_t = alpha_t x_0 + anchor_weight_t y + sigma_t z,        z ~ N(0, I)

Time 0 is data and time 1 the prior. In u = x - anchor_weight y every affine process is the same problem, so
one formula, `AffineProcess.step`, holds the ancestral step, DDIM, and everything between them. Numbers are
made in float64 as ratios that stay finite where the log-SNR is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .condition import Condition
from .distribution import Distribution, Gaussian
from .space import EUCLIDEAN, Space
from .spec import Module
from .tree import Time, Tree, accumulate, align, combine, scaled

if TYPE_CHECKING:
    from .grid import TimeGrid
    from .posterior import Posterior

__all__ = ["AffineProcess", "Level", "Process", "StepNumbers"]


class Process(Module):
    """A stochastic process. Subclasses give what they can: a forward law to generate, a kernel to simulate."""

    space: Space = EUCLIDEAN
    fields: frozenset[str] = frozenset()  # condition fields that the process itself reads
    discrete = False
    anchored = False  # whether there is another end y

    def marginal(self, x_0: Tree, t: Time, condition: Condition | None = None) -> Distribution:
        """q(x_t | x_0)."""
        raise self._lacks("marginal")

    def bridge(
        self, x_t: Tree, x_0: Any, t: Time, s: Time, condition: Condition | None = None
    ) -> Distribution:
        """q(x_s | x_t, x_0) for s < t; given a Posterior, averaged over it: the ancestral step."""
        raise self._lacks("bridge")

    def prior(self, like: Tree, condition: Condition | None = None) -> Distribution:
        """The law at time 1."""
        raise self._lacks("prior")

    def kernel(self, x_t: Tree, t: Time, s: Time, condition: Condition | None = None) -> Distribution:
        """p(x_s | x_t), forwards in the process's own direction."""
        raise self._lacks("kernel")

    def readout(
        self, x: Tree, posterior: Posterior | None = None, condition: Condition | None = None
    ) -> Tree:
        """The data that a state at the end of a run stands for."""
        return x

    def pin(self, x_end: Tree, t_end: float) -> Process:
        """This process given its state at `t_end`: a process too."""
        raise self._lacks("pin")

    def view(self, name: str, posterior: Posterior) -> Tree:
        """`noise`, `score` or `velocity` of a posterior under this law."""
        raise self._lacks(f"posterior.{name}")

    def clock(self, t: Time) -> Any:
        """The number a network is told in place of t: half the log-SNR, or log-odds of an intact entry."""
        raise self._lacks("clock")

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """A grid of `steps` rows from 1 to 0; kind None is what suits the process."""
        from .grid import TimeGrid

        if kind in (None, "uniform"):
            return TimeGrid.uniform(steps)
        raise ValueError(f"grid {kind!r} needs a log-SNR, which {type(self).__name__} has not; use 'uniform'")

    def _refuse_upwards(self, t: Time, s: Time) -> None:
        """A bridge goes back in time: refuse s > t, which no formula for it can answer."""
        later = s > t
        if bool(later.any()) if isinstance(later, Tensor) else later:
            raise ValueError(
                f"bridge: {type(self).__name__} steps back from t to s <= t, got t={t} and s={s}; forwards is "
                "`kernel`"
            )

    def _lacks(self, what: str) -> ValueError:
        return ValueError(f"{type(self).__name__} has no {what}")


class Level(NamedTuple):
    """alpha, anchor_weight and sigma (or their derivatives in t): numbers for a number, tensors for a tensor."""

    alpha: Any
    anchor: Any
    sigma: Any


class StepNumbers(NamedTuple):
    """mean = a x + b D + c y, and a scale; b is the gain."""

    a: Any
    b: Any
    c: Any
    scale: Any


class AffineProcess(Process):
    """x_t = alpha(t) x_0 + anchor_weight(t) y + sigma(t) z. A preset is its `schedule`.

    `y` is the condition's `anchor`, or the posterior's `end` where it is latent.

    An end may be a point: alpha = sigma = 0 at time 1, as of a bridge, where the state is y and says nothing of
    x_0. There lambda is -inf, every stochastic step draws u_s ~ N(alpha_s D, sigma_s^2) afresh, and there is no
    deterministic one.
    """

    anchor_field = "anchor"  # the condition field that holds y
    latent = False  # whether y is known only through the posterior

    def __init__(self, space: Space = EUCLIDEAN) -> None:
        super().__init__()
        self.space = space
        self._levels: dict[float, Level] = {}
        self._slopes: dict[float, Level] = {}

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, anchor_weight, sigma at float64 times in [0, 1], differentiable."""
        raise self._lacks("schedule")

    # --- numbers

    def at(self, t: Time) -> Level:
        """The schedule at `t`: Python floats for a float (kept), float64 tensors for a tensor."""
        if isinstance(t, Tensor):
            return self._level(t.double())
        if t not in self._levels or self.learned:
            self._levels[t] = Level(*map(number, self._level(_time(t))))
        return self._levels[t]

    def _level(self, t: Tensor) -> Level:
        """The schedule; of a learned one, constants where alpha or sigma is 0.

        There every parameter gives the same value, while roots have an infinite slope, whose product with the
        zero before it would make the gradient NaN.
        """
        if not (self.learned and torch.is_grad_enabled()):
            return Level(*self.schedule(t))
        with torch.no_grad():
            exact = Level(*self.schedule(t))
        end = (exact.alpha == 0) | (exact.sigma == 0)
        inside = self.schedule(torch.where(end, 0.5, t))
        return Level(*(torch.where(end, e, v) for e, v in zip(exact, inside, strict=True)))

    def slope(self, t: Time) -> Level:
        """d/dt of the schedule, by automatic differentiation; numbers for a number."""
        if isinstance(t, Tensor):
            return self._differentiated(t.double())
        if t not in self._slopes or self.learned:
            self._slopes[t] = Level(*map(number, self._differentiated(_time(t))))
        return self._slopes[t]

    @property
    def learned(self) -> bool:
        """Whether the schedule has parameters: then numbers stay tensors and nothing is kept."""
        return bool(self._parameters) or bool(self._modules)

    def _differentiated(self, t: Tensor) -> Level:
        with torch.inference_mode(False), torch.enable_grad():
            clock = t.detach().clone().requires_grad_()
            values = self.schedule(clock)
            keep = self.learned
            slopes = [
                torch.autograd.grad(v.sum(), clock, create_graph=keep, retain_graph=True)[0]
                if v.requires_grad
                else torch.zeros_like(t)
                for v in values
            ]
        return Level(*slopes)

    def is_point(self, t: Time) -> Any:
        """Whether the state says nothing of x_0 at `t` because it is a point, alpha = sigma = 0; a tensor for one."""
        level = self.at(t)
        return (level.alpha == 0) & (level.sigma == 0)

    def ratio(self, t: Time, s: Time) -> Any:
        """exp(-h) = alpha_t sigma_s / (alpha_s sigma_t), finite at both ends and 1 where s = t."""
        numbers = torch.as_tensor(t, dtype=torch.float64), torch.as_tensor(s, dtype=torch.float64)
        return number(self._ratio(*numbers), floats=not _any_tensor(t, s))

    def _ratio(self, t: Tensor, s: Tensor) -> Tensor:
        from_, to = self._level(t), self._level(s)
        ratio = _divided(from_.alpha * to.sigma, to.alpha * from_.sigma)
        point = (from_.alpha == 0) & (from_.sigma == 0)  # what lies there says nothing: h is infinite
        return torch.where(t == s, 1.0, torch.where(point, 0.0, ratio))

    def half_log_snr(self, t: Time) -> Any:
        """lambda = log(alpha / sigma), natural logarithm, infinite at an end without noise or signal."""
        if isinstance(t, float) and not self.learned:
            alpha, _, sigma = self.at(t)  # networks ask at every call
            if alpha < 0 or sigma < 0:
                raise ValueError(f"t: expected a time in [0, 1], 0 the data and 1 the prior; got {t}")
            return -math.inf if alpha == 0 else math.inf if sigma == 0 else math.log(alpha) - math.log(sigma)
        alpha, _, sigma = self._level(_time(t))
        value = torch.where(alpha == 0, -torch.inf, _log(alpha) - _log(sigma))  # also at a point end
        return number(value, floats=not _any_tensor(t))

    def time_at(self, half_log_snr: Time) -> Any:
        """The inverse of `half_log_snr`, by bisection unless a preset knows it in closed form."""
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(200):
            middle = 0.5 * (low + high)
            above = self.half_log_snr(middle) > wanted
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return number(0.5 * (low + high), floats=not _any_tensor(half_log_snr))

    def clock(self, t: Time) -> Any:
        """The half-log-SNR, held within [-10, 10] where it is infinite."""
        value = self.half_log_snr(t)
        return value.clamp(-10.0, 10.0) if isinstance(value, Tensor) else min(max(value, -10.0), 10.0)

    def step(self, t: Time, s: Time, stochasticity: Any = 1.0) -> StepNumbers:
        """The one step of every affine process, in u = x - anchor_weight y, with h = lambda_s - lambda_t:

            u_s ~ N( (sigma_s / sigma_t) e^(-c^2 h) u_t + alpha_s (1 - e^(-(1 + c^2) h)) D,
                     sigma_s^2 (1 - e^(-2 c^2 h)) )

        c = 0 is DDIM (2010.02502), c = 1 the ancestral step of DDPM (2006.11239), the first-order
        SDE-DPM-Solver++ (2211.01095), and the bridge q(x_s | x_t, x_0) itself where D = x_0.

        Raises:
            ValueError: c = 0 from an end that is a point, where no flow starts.
        """
        self._refuse_flow(t, s, stochasticity)
        numbers = self._numbers(t, s, lambda log_r: _product(2.0 * stochasticity**2, log_r))
        return numbers._replace(scale=0.0) if _is_zero(stochasticity) else numbers

    def ddim_step(self, t: Time, s: Time, eta: Any) -> StepNumbers:
        """DDIM's own family (2010.02502, eq. 16): eta^2 times the ancestral variance.

        It meets `step` at eta = 0 and 1, and elsewhere only to first order in h.

        Raises:
            ValueError: eta = 0 from an end that is a point, where no flow starts.
        """
        self._refuse_flow(t, s, eta)
        numbers = self._numbers(t, s, lambda log_r: torch.log1p(eta**2 * torch.expm1(2 * log_r)))
        return numbers._replace(scale=0.0) if _is_zero(eta) else numbers

    def _numbers(self, t: Time, s: Time, log_kept: Callable[[Tensor], Tensor]) -> StepNumbers:
        """A step that keeps the share exp(log_kept) of the noise's variance and draws the rest anew."""
        times = torch.broadcast_tensors(_time(t), _time(s))
        from_, to = (self._level(v) for v in times)
        log_r = _log(self._ratio(*times))  # = -h
        kept = log_kept(log_r)
        still = times[0] == times[1]  # a waiting component stays untouched, also where sigma = 0
        a = torch.where(still, 1.0, _divided(to.sigma, from_.sigma) * (0.5 * kept).exp())
        a = torch.where(still | (from_.alpha != 0) | (from_.sigma != 0), a, 0.0)  # a point end: u is 0
        gone = (
            to.alpha == 0
        )  # up to pure noise: no signal arrives, and the product below would be 0 times infinity
        b = -to.alpha * torch.expm1(torch.where(gone, 0.0, log_r) + 0.5 * kept)
        b = torch.where(still, 0.0, torch.where(gone, -a * from_.alpha, b))
        return self._assembled((t, s), (from_, to), a, b, kept)

    def forward_step(self, t: Time, s: Time) -> StepNumbers:
        """q(x_s | x_t) for s >= t: u_s = (alpha_s / alpha_t) u_t + noise of what variance is missing."""
        times = torch.broadcast_tensors(_time(t), _time(s))
        from_, to = (self._level(v) for v in times)
        a = torch.where(times[0] == times[1], 1.0, _divided(to.alpha, from_.alpha))
        kept = 2 * _log(self._ratio(times[1], times[0]))  # of the noise's variance, without cancellation
        return self._assembled((t, s), (from_, to), a, torch.zeros_like(a), kept)

    def _assembled(
        self, times: tuple[Time, Time], levels: tuple[Level, Level], a: Tensor, b: Tensor, kept: Tensor
    ) -> StepNumbers:
        """The anchor's share, and the scale of noise of which the share exp(kept) is not new."""
        from_, to = levels
        c = to.anchor - a * from_.anchor if self.anchored else torch.zeros_like(a)
        new = torch.expm1(kept).clamp(max=0.0).abs()
        scale = to.sigma * torch.where(new > 0, torch.where(new > 0, new, 1.0).sqrt(), 0.0)
        floats = not _any_tensor(*times)
        return StepNumbers(*(number(v, floats=floats) for v in (a, b, c, scale)))

    def _refuse_flow(self, t: Time, s: Time, stochasticity: Any) -> None:
        if not _is_zero(stochasticity):
            return
        point = torch.as_tensor(self.is_point(t) & (_time(s) < _time(t)))
        if bool(point.any()):
            raise ValueError(
                f"{type(self).__name__} ends in a point at time 1 (alpha = sigma = 0), from which no deterministic "
                "step leads: let the process make the grid, or begin it with one stochastic row, "
                "TimeGrid.through([1.0, s], solver=solvers.Ancestral()) + ..."
            )

    # --- laws

    def marginal(self, x_0: Tree, t: Time, condition: Condition | None = None) -> Gaussian:
        """N(alpha x_0 + anchor_weight y, sigma^2)."""
        level = self.at(t)
        mean = scaled(level.alpha, x_0)
        return self._gaussian(self.add_anchor(mean, level.anchor, condition), level.sigma)

    def bridge(self, x_t: Tree, x_0: Any, t: Time, s: Time, condition: Condition | None = None) -> Gaussian:
        """N(alpha_s x_0 + b_s y + g (x_t - alpha_t x_0 - b_t y), ...), g = (alpha_t/alpha_s)
        sigma_s^2/sigma_t^2.

        Given a Posterior this is its mean's bridge: exact but for the posterior's variance.
        """
        self._refuse_upwards(t, s)
        numbers = self.step(t, s, 1.0)
        known = isinstance(x_0, Tensor)
        end = None if known else x_0.end
        mean = combine(numbers.a, x_t, numbers.b, x_0 if known else x_0.mean)
        mean = self.add_anchor(mean, numbers.c, condition, end)
        return self._gaussian(mean, numbers.scale, numbers.b)

    def prior(self, like: Tree, condition: Condition | None = None) -> Gaussian:
        """N((alpha_1 + anchor_weight_1) y, sigma_1^2), and N(0, sigma_1^2) without an anchor."""
        level = self.at(1.0)
        mean = torch.zeros_like(like)
        weight = level.alpha + level.anchor if self.anchored else 0.0
        return self._gaussian(self.add_anchor(mean, weight, condition), level.sigma)

    def kernel(self, x_t: Tree, t: Time, s: Time, condition: Condition | None = None) -> Gaussian:
        """q(x_s | x_t), s >= t: noising further."""
        if not _any_tensor(t, s) and s < t:
            raise ValueError(
                f"kernel: {type(self).__name__} steps forwards, got t={t} to s={s}; backwards needs a denoiser"
            )
        numbers = self.forward_step(t, s)
        mean = scaled(numbers.a, x_t)
        return self._gaussian(self.add_anchor(mean, numbers.c, condition), numbers.scale)

    def readout(
        self, x: Tree, posterior: Posterior | None = None, condition: Condition | None = None
    ) -> Tree:
        """x less what of the anchor is left at time 0."""
        weight = self.at(0.0).anchor if self.anchored else 0.0
        return self.add_anchor(x, -weight, condition, getattr(posterior, "end", None))

    def _gaussian(self, mean: Tree, scale: Any, gain: Any = None) -> Gaussian:
        return Gaussian(mean, scale, self.space, gain)

    def add_anchor(self, mean: Tree, weight: Any, condition: Condition | None, end: Tree = None) -> Tree:
        """mean + weight y; `mean` itself where there is no anchor or the weight is 0."""
        if not self.anchored or (isinstance(weight, float) and weight == 0.0):
            return mean
        return accumulate(mean, align(weight, mean), anchor_of(self, condition, end), inplace=False)

    def end(self, condition: Condition | None) -> Tree:
        """The other end y, as far as the process knows it without a posterior: the condition's field.

        Raises:
            ValueError: the condition lacks it.
        """
        if condition is None or self.anchor_field not in condition:
            raise ValueError(f"{type(self).__name__} needs its other end: pass {self.anchor_field}=")
        return condition[self.anchor_field]

    def pin(self, x_end: Tree, t_end: float = 1.0) -> Process:
        """This process given its state at `t_end`: affine too, with `x_end` (broadcast against states) as y."""
        from .bridge import Pinned

        return Pinned(self, x_end, t_end)

    # --- the stochastic differential equation

    def drift_and_diffusion(self, t: Time) -> tuple[Any, Any, Any]:
        """(f, c, g) of dx = (f x + c y) dt + g dW: f = (log alpha)', c = b' - f b, g^2 = (sigma^2)' - 2 f sigma^2.

        They are read 1e-9 inside an end at which they are infinite: time 1 where alpha = 0 there.
        """
        # at time 0 the slope of sigma may be infinite, while that of sigma^2 is not
        last = 1.0 if self.at(1.0).alpha else 1 - 1e-9
        t = t.clamp(1e-9, last) if isinstance(t, Tensor) else min(max(t, 1e-9), last)
        level, slope = self.at(t), self.slope(t)
        f = slope.alpha / level.alpha
        variance = 2 * level.sigma * slope.sigma - 2 * f * level.sigma**2
        positive = variance.clamp(min=0.0) if isinstance(variance, Tensor) else max(variance, 0.0)
        return f, slope.anchor - f * level.anchor, positive**0.5

    def view(self, name: str, posterior: Posterior) -> Tree:
        """noise = (u - alpha m) / sigma; score = -noise / sigma; velocity = alpha' m + b' y + sigma' noise."""
        level = self.at(posterior.t)
        if name == "noise":
            u = self.add_anchor(posterior.x, -(level.anchor), posterior.condition, posterior.end)
            return combine(_over(1.0, level.sigma), u, _over(-(level.alpha), level.sigma), posterior.mean)
        if name == "score":
            return scaled(_over(-1.0, level.sigma), posterior.noise)
        if name == "velocity":
            slope = self.slope(posterior.t)
            flow = combine(slope.alpha, posterior.mean, slope.sigma, posterior.noise)
            return self.add_anchor(flow, slope.anchor, posterior.condition, posterior.end)
        raise self._lacks(f"posterior.{name}")

    def mean_from(self, name: str, x: Tree, value: Tree, t: Time, condition: Condition | None = None) -> Tree:
        """The posterior mean from one of its views: the inverse of `view`."""
        level, slope = self.at(t), self.slope(t)
        u = self.add_anchor(x, -(level.anchor), condition)
        if name == "noise":
            return combine(_over(1.0, level.alpha), u, _over(-(level.sigma), level.alpha), value)
        if name == "score":
            return combine(_over(1.0, level.alpha), u, _over(level.sigma**2, level.alpha), value)
        if name == "velocity":
            value = self.add_anchor(value, -(slope.anchor), condition)
            turn = slope.alpha * level.sigma - slope.sigma * level.alpha
            # sigma' may be infinite where there is no noise
            on_u = _unless(level.sigma, _over(1.0, level.alpha), _over(-(slope.sigma), turn))
            on_value = _unless(level.sigma, 0.0, _over(level.sigma, turn))
            return combine(on_u, u, on_value, value)
        raise ValueError(f"unknown view {name!r}; accepted: noise, score, velocity")

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """Uniform in log-SNR unless asked otherwise. Where time 1 is a point, the first row is a `Departure`."""
        from .bridge import departing
        from .grid import TimeGrid

        return departing(TimeGrid.named("log-snr" if kind is None else kind, steps, self), self)


def anchor_of(process: Process, condition: Condition | None, end: Tree = None) -> Tree:
    """The other end y: the posterior's, where it has one, else the process's (the condition's `anchor`)."""
    if end is not None or not isinstance(process, AffineProcess):
        return end
    return process.end(condition)


def number(value: Tensor, floats: bool = True) -> Any:
    """A Python float where that loses nothing; a tensor where it is a batch of values or needs a gradient."""
    return value.item() if floats and value.ndim == 0 and not value.requires_grad else value


def _time(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def _any_tensor(*times: Time) -> bool:
    return any(isinstance(t, Tensor) for t in times)


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _over(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a / b
    return a / b if b else math.copysign(math.inf, a) if a else math.nan


def _unless(sigma: Any, clean: Any, noisy: Any) -> Any:
    """`noisy`, and `clean` where there is no noise."""
    if isinstance(sigma, Tensor):
        return torch.where(sigma == 0, clean, noisy)
    return noisy if sigma else clean


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """a / b with gradients that stay finite where b = 0 (and the caller does not read the result)."""
    return torch.where(b == 0, a.detach() * torch.inf, a / torch.where(b == 0, 1.0, b))


def _log(x: Tensor) -> Tensor:
    """log x with a gradient of 0 where x = 0."""
    return torch.where(x == 0, -torch.inf, torch.where(x == 0, 1.0, x).log())


def _product(weight: Any, log_r: Tensor) -> Tensor:
    weight = torch.as_tensor(weight, dtype=torch.float64)
    return torch.where(weight == 0, 0.0, weight * log_r)  # nothing is drawn anew, even where h is infinite
