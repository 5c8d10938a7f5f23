"""An encoder and a decoder that are local, and what they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.core import build
from ornstein.networks import Autoencoder


def made(**options) -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(2, **{"latent": 3, "factor": 4, "width": 4, "patch": 2, **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # residual blocks start as identities
    return network.eval().requires_grad_(False)


def test_new_residual_blocks_are_identities():
    torch.manual_seed(0)
    network = Autoencoder(2, latent=3, factor=1, width=8, blocks=(2, 3))
    x = torch.randn(2, 2, 5, 5)
    _, first, *blocks, norm, act, last = network.encoder
    assert len(blocks) == 2
    assert torch.allclose(network.encoder(x), last(act(norm(first(x)))))


def test_norms_make_every_place_of_unit_mean_square():
    norm = made().encoder[-3]
    norm.norm.weight.fill_(1.0)
    x = 7 * torch.randn(3, norm.norm.weight.numel(), 4, 5)
    assert torch.allclose(norm(x).square().mean(1), torch.ones(3, 4, 5), atol=1e-4)
    assert torch.allclose(norm(x)[:, :, 2:3, 1:2], norm(x[:, :, 2:3, 1:2]))  # of one place alone


@pytest.mark.parametrize(
    "factor, patch, blocks", [(4, 2, (1, 1)), (4, 1, (1, 1)), (2, 2, (2, 2)), (8, 4, (1, 1))]
)
def test_the_decoder_sees_as_far_as_it_says_and_no_farther(factor, patch, blocks):
    network = made(factor=factor, patch=patch, blocks=blocks)
    side = 2 * network.reach + 3
    z = torch.randn(1, 3, side, 1)
    changed = z.clone()
    changed[:, :, side // 2] += 1
    moved = (network.decoder(changed) - network.decoder(z)).abs().amax((0, 1, 3)).unflatten(0, (side, factor))
    places = (moved.amax(1) > 0).nonzero().flatten()
    assert int((places - side // 2).abs().max()) == network.reach


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_shifts_by_a_factor_shift_the_latent(patch):
    network = made(patch=patch)
    x = torch.randn(1, 2, 80, 4)
    z, shifted = network.encoder(x), network.encoder(x.roll(4, 2))
    assert torch.allclose(shifted[:, :, 8:-8], z.roll(1, 2)[:, :, 8:-8])


def test_a_row_does_not_depend_on_its_batch_and_sizes_are_free():
    network, x = made(), torch.randn(3, 2, 12, 20)
    z = network.encoder(x)
    assert z.shape == (3, 6, 3, 5) and network.decoder(z[:, :3]).shape == x.shape
    assert torch.allclose(network.encoder(x[1:2]), z[1:2])


def test_a_config_brings_the_network_back():
    network = made(blocks=(1, 2), decoder_width=6, moments=False)
    again = build(network.spec())
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(again.decoder(again.encoder(x)), network.decoder(network.encoder(x)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"factor": 3}, r"factor: expected one of \(1, 2, 4, 8\), got 3"),
        ({"patch": 8}, "patch: expected one of .* that divides the factor 4, got 8"),
        ({"patch": 0}, "patch: expected a positive integer"),
        ({"blocks": (1, 0)}, "blocks: expected a positive integer, got 0"),
        ({"blocks": (1,)}, "blocks: expected two numbers"),
        ({"latent": 0}, "latent: expected a positive integer"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
