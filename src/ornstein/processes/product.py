"""Several processes at once: a tree state, leaf by leaf, each with its own time if asked."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ornstein.core import (
    Condition,
    Noise,
    Posterior,
    Process,
    Product,
    ProductPosterior,
    Time,
    TimeGrid,
    Tree,
    leaf_time,
)

__all__ = ["ProductProcess", "SharedNoise"]


class SharedNoise(Product):
    """A product whose leaves, all of one shape, are driven by one and the same noise: it has no density."""

    __slots__ = ()

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """One draw for all leaves."""
        return {k: p.noise(source, shape) for k, p in self.parts.items()}

    def sample(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """One draw for all leaves."""
        return {k: p.sample(source, shape) for k, p in self.parts.items()}

    def log_prob(self, x: Tree) -> Tensor:
        """Refused: the leaves determine each other.

        Raises:
            ValueError: always.
        """
        raise ValueError("log_prob: leaves that share their noise have no joint density")


class ProductProcess(Process):
    """Leaves noised independently: q(x_t | x_0) is the product of the leaves' laws. The leaves meet in the
    denoiser, which sees all of them and returns one posterior each.

    Times are one number for all leaves or a dict with one per leaf, so that a leaf can be held at its own
    time (clean, to condition on it; at 1, to leave it out).

    Args:
        parts: {leaf: process}.
        shared: whether the leaves of `marginal`, which training noises, share their noise; steps never do.
    """

    def __init__(self, parts: dict[str, Process], shared: bool = False) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts: expected at least one leaf")
        self._processes, self.shared = nn.ModuleDict(parts), shared
        self.fields = frozenset().union(*(p.fields for p in parts.values()))

    @property
    def parts(self) -> dict[str, Any]:
        """The leaves' processes by name."""
        return dict(self._processes.items())

    def marginal(self, x_0: Tree, t: Time, condition: Condition | None = None) -> Product:
        """Leaf by leaf."""
        law = SharedNoise if self.shared else Product
        return law({k: p.marginal(x_0[k], leaf_time(t, k), condition) for k, p in self.parts.items()})

    def bridge(self, x_t: Tree, x_0: Any, t: Time, s: Time, condition: Condition | None = None) -> Product:
        """Leaf by leaf."""
        return Product(
            {
                k: p.bridge(x_t[k], x_0[k], leaf_time(t, k), leaf_time(s, k), condition)
                for k, p in self.parts.items()
            }
        )

    def prior(self, like: Tree, condition: Condition | None = None) -> Product:
        """Leaf by leaf."""
        return Product({k: p.prior(like[k], condition) for k, p in self.parts.items()})

    def kernel(self, x_t: Tree, t: Time, s: Time, condition: Condition | None = None) -> Product:
        """Leaf by leaf."""
        return Product(
            {k: p.kernel(x_t[k], leaf_time(t, k), leaf_time(s, k), condition) for k, p in self.parts.items()}
        )

    def readout(
        self, x: Tree, posterior: Posterior | None = None, condition: Condition | None = None
    ) -> Tree:
        """Leaf by leaf."""
        own = posterior.parts if isinstance(posterior, ProductPosterior) else {}
        return {k: p.readout(x[k], own.get(k), condition) for k, p in self.parts.items()}

    def clock(self, t: Time) -> dict[str, Any]:
        """Leaf by leaf."""
        return {k: p.clock(leaf_time(t, k)) for k, p in self.parts.items()}

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """Each leaf on the grid that suits it, or all on the kind asked for.

        A row that a leaf's grid gives to a solver of its own (a bridge's first) is that solver's for all leaves.
        """
        grids = {k: p.grid(kind, steps) for k, p in self.parts.items()}
        named = [
            next((r.solver for r in rows if r.solver), None) for rows in zip(*grids.values(), strict=True)
        ]
        plain = {k: TimeGrid((r.t, r.s) for r in grid) for k, grid in grids.items()}
        joint = TimeGrid.product(**plain)
        return TimeGrid(row._replace(solver=own) for row, own in zip(joint, named, strict=True))
