"""Small networks of every kind, with inputs that fit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ornstein.core import Condition, Tree, select, tree_map
from ornstein.networks import BlockwiseTransformer, JointUNet, SequenceTransformer, Transformer, UNet

LABELS = 5


class Case(NamedTuple):
    """A network and the arguments of a call of four rows, in float64."""

    network: nn.Module
    x: Tree
    level: Tree
    condition: Condition | None

    def __call__(self, **changes: Any) -> Tree:
        case = self._replace(**changes)
        return case.network(case.x, case.level, case.condition)

    def rows(self, index: slice) -> Case:
        condition = None if self.condition is None else self.condition.rows(index)
        return Case(self.network, select(self.x, index), select(self.level, index), condition)


def awake(network: nn.Module) -> nn.Module:
    """The network with every zero-initialised parameter given small values, as after some training."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += 0.1 * noise
    return network


def labels() -> Condition:
    present = torch.tensor([True, False, True, True])
    return Condition({"label": torch.tensor([1, 0, 4, 1])}, {"label": present})


def unet(*size: int, **options: Any) -> Case:
    network = UNet(2, dims=len(size), width=8, multipliers=(1, 2), labels=LABELS, **options)
    return Case(network, torch.randn(4, 2, *size), torch.randn(4), labels())


def transformer() -> Case:
    network = SequenceTransformer(7, 6, length=5, width=16, depth=2, heads=2, labels=LABELS)
    return Case(network, torch.randint(7, (4, 5)), torch.randn(4), labels())


def joint() -> Case:
    network = JointUNet(1, 3, width=8, multipliers=(1, 2), attention=(1,), labels=LABELS)
    x = {"image": torch.randn(4, 1, 6, 6), "label": torch.tensor([0, 3, 2, 1])}
    return Case(network, x, {"image": torch.randn(4), "label": torch.randn(4)}, labels())


def patches(*size: int, **options: Any) -> Case:
    network = Transformer(2, dims=len(size), depth=2, heads=2, labels=LABELS, **{"width": 16, **options})
    return Case(network, torch.randn(4, 2, *size), torch.randn(4), labels())


def blocks() -> Case:
    network = BlockwiseTransformer(2, (4, 6), grid=(2, 3), width=16, depth=2, heads=2, labels=LABELS)
    return Case(network, torch.randn(4, 2, 4, 6), torch.randn(4), labels())


CASES: dict[str, Callable[[], Case]] = {
    "signal": lambda: unet(13, attention=(0,)),
    "image": lambda: unet(6, 7, attention=(1,), out_channels=3, blocks=2),
    "volume": lambda: unet(3, 4, 5),
    "sequence": transformer,
    "joint": joint,
    "patched signal": lambda: patches(7, patch=3, qk_norm=True),
    "patched image": lambda: patches(5, 6, skips=True, hidden=24),
    "patched volume": lambda: patches(2, 3, 4, patch=(1, 2, 2), width=24, out_channels=1),
    "blocks": blocks,
}


@pytest.fixture(params=CASES)
def fresh(request: pytest.FixtureRequest) -> Case:
    """A case with the network as constructed."""
    torch.manual_seed(0)
    case = CASES[request.param]()
    double = tree_map(lambda v: v.double() if v.is_floating_point() else v, (case.x, case.level))
    return Case(case.network.double(), *double, case.condition)


@pytest.fixture
def case(fresh: Case) -> Case:
    """A case with the network as after some training."""
    awake(fresh.network)
    return fresh


@pytest.fixture
def wake() -> Callable[[nn.Module], nn.Module]:
    return awake


def flat(tree: Tree) -> Tensor:
    """All entries of a tree in one vector."""
    return torch.cat([v.flatten() for v in (tree.values() if isinstance(tree, dict) else [tree])])
