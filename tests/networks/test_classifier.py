from __future__ import annotations

import pytest
import torch

from ornstein.networks import Classifier


@pytest.mark.parametrize("size", [4, 7, 8, 16, 28, 32])
def test_every_pixel_and_every_parameter_is_read(size):
    network = Classifier(2, 3, width=8, size=size)
    x = torch.randn(4, 2, size, size, requires_grad=True)
    network(x).square().sum().backward()
    assert (x.grad.abs().amax((0, 1)) > 0).all()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_logits_are_a_linear_map_of_the_features():
    network = Classifier(1, 3, width=8).eval()
    x = torch.randn(5, 1, 8, 8)
    features = network.features(x)
    assert features.shape == (5, network.head.in_features)
    assert torch.equal(network(x), network.head(features))


def test_a_batch_equals_its_rows_in_training_too():
    network = Classifier(1, 3, width=8, dropout=0.0).double().train()
    x = torch.randn(4, 1, 8, 8, dtype=torch.double)
    rows = torch.cat([network(row[None]) for row in x])
    assert torch.allclose(network(x), rows, rtol=0, atol=1e-10)


def test_it_learns_to_tell_stripes_apart():
    torch.manual_seed(0)
    network = Classifier(1, 2, width=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    stripes = torch.arange(8).remainder(2).float() * 2 - 1

    def batch(n):
        y = torch.randint(2, (n,))
        clean = torch.where(y[:, None, None, None] > 0, stripes, stripes[:, None])
        return clean + torch.randn(n, 1, 8, 8), y

    for _ in range(40):
        optimizer.zero_grad()
        x, y = batch(64)
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    x, y = batch(256)
    assert (network.eval()(x).argmax(1) == y).float().mean() > 0.97


def test_it_is_differentiable_in_eval_mode_and_compiles():
    network = Classifier(1, 3, width=8).double().eval().requires_grad_(False)
    x = torch.randn(2, 1, 8, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(network, x, fast_mode=True)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), network(x))


def test_images_of_another_size_are_refused():
    network = Classifier(1, 3, width=8, size=8)
    for shape in ((2, 1, 9, 9), (2, 3, 8, 8), (1, 8, 8)):
        with pytest.raises(ValueError, match=r"x: expected \(B, 1, 8, 8\), got"):
            network(torch.randn(shape))
    with pytest.raises(ValueError, match=r"size: expected .* got 0"):
        Classifier(1, 3, size=0)
