"""A denoiser whose network has some residual blocks left out, other ones at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ornstein.core import Condition, Denoiser, Posterior, Step, Time, Tree

from .network import NetworkDenoiser

__all__ = ["LayerSkip"]


class LayerSkip(Denoiser):
    """Step i asks the network without the blocks plan[i]: the second search space of AutoDiffusion (2309.10438).

    The views share all parameters. Outside a run, where no step is known, the whole network answers.

    Args:
        denoiser: of a network that has `without(blocks)`, such as `networks.UNet`.
        plan: for every row of the grid the names of the blocks that are left out (see `residual_blocks`).

    Raises:
        ValueError: a network without views, or an unknown block.
    """

    def __init__(self, denoiser: NetworkDenoiser, plan: Sequence[Sequence[str]]) -> None:
        super().__init__()
        if not hasattr(denoiser.network, "without"):
            raise ValueError(
                f"denoiser: {type(denoiser.network).__name__} has no view without some of its blocks; UNet has"
            )
        self.denoiser, self.process, self.shape = denoiser, denoiser.process, denoiser.shape
        self.estimates, self.fields, self.fit = denoiser.estimates, denoiser.fields, None  # a plan is by row
        self.plan = tuple(tuple(sorted(blocks)) for blocks in plan)
        self._views = {blocks: _view(denoiser, blocks) for blocks in self.plan}

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The posterior by the step's own view."""
        return self._at(step)(x, t, condition, step)

    def prepare(self, condition: Condition) -> Condition:
        """The whole denoiser's."""
        return self.denoiser.prepare(condition)

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The whole denoiser's."""
        return self.denoiser.tokenise(name, words)

    def _at(self, step: Step | None) -> NetworkDenoiser:
        if step is None:
            return self.denoiser
        if not isinstance(step.index, int) or not 0 <= step.index < len(self.plan):
            raise ValueError(f"LayerSkip: a plan of {len(self.plan)} steps has nothing for step {step.index}")
        return self._views[self.plan[step.index]]


def _view(denoiser: NetworkDenoiser, blocks: Sequence[str]) -> NetworkDenoiser:
    """A denoiser around the view. Views are kept in a plain dict, so that parameters are counted once."""
    if not blocks:
        return denoiser
    network: Any = denoiser.network
    made = NetworkDenoiser(
        network.without(blocks),
        denoiser.process,
        denoiser.prediction,
        denoiser.shape,
        denoiser.scale,
        denoiser.estimates,
    )
    return made.train(denoiser.training)
