"""What a codec is trained on."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Keyed
from ornstein.denoisers import Reconstructor
from ornstein.networks import Autoencoder, Classifier
from ornstein.objectives import Reconstruction, gradient_distance, perceptual_distance
from ornstein.spaces import AutoencoderCodec

N = 6


def model(kind="kl"):
    torch.manual_seed(0)
    network = Autoencoder(1, latent=2, factor=2, width=4, moments=kind == "kl")
    return Reconstructor(AutoencoderCodec(network, kind, codes=9), (1, 8, 8))


@pytest.fixture
def batch():
    return {"x_0": torch.rand(N, 1, 8, 8) * 2 - 1}


@pytest.fixture
def classifier():
    return Classifier(1, 3, width=4).eval().requires_grad_(False)


def test_the_loss_is_that_of_the_formula(batch, classifier):
    objective, own, noise = Reconstruction(classifier, 0.5, kl=1e-2), model(), Keyed(0, N)
    with torch.no_grad():
        objective.log_scale.fill_(0.7)
    losses = objective(own, batch, noise)
    law = own.codec.law(batch["x_0"])
    z = law.mean + law.scale * noise.fold("latent").normal(law.mean)
    shown = own.codec.network.decoder(z)
    pixels = (shown - batch["x_0"]).abs().mean((1, 2, 3))
    features = 0.5 * perceptual_distance(classifier, shown, batch["x_0"])
    divergence = 0.5 * (law.mean**2 + law.scale**2 - 1 - 2 * law.scale.log()).flatten(1).sum(1)
    known = (pixels + features) / math.exp(0.7) + 0.7 + 1e-2 * divergence / 64
    assert torch.allclose(losses.sample, known)
    assert set(losses.named) == {"pixels", "features", "regular"}


def test_gradients_pass_the_quantiser_to_encoder_codes_and_decoder(batch):
    own = model("vq")
    losses = Reconstruction()(own, batch, Keyed(0, N))
    losses.total.backward()
    assert all(
        p.grad is not None and bool(p.grad.abs().sum() > 0)
        for p in own.codec.network.encoder[-1].parameters()
    )
    assert bool((own.codec.book.grad.abs().sum(1) > 0).any())
    points = own.codec.law(batch["x_0"]).mean
    gap = (points - own.codec.nearest(points)).square().flatten(1).sum(1)
    assert torch.allclose(losses.named["regular"], 1.25 * gap / 64)


def test_the_perceptual_distance_is_0_for_equal_images_and_sees_a_change(batch, classifier):
    x = batch["x_0"]
    assert perceptual_distance(classifier, x, x).abs().max() == 0
    near, far = (perceptual_distance(classifier, x, x + size * torch.randn_like(x)) for size in (0.01, 1.0))
    assert bool((near < far).all()) and near.shape == (N,)


def test_the_gradient_distance_is_that_of_a_ramp_and_of_a_step():
    """Of slope s it is s, 2 s and 4 s at the three scales along the ramp and 0 across it: 7 s / 6 in the mean."""
    across = torch.arange(16.0).expand(2, 3, 16, 16)
    slope = torch.tensor([0.5, -2.0])[:, None, None, None]
    zero = torch.zeros(2, 3, 16, 16)
    assert torch.allclose(gradient_distance(slope * across, zero), 7 * slope.abs().flatten() / 6)
    assert torch.allclose(gradient_distance(zero, slope * across.mT), 7 * slope.abs().flatten() / 6)
    step = (across >= 8).to(across)  # one jump a row, of 15, 7 and 3 differences
    assert torch.allclose(gradient_distance(step, zero), torch.full((2,), (1 / 15 + 1 / 7 + 1 / 3) / 6))
    assert gradient_distance(step + 3, step).abs().max() == 0  # levels are not its business
    assert torch.allclose(gradient_distance(step[..., :2, :2], step[..., 7:9, 7:9]), torch.full((2,), 0.5))


def test_gradients_are_a_part_of_the_loss_and_the_scale_may_stand_still(batch):
    own, noise = model(), Keyed(0, N)
    plain, with_gradients = (Reconstruction(gradients=g, learn_scale=False) for g in (0.0, 0.4))
    losses = with_gradients(own, batch, noise)
    law = own.codec.law(batch["x_0"])
    shown = own.codec.network.decoder(law.sample(noise.fold("latent")))
    extra = 0.4 * gradient_distance(shown, batch["x_0"])
    assert torch.allclose(losses.named["gradients"], extra)
    assert torch.allclose(losses.sample, plain(own, batch, noise).sample + extra)
    losses.total.backward()
    assert plain.log_scale.grad is None and with_gradients.log_scale.grad is None


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="kl: expected a number of at least 0"):
        Reconstruction(kl=-1.0)
    with pytest.raises(ValueError, match=r"gradients: expected a number of at least 0, got -0\.5"):
        Reconstruction(gradients=-0.5)
    with pytest.raises(ValueError, match="perceptual: expected"):
        Reconstruction(perceptual=float("nan"))


def test_a_model_without_a_codec_is_refused(batch, classifier):
    with pytest.raises(TypeError, match=r"trains a denoisers\.Reconstructor\(codec\), got Classifier"):
        Reconstruction()(classifier, batch, Keyed(0, N))


def test_the_whole_weight_is_on_the_codes_and_a_quarter_on_the_encoder(batch):
    """Gradients of |sg(z) - c|^2 + 0.25 |z - sg(c)|^2 for the codes and for the encoder's last bias."""
    own = model("vq")
    bias = own.codec.network.encoder[-1].bias
    points = own.codec.law(batch["x_0"]).mean.detach()
    codes = own.codec.nearest(points).detach()
    losses = Reconstruction()(own, batch, Keyed(0, N))
    for_book, for_bias = torch.autograd.grad(losses.named["regular"].sum(), (own.codec.book, bias))
    gaps = (codes - points).movedim(1, -1).flatten(0, -2)
    chosen = (codes.movedim(1, -1).flatten(0, -2).unsqueeze(1) == own.codec.book).all(-1)
    assert torch.allclose(for_book, 2 * chosen.to(gaps).T @ gaps / 64)
    assert torch.allclose(for_bias, -0.5 * gaps.sum(0) / 64)
    assert float(for_bias.abs().min()) > 1e-4


def test_the_reconstruction_reaches_the_encoder_straight_through_the_quantiser(batch):
    own = model("vq")
    codes = own.codec.nearest(own.codec.law(batch["x_0"]).mean).detach().requires_grad_()
    gap = (own.codec.network.decoder(codes) - batch["x_0"]).abs().mean((1, 2, 3)).sum()
    (at_codes,) = torch.autograd.grad(gap, codes)
    losses = Reconstruction()(own, batch, Keyed(0, N))
    bias = own.codec.network.encoder[-1].bias
    (found,) = torch.autograd.grad(losses.named["pixels"].sum(), bias, retain_graph=True)
    assert torch.allclose(found, at_codes.sum((0, 2, 3))) and float(found.abs().min()) > 1e-6
    assert torch.autograd.grad(losses.named["pixels"].sum(), own.codec.book, allow_unused=True) == (None,)
