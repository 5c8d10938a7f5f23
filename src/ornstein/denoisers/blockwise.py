"""A blockwise network as a denoiser: every block given the clean ones before it, their keys and values kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Posterior, Process, Step, Time
from ornstein.networks import BlockwiseTransformer, KVCache
from ornstein.networks.patches import Blocks

from .network import NetworkDenoiser

__all__ = ["Blockwise"]


class Blockwise(NetworkDenoiser):
    """The posterior of every block given the clean blocks before it, p(x_0[i] | x_t[i], x_0[<i]), by a
    `BlockwiseTransformer` (ACDiT, Hu et al. 2024, 2412.07720).

    Times may differ from block to block: a map (B, 1, *size), as `objectives.PerBlock` draws it and the rows of
    `solvers.block_by_block` say it. Where the condition holds the field `clean` (the clean state), all blocks are
    answered at once; `objectives.OwnCondition(..., field="clean")` trains so. In a run, earlier blocks are to be at
    time 0, and only the first block above it is answered; those after it, which wait, get a posterior mean of 0.

    Keys and values of clean blocks depend on neither times nor condition: they are read once, lie in the run's memory
    and serve all branches of a guide. Whoever changes a block after it has become clean must start anew.

    Args:
        network: a `BlockwiseTransformer`.
        process: an affine process without an anchor.
        prediction: as of `NetworkDenoiser`.
        shape: event shape; that of the network if None.
        scale: root-mean-square of the data's entries.
        cached: whether keys and values are kept from step to step. Otherwise they are made anew at each, by the same
            operations: the same bits, later.

    Raises:
        ValueError: a process with an anchor, which a block would need its share of, or one that is not affine.
    """

    network: BlockwiseTransformer
    needs = frozenset({"clean"})  # without it there is nothing to learn: it is not dropped in training

    def __init__(
        self,
        network: BlockwiseTransformer,
        process: Process,
        prediction: str = "velocity",
        shape: Any = None,
        scale: float = 0.5,
        cached: bool = True,
    ) -> None:
        if not isinstance(process, AffineProcess) or process.anchored:
            raise ValueError(f"process: expected an affine process without an anchor, got {process!r}")
        size = (network.channels, *network.layout.size)
        super().__init__(network, process, prediction, size if shape is None else shape, scale)
        self.cached, self.fields = cached, self.fields | {"clean"}

    @property
    def blocks(self) -> Blocks:
        """How states are cut."""
        return self.network.layout

    def forward(
        self, x: Tensor, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """All blocks given `clean`, or the one block that is being made.

        Raises:
            ValueError: without `clean`, where a block is above time 0 before the one that is made.
        """
        condition = condition.at(t) if condition is not None else None
        t = t.expand(len(x), *t.shape[1:]) if isinstance(t, Tensor) and t.ndim else t
        times = self.blocks.times(t).expand(len(x), -1)
        if condition is not None and "clean" in condition:
            return self._all(x, t, times, condition["clean"], condition)
        shown = times.cpu()  # the one read of a step from the device
        waiting = shown.cummax(1).values.roll(1, 1)
        waiting[:, 0] = 0.0
        if bool(((waiting > 0) & (shown < 1)).any()):
            raise ValueError(
                "t: a block below time 1 stands behind one above time 0. Blocks are made one after the other: run the "
                "grid of solvers.block_by_block, or pass the clean state as clean="
            )
        if len(shown) and bool((shown != shown[:1]).any()):
            return self._all(x, t, times, x, condition)
        return self._one(x, t, shown[0].tolist(), condition, {} if step is None else step.memory)

    def many(
        self, x: Tensor, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """One call for each condition; all read the same keys and values, which depend on none of them."""
        return [self(x, t, condition, step) for condition in conditions]

    def _all(
        self, x: Tensor, t: Time, times: Tensor, clean: Tensor, condition: Condition | None
    ) -> Posterior:
        """Every block given the clean ones before it, in one pass."""
        level = self.process.clock(times).to(x)
        given = self._input(self.process, x, t), level, condition
        output, heads = self._output(*given, clean=self._input(self.process, clean, 0.0))
        posterior = self._posterior(self.process, x, t, output, condition)
        posterior.heads = heads
        return posterior

    def _one(
        self, x: Tensor, t: Time, times: list[float], condition: Condition | None, memory: dict[Any, Any]
    ) -> Posterior:
        """The first block above time 0, given the keys and values of those before it."""
        index = next((i for i, time in enumerate(times) if time > 0), None)
        if index is None:
            return Posterior(self.process, x, t, x, evaluations=0, condition=condition)
        parts, time = self.blocks.cut(x), times[index]
        cache = memory.get(self, KVCache()) if self.cached else KVCache()
        known = cache.length // self.network.tokens
        cache, known = (cache, known) if known <= index else (KVCache(), 0)
        for i in range(known, index):
            cache = self.network.read(self._input(self.process, parts[:, i], 0.0), i, cache)
        if self.cached:
            memory[self] = cache
        level = torch.full((len(x),), float(self.process.clock(time)), dtype=x.dtype, device=x.device)
        seen = self._input(self.process, parts[:, index], time)
        output = self.network.predict(seen, index, level, condition, cache).to(x.dtype)
        made = self._mean(self.process, parts[:, index], time, output, condition)  # type: ignore[arg-type]
        mean = torch.cat([parts[:, :index], made[:, None], torch.zeros_like(parts[:, index + 1 :])], dim=1)
        calls = 1 + index - known
        return Posterior(self.process, x, t, self.blocks.join(mean), evaluations=calls, condition=condition)
