from __future__ import annotations

import math

import pytest
import torch

from ornstein.denoisers import NetworkDenoiser
from ornstein.diagnostics import mutual_information, routing
from ornstein.networks import Transformer, UNet
from ornstein.processes import RectifiedFlow


def test_routes_are_those_that_the_experts_were_given():
    torch.manual_seed(0)
    network = Transformer(1, width=16, depth=3, heads=2, hidden=8, experts={"experts": 4})
    model, x, t = (
        NetworkDenoiser(network, RectifiedFlow()),
        torch.randn(3, 1, 4, 4),
        torch.tensor([0.1, 0.5, 0.9]),
    )
    seen = {}
    for i, block in enumerate(network.blocks):
        block.ffn.register_forward_hook(lambda m, given, out, i=i: seen.update({i: given[0]}))
    found = routing(model, x, t)
    assert found.shape == (3, 3, 4, 2)
    for i, block in enumerate(network.blocks):
        assert torch.equal(found[i], block.ffn.router(seen[i]).topk(2, dim=-1).indices)
    with pytest.raises(ValueError, match="UNet has no mixture of experts"):
        routing(NetworkDenoiser(UNet(1, width=8), RectifiedFlow()), x, t)


def test_information_is_exact_where_it_is_whole_and_zero_where_there_is_none():
    a = torch.arange(4).repeat(500)
    assert abs(mutual_information(a, a) - math.log(4)) < 0.01
    assert abs(mutual_information(a, a // 2) - math.log(2)) < 0.01
    noise = torch.randint(50, (2000,), generator=torch.Generator().manual_seed(0))
    assert abs(mutual_information(a, noise)) < 0.01  # the plug-in alone would say about 0.04
