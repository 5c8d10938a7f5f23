from __future__ import annotations

import pytest
import torch

from ornstein.networks import Potential


def _network() -> Potential:
    torch.manual_seed(0)
    return Potential(3, width=16, depth=2).double()


def _place(n=4):
    return torch.randn(n, 3, dtype=torch.float64), torch.linspace(-2, 2, n, dtype=torch.float64)


def test_called_it_is_the_gradient_of_its_potential():
    network, (x, level) = _network(), _place()
    field, h = network(x, level), 1e-6
    for i in range(3):
        e = h * torch.eye(3, dtype=torch.float64)[i]
        slope = (network.potential(x + e, level) - network.potential(x - e, level)) / (2 * h)
        torch.testing.assert_close(field[:, i], slope, rtol=1e-6, atol=1e-8)


def test_its_jacobian_is_symmetric_and_its_laplacian_is_not_zero():
    network, (x, level) = _network(), _place(1)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, level).squeeze(0), x).squeeze(1)
    torch.testing.assert_close(jacobian, jacobian.T)
    plain = -torch.eye(3, dtype=torch.float64)
    assert (jacobian - plain).diagonal().abs().min() > 1e-4


def test_second_gradients_reach_the_weights():
    network, (x, level) = _network(), _place()
    x.requires_grad_()
    field = network(x, level)
    (spread,) = torch.autograd.grad(field.sum(), x, create_graph=True)
    spread.square().sum().backward()
    found = [p.grad for p in network.parameters()][:-1]  # the last bias is a constant of the potential
    assert all(g is not None and torch.isfinite(g).all() and g.abs().max() > 0 for g in found)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_evaluated_where_no_gradients_are_kept(mode):
    network, (x, level) = _network(), _place()
    with mode():
        quiet = network(x, level)
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, network(x, level).detach())


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="sharpness"):
        Potential(2, sharpness=0.0)
    with pytest.raises(ValueError, match="width"):
        Potential(2, width=0)
    with pytest.raises(ValueError, match="expected shape"):
        _network()(torch.zeros(2, 4), torch.zeros(2))
