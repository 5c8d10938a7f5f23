from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Keyed, build
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.objectives import Denoising
from ornstein.processes import RectifiedFlow


def test_gradients_reach_every_parameter_and_the_output_starts_at_zero():
    net = ResidualMLP(5, width=16, depth=2, labels=3)
    x, level = torch.randn(6, 5), torch.randn(6)
    label = Condition({"label": torch.tensor([0, 1, 2, 0, 1, 2])}, {"label": torch.arange(6) < 4})
    assert not net(x, level, label).any()
    for parameter in net.outer.parameters():
        torch.nn.init.normal_(parameter)
    net(x, level, label).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_rows_do_not_see_each_other_and_the_spec_rebuilds_it():
    net = build(ResidualMLP(4, width=16).spec()).double()
    torch.nn.init.normal_(net.outer.weight)
    x, level = torch.randn(5, 4).double(), torch.randn(5).double()
    torch.testing.assert_close(net(x, level)[2:3], net(x[2:3], level[2:3]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net(x, level), net(x, level + 1))
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 4\)"):
        net(torch.randn(5, 3).double(), level)


def test_it_learns_the_posterior_of_a_gaussian():
    """Of N(1, 0.5^2), for which the best mean is known: D = 1 + 0.25 a (x - a) / (0.25 a^2 + s^2)."""
    torch.manual_seed(0)
    model = NetworkDenoiser(ResidualMLP(1, width=32, depth=2), RectifiedFlow(), shape=(1,), scale=1.1)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for i in range(400):
        x_0 = 1 + 0.5 * Keyed(i, 256).normal(torch.empty(256, 1))
        optimiser.zero_grad()
        Denoising()(model, {"x_0": x_0}, Keyed(i, 256).fold("noise")).total.backward()
        optimiser.step()
    for t in (0.2, 0.5, 0.8):
        x = torch.linspace(-0.5, 1.5, 9)[:, None]
        exact = 1 + 0.25 * (1 - t) * (x - (1 - t)) / (0.25 * (1 - t) ** 2 + t**2)
        torch.testing.assert_close(model(x, t).mean, exact, atol=0.12, rtol=0)
