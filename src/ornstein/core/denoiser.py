"""A denoiser maps (x_t, t, condition) to the denoising posterior. A guide maps denoisers to denoisers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .condition import Condition
from .distribution import Distribution
from .posterior import Posterior, ProductPosterior
from .process import Process
from .spec import Module
from .tree import Time, Tree, batch_size, select, tree_map

if TYPE_CHECKING:
    from .sampler import Step

__all__ = ["Denoiser", "Guide", "Guided"]


class Denoiser(Module):
    """A model of a process.

    Attributes:
        process: the process whose states it reads.
        estimates: "posterior", or "velocity" for a network trained under a dependent coupling, which
            stochastic solvers, Tweedie's formula and likelihood bounds refuse.
        fields: names of the condition fields it accepts.
        shape: event shape of a state (a tree of them), where it is known.
        fit: the Gaussian fit of the data (`denoisers.GaussianFit`), where it is known: `solvers.best` uses it.
        blocks: how a state is cut, where it is made block by block; else None.
    """

    process: Process
    estimates: str = "posterior"
    fields: frozenset[str] = frozenset()
    shape: Any = None
    fit: Any = None
    blocks: Any = None

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The posterior of x_0 given x_t = `x`. `step` is None in training and diagnostics."""
        raise NotImplementedError

    def like(self, n: int) -> Tree:
        """An empty state of `n` samples, which says shape, dtype and device.

        Raises:
            ValueError: the shape is not known; start from an explicit state instead.
        """
        if self.shape is None:
            raise ValueError(f"{type(self).__name__} does not know its shape; pass a state as the start")
        return _empty(self.shape, n, self.process, self._example())

    def _example(self) -> Tensor:
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            return tensor
        return torch.empty(0)

    def prepare(self, condition: Condition) -> Condition:
        """Whatever a run needs once: features of texts and images, the anchor. Default: as it is."""
        return condition

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """Words given for the field `name`, as ids (B, L); `prepare` makes features of them.

        Raises:
            ValueError: this model reads no words in that field.
        """
        raise ValueError(
            f"{name}: {type(self).__name__} reads no words, got {list(words)[:2]}; it reads numbers or tensors, as "
            f"{', '.join(sorted(self.fields)) or 'no field'} (denoisers.Prompted gives a model an encoder of words)"
        )

    def many(
        self, x: Tree, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """The posteriors of the same states under several conditions; in one network call where possible."""
        return [self(x, t, condition, step) for condition in conditions]

    def where(
        self,
        mask: Tensor,
        x: Tree,
        t: Time,
        condition: Condition | None,
        step: Step | None,
        otherwise: Posterior,
    ) -> Posterior:
        """Evaluate only the rows where `mask` (B,) is true; the others are those of `otherwise`.

        The rows must be known on the host, so this waits for the device: use it where it saves network calls.
        """
        index = mask.nonzero().squeeze(1)
        if not len(index):
            return otherwise
        given = condition.rows(index) if condition is not None else None
        some = self(select(x, index), select(t, index), given, step)
        return _scattered(otherwise, some, index)

    def before_draw(self, distribution: Distribution, step: Step) -> Distribution:
        """Change the law of a step before it is drawn."""
        return distribution

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """Change the drawn state."""
        return x


def _empty(shape: Any, n: int, process: Any, example: Tensor) -> Tree:
    if isinstance(shape, dict):
        return {k: _empty(v, n, process.parts[k], example) for k, v in shape.items()}
    dtype = torch.long if process.discrete else example.dtype
    return torch.empty(n, *shape, dtype=dtype, device=example.device)


def _scattered(base: Posterior, some: Posterior, index: Tensor) -> Posterior:
    if isinstance(base, ProductPosterior):
        parts = {k: _scattered(base[k], some[k], index) for k in base.parts}
        options = {"condition": base.condition, "evaluations": _calls(base, some, index)}
        return ProductPosterior(base.process, base.x, base.t, parts, **options)
    mean, end = (_placed(getattr(base, name), getattr(some, name), index) for name in ("mean", "end"))
    return base.with_mean(mean, end=end, evaluations=_calls(base, some, index))


def _placed(base: Tree, some: Tree, index: Tensor) -> Tree:
    if some is None or base is None:
        return base
    return tree_map(lambda b, v: b.index_copy(0, index, v.to(b.dtype)), base, some)


def _calls(base: Posterior, some: Posterior, index: Tensor) -> Tensor:
    calls: Tensor = torch.zeros(batch_size(base.x), dtype=torch.long, device=index.device) + base.evaluations
    return calls.index_add(0, index, torch.zeros_like(index) + some.evaluations)


class Guide:
    """Conditioning at inference time: a callable Denoiser -> Denoiser. Guides nest.

    A guide may change the posterior, the law of a step, or the drawn state; it overrides what it needs. What
    it remembers of a trajectory lives in `step.memory[self]`, trees with the batch in front, never on `self`.
    """

    fields: frozenset[str] = frozenset()
    remembers = False  # whether it keeps something of every call in a step: then it is called once a step
    by_row = False  # whether it has a choice for each row of one grid: then every row is to call the network

    def __call__(self, denoiser: Denoiser) -> Guided:
        """The guided denoiser.

        Raises:
            ValueError: this guide cannot act on this denoiser.
        """
        if not isinstance(denoiser, Denoiser):
            raise TypeError(
                f"{type(self).__name__} is called on a model, guide(model), with its settings before: got {denoiser!r}"
            )
        self.check(denoiser)
        return Guided(denoiser, self)

    def check(self, denoiser: Denoiser) -> None:
        """Refuse what cannot work, before any work starts."""

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """The guided posterior; `step` is None outside a run, where guides take their continuous-time limit."""
        inner: Posterior = denoiser(x, t, condition, step)
        return inner

    def before_draw(self, distribution: Distribution, step: Step) -> Distribution:
        """Change the law of a step."""
        return distribution

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """Change the drawn state."""
        return x


class Guided(Denoiser):
    """A denoiser under a guide; all that the guide does not change is the inner denoiser's."""

    def __init__(self, denoiser: Denoiser, guide: Guide) -> None:
        super().__init__()
        self.denoiser, self.guide = denoiser, guide
        self.process, self.estimates, self.shape = denoiser.process, denoiser.estimates, denoiser.shape
        self.fields = denoiser.fields | guide.fields
        self.fit = None if guide.by_row else denoiser.fit
        self.blocks = denoiser.blocks

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The guided posterior."""
        return self.guide.posterior(self.denoiser, x, t, condition, step)

    def many(
        self, x: Tree, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """The inner denoiser's, in one network call, where the guide leaves posteriors alone."""
        if type(self.guide).posterior is Guide.posterior:
            return self.denoiser.many(x, t, conditions, step)
        return super().many(x, t, conditions, step)

    def like(self, n: int) -> Tree:
        """The inner denoiser's."""
        return self.denoiser.like(n)

    def prepare(self, condition: Condition) -> Condition:
        """The inner denoiser's."""
        return self.denoiser.prepare(condition)

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The inner denoiser's."""
        return self.denoiser.tokenise(name, words)

    def before_draw(self, distribution: Distribution, step: Step) -> Distribution:
        """Innermost first."""
        return self.guide.before_draw(self.denoiser.before_draw(distribution, step), step)

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """Innermost first."""
        return self.guide.after_draw(self.denoiser.after_draw(x, step), step)
