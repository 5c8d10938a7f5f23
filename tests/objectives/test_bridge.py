"""Training of bridges."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Keyed
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import Paired, UNet
from ornstein.objectives import BridgeDenoising
from ornstein.processes import BrownianBridge, ConsecutiveBridge

N = 4000


def test_both_sides_are_at_one_time_and_a_share_is_at_the_start():
    objective, x_0 = BridgeDenoising(start=0.2), torch.zeros(N, 2)
    for process, state in ((BrownianBridge(), x_0), (ConsecutiveBridge(), {"previous": x_0, "next": x_0})):
        t = objective.times(process, state, Keyed(0, N))
        assert t.shape == (N,)
        assert float((t == 1).double().mean()) == pytest.approx(0.2, abs=0.02)
        inside = t[t < 1]
        assert float(inside.min()) > 0 and float(inside.mean()) == pytest.approx(0.5, abs=0.02)


class Seen(torch.nn.Module):
    """Remembers what it is told, and answers 0."""

    fields = frozenset({"previous", "next"})

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, level, condition=None):
        self.told = x, level
        return {k: v * self.weight for k, v in x.items()}


def test_the_loss_is_the_error_of_both_sides_whose_noise_is_one():
    process, network = ConsecutiveBridge(0.3), Seen()
    model = NetworkDenoiser(network, process, "mean", {"previous": (2,), "next": (2,)}, scale=1.0)
    x_0, y, z = torch.randn(3, N, 2)
    condition = Condition({"previous": y, "next": z})
    batch = {"x_0": {"previous": x_0, "next": x_0}, "condition": condition, "time": torch.full((N,), 0.25)}
    losses = BridgeDenoising()(model, batch, Keyed(0, N))
    assert torch.allclose(losses.sample, 2 * (x_0**2).mean(1))
    size = (1 + 2 * 0.3 * 0.25 * 0.75) ** -0.5
    seen, level = network.told
    assert torch.allclose(seen["previous"] - seen["next"], 0.25 * size * (y - z))
    assert torch.equal(level["previous"], level["next"])


def test_the_network_is_told_finite_numbers_at_the_point_where_runs_begin():
    network = Paired(UNet(4, width=4, multipliers=(1,), out_channels=1))
    model = NetworkDenoiser(network, ConsecutiveBridge(), "mean", dict.fromkeys(network.sides, (1, 4, 4)))
    y, z = torch.randn(2, 3, 1, 4, 4)
    for t in (1.0, torch.ones(3)):
        found = model({"previous": y, "next": z}, t, Condition({"previous": y, "next": z}))
        assert all(bool(torch.isfinite(leaf).all()) for leaf in found.mean.values())


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"start: expected a number in \[0, 1\)"):
        BridgeDenoising(start=1.0)
