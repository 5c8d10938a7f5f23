"""The bound of an autoencoder, and what a linear one is best at: probabilistic principal components."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Keyed, Recorded
from ornstein.denoisers import Reconstructor
from ornstein.networks import Autoencoder, CodeAutoencoder
from ornstein.objectives import EvidenceBound
from ornstein.spaces import AutoencoderCodec

from ..exact import covariance

D, K, V = 5, 2, 0.1


def data(n: int = 60) -> torch.Tensor:
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(0))
    return 0.7 + x @ torch.linalg.cholesky(covariance(D, 4)).T


def principal(x: torch.Tensor) -> Reconstructor:
    """The linear autoencoder of Tipping and Bishop (1999): W = U (L - v)^(1/2), codes of variance v / L."""
    mean, cov = x.mean(0), x.T.cov(correction=0)
    values, vectors = (v.flip(-1)[..., :K] for v in torch.linalg.eigh(cov))
    w = vectors * (values - V).sqrt()
    network = CodeAutoencoder((D,), K, hidden=())
    encoder, decoder = network.encoder[1], network.decoder[0]
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(mean)
        encoder.weight.copy_(torch.cat([w.T / values[:, None], torch.zeros(K, D)]))
        encoder.bias.copy_(torch.cat([-(w.T / values[:, None]) @ mean, (V / values).log()]))
    return Reconstructor(AutoencoderCodec(network), (D,))


def whole(model: Reconstructor, x: torch.Tensor) -> torch.Tensor:
    """The loss of every row without its code's randomness: over points of a cubature that is exact for squares."""
    points = math.sqrt(K) * torch.cat([torch.eye(K), -torch.eye(K)])
    noise = Recorded({("latent", "normal", ()): points.repeat_interleave(len(x), 0)})
    losses = EvidenceBound(V)(model, {"x_0": x.repeat(2 * K, 1)}, noise)
    torch.testing.assert_close(losses.sample, losses.named["error"] + losses.named["divergence"])
    return losses.sample.reshape(2 * K, len(x)).mean(0)


def test_at_principal_components_the_bound_is_tight_and_stationary():
    x = data()
    model = principal(x)
    w = model.codec.network.decoder[0].weight
    law = torch.distributions.MultivariateNormal(x.mean(0), w @ w.T + V * torch.eye(D))
    loss = whole(model, x)
    torch.testing.assert_close(loss, -law.log_prob(x), rtol=1e-10, atol=1e-10)
    for gradient in torch.autograd.grad(loss.mean(), list(model.codec.network.parameters())):
        assert gradient.abs().max() < 1e-10
    with torch.no_grad():
        for p in model.codec.network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    assert (whole(model, x).mean() - loss.mean()) > 1e-3


def test_the_divergence_is_positive_and_zero_at_the_prior():
    codec = principal(data()).codec
    law = codec.law(data())
    assert bool((codec.divergence(law) > 0).all())
    law.mean, law.scale = 0 * law.mean, torch.ones_like(law.mean)
    assert torch.equal(codec.divergence(law), torch.zeros(len(law.mean)))


def test_the_papers_sum_of_squares_on_data_in_0_to_1_is_variance_2_in_minus_1_to_1():
    x = data().clamp(-1, 1)
    model = principal(x)
    found = EvidenceBound()(model, {"x_0": x}, Keyed(0, len(x))).named["error"]
    shown = model.codec.reconstructed(model.codec.law(x).sample(Keyed(0, len(x)).fold("latent")))
    squares = ((shown / 2 - x / 2) ** 2).sum(1)
    torch.testing.assert_close(found - squares, torch.full((len(x),), 0.5 * D * math.log(4 * math.pi)))


def test_other_models_are_refused():
    vq = Reconstructor(AutoencoderCodec(Autoencoder(1, 2, 2, 4, moments=False), "vq", codes=4))
    with pytest.raises(TypeError, match="'kl' codec"):
        EvidenceBound()(vq, {"x_0": data()}, Keyed(0, 60))
    with pytest.raises(ValueError, match="variance > 0"):
        EvidenceBound(0.0)
    with pytest.raises(ValueError, match="latent"):
        CodeAutoencoder((4,), 0)
