"""Couplings: which noise is shown with which data. They are drawn before times and do not know them.

Under any coupling but `Independent`, what a network learns is the velocity of a flow with the coupling's marginals, not
the posterior mean under independent noise. `Denoising` marks the model it trains so (`estimates = "velocity"`), and
stochastic solvers, Tweedie's formula and likelihood bounds refuse it.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ornstein.core import EUCLIDEAN, Condition, Module, Noise, Space, suggest

from .gather import gathered, own_rows

__all__ = ["Coupling", "Independent", "NearestNoise", "OptimalAssignment", "Sinkhorn"]

PRECISIONS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


class Coupling(Module):
    """coupling(x_0, noise, space, condition, together) -> z, noise of the shape of x_0 (B, ...).

    `together` asks for the batch of all processes at once: then every process must call.
    """

    dependent = True

    def forward(
        self,
        x_0: Tensor,
        noise: Noise,
        space: Space = EUCLIDEAN,
        condition: Condition | None = None,
        together: bool = False,
    ) -> Tensor:
        """The noise of each row."""
        raise NotImplementedError


class Independent(Coupling):
    """z ~ N(0, I), whatever the data."""

    dependent = False

    def forward(
        self,
        x_0: Tensor,
        noise: Noise,
        space: Space = EUCLIDEAN,
        condition: Condition | None = None,
        together: bool = False,
    ) -> Tensor:
        """Noise of the space."""
        return space.randn(x_0, noise)


class NearestNoise(Coupling):
    """The nearest of k noises drawn for each row: the later variant of Immiscible Diffusion (2406.12303).

    It is a function of the row alone, but z is not N(0, I): its length shrinks and its mean moves towards the data's,
    most in low dimension (E|z|^2 / D with k = 8 and standard normal data: 0.67 in 2 dimensions, 0.98 in 3072).

    Args:
        k: how many are drawn; 1 is `Independent`.

    Raises:
        ValueError: k below 1.
    """

    def __init__(self, k: int = 4) -> None:
        super().__init__()
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k: expected an integer of at least 1, got {k!r}")
        self.k, self.dependent = k, k > 1

    @torch.no_grad()
    def forward(
        self,
        x_0: Tensor,
        noise: Noise,
        space: Space = EUCLIDEAN,
        condition: Condition | None = None,
        together: bool = False,
    ) -> Tensor:
        """argmin over j of |x_0 - z_j|."""
        candidates = space.randn(x_0, noise, (self.k,))
        nearest = ((candidates - x_0) ** 2).flatten(2).sum(2).argmin(0)
        return candidates[nearest, torch.arange(len(x_0), device=x_0.device)]


class _Paired(Coupling):
    """Couplings that choose among the noises of a whole batch.

    Args:
        group: a condition field with an integer for each row; rows are paired within its values, and rows without it
            among themselves. A model that is conditioned on the field needs it: paired over all of the batch, the
            noise of one class is not N(0, I), and no sampler can know.
    """

    def __init__(self, group: str | None = None) -> None:
        super().__init__()
        self.group = group

    @torch.no_grad()
    def forward(
        self,
        x_0: Tensor,
        noise: Noise,
        space: Space = EUCLIDEAN,
        condition: Condition | None = None,
        together: bool = False,
    ) -> Tensor:
        """Noise of the space, drawn row by row and exchanged among the rows."""
        everyone = gathered if together else _alone
        z, groups = space.randn(x_0, noise), self._groups(x_0, condition)
        mine = own_rows(len(x_0)) if together else slice(None)
        ticket = noise.fold("plan").uniform(x_0.new_empty(len(x_0), 1)).squeeze(1)
        every = [everyone(value) for value in (x_0, z, groups, ticket)]
        return self._exchanged(*every)[mine].to(x_0.dtype)

    def _groups(self, x_0: Tensor, condition: Condition | None) -> Tensor:
        if self.group is None:
            return torch.zeros(len(x_0), dtype=torch.long, device=x_0.device)
        if condition is None or self.group not in condition:
            raise ValueError(f"group: the batch has no condition field {self.group!r}")
        values = condition[self.group]
        if not isinstance(values, Tensor) or values.ndim != 1 or values.is_floating_point():
            raise ValueError(f"group: {self.group!r} is not one integer a row")
        return torch.where(condition.present[self.group], values.long(), -1)

    def _exchanged(self, x_0: Tensor, z: Tensor, groups: Tensor, ticket: Tensor) -> Tensor:
        chosen = torch.arange(len(x_0), device=x_0.device)
        for group in groups.unique():
            rows = (groups == group).nonzero().squeeze(1)
            chosen[rows] = rows[self._partners(x_0[rows].flatten(1), z[rows].flatten(1), ticket[rows])]
        return z[chosen]

    def _partners(self, x: Tensor, z: Tensor, ticket: Tensor) -> Tensor:
        """For each row of x (n, D) the row of z (n, D) it is shown with; `ticket` (n,) is uniform in (0, 1)."""
        raise NotImplementedError


def _alone(value: Tensor) -> Tensor:
    return value


class OptimalAssignment(_Paired):
    """The permutation of a batch's noise that costs least in sum: Immiscible Diffusion (Li et al. 2024, 2406.12303),
    and mini-batch optimal transport of flow matching (2302.00482) where the process is `RectifiedFlow`.

    The released code takes the distance, not its square, in half precision with both sides scaled by 0.1 ("quantised
    assignment"): OptimalAssignment("euclidean", precision="float16", scale=0.1). With the square the norms drop out,
    and what is maximised is the sum of <x_i, z_i>.

    Args:
        cost: "sqeuclidean" or "euclidean".
        precision: in which data, noise and costs are rounded: "float16", "float32", "float64"; None is the data's own.
        scale: factor on both before they are rounded.
        group: a condition field with an integer a row, within whose values rows are paired; None pairs all.

    Raises:
        ValueError: unknown cost or precision, or a scale that is not positive.
    """

    def __init__(
        self,
        cost: str = "sqeuclidean",
        precision: str | None = None,
        scale: float = 1.0,
        group: str | None = None,
    ) -> None:
        super().__init__(group)
        if cost not in ("sqeuclidean", "euclidean"):
            raise ValueError(suggest(cost, ("sqeuclidean", "euclidean"), "cost"))
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(suggest(precision, PRECISIONS, "precision"))
        if not scale > 0:
            raise ValueError(f"scale: expected a positive number, got {scale}")
        self.cost, self.precision, self.scale = cost, precision, float(scale)

    def costs(self, x: Tensor, z: Tensor) -> Tensor:
        """C_ij = |x_i - z_j| or its square, rounded, (n, n)."""
        kind = x.dtype if self.precision is None else PRECISIONS[self.precision]
        a, b = ((self.scale * v).to(kind).to(x.dtype) for v in (x, z))
        distance = torch.cdist(a, b)
        return (distance if self.cost == "euclidean" else distance**2).to(kind)

    def _partners(self, x: Tensor, z: Tensor, ticket: Tensor) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        columns = linear_sum_assignment(self.costs(x, z).double().cpu().numpy())[1]
        return torch.as_tensor(columns, device=x.device)


class Sinkhorn(_Paired):
    """Each row's noise is drawn from its row of the entropic plan between a batch and its noises,

        P = argmin sum_ij P_ij C_ij - reg H(P),    reg = epsilon mean(C),    C_ij = |x_i - z_j|^2

    as in the entropic version of mini-batch transport (2302.00482): between `OptimalAssignment` (epsilon -> 0) and
    `Independent` (infinite epsilon). One noise may serve several rows; each is right in the mean.

    Args:
        epsilon: positive; a share of the mean cost.
        iterations: at most, of Sinkhorn's algorithm in logarithms (Python Optimal Transport).
        group: as of `OptimalAssignment`.

    Raises:
        ValueError: epsilon is not positive; Python Optimal Transport is not installed.
    """

    def __init__(self, epsilon: float = 0.05, iterations: int = 200, group: str | None = None) -> None:
        super().__init__(group)
        if not epsilon > 0:
            raise ValueError(f"epsilon: expected a positive number, got {epsilon}")
        self.epsilon, self.iterations = float(epsilon), iterations

    def plan(self, x: Tensor, z: Tensor) -> Tensor:
        """P, (n, n), whose rows and columns sum to 1 / n as far as the iterations reach."""
        ot: Any = _transport()
        cost = torch.cdist(x, z).double().cpu() ** 2
        share = torch.full((len(x),), 1 / len(x), dtype=torch.float64).numpy()
        options = {"method": "sinkhorn_log", "numItermax": self.iterations, "warn": False}
        found = ot.sinkhorn(share, share, cost.numpy(), self.epsilon * float(cost.mean()), **options)
        return torch.as_tensor(found).to(x.device)

    def _partners(self, x: Tensor, z: Tensor, ticket: Tensor) -> Tensor:
        reach = self.plan(x, z).cumsum(1)
        return torch.searchsorted(reach, ticket[:, None].double() * reach[:, -1:]).squeeze(1)


def _transport() -> Any:
    try:
        return importlib.import_module("ot")
    except ImportError as error:
        raise ValueError(
            "Sinkhorn: Python Optimal Transport is not installed; pip install 'ornstein[transport]'"
        ) from error
