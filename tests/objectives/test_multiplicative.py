from __future__ import annotations

import pytest
import torch

from ornstein.core import AffineProcess, Keyed
from ornstein.denoisers import MixtureDenoiser, PotentialDenoiser, TableDenoiser
from ornstein.networks import Potential
from ornstein.objectives import Denoising, MultiplicativeDenoising
from ornstein.processes import Absorbing


class Logarithm(AffineProcess):
    """dX = mu X dt + rho X dW as it is in log X: the mean moves, with a constant 1 as anchor."""

    mu, rho, span = 0.3, 0.8, 2.0

    def schedule(self, t):
        return torch.ones_like(t), torch.zeros_like(t), self.rho * (self.span * t).sqrt()


def _model():
    torch.manual_seed(0)
    return PotentialDenoiser(Potential(2, 12, 2).double(), Logarithm(), (2,), scale=1.0)


@pytest.mark.parametrize("weighting", ["target", "score"])
def test_it_is_the_loss_of_the_logarithm_with_output_and_target_shifted_by_one(weighting):
    """Equal values, equal gradients: score weighting is the plain loss of the score, target weighting the SNR's."""
    n, name = 64, {"target": "snr", "score": "target"}[weighting]
    x_0 = torch.randn(n, 2).exp()
    gradients = []
    for objective, data in (
        (MultiplicativeDenoising(weighting=weighting), x_0),
        (Denoising(name), x_0.log()),
    ):
        model = _model()
        losses = objective(model, {"x_0": data}, Keyed(3, n))
        losses.total.backward()
        gradients.append((losses.sample.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-9, atol=1e-10)
    for ours, theirs in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_target_is_x_times_the_gradient_of_the_log_normal_kernel():
    process, x_0 = Logarithm(), torch.tensor([[2.0, 0.5]])
    x_t = torch.tensor([[1.5, 0.9]], requires_grad=True)
    sigma = process.at(0.4).sigma
    kernel = torch.distributions.LogNormal(x_0.log(), sigma)
    (slope,) = torch.autograd.grad(kernel.log_prob(x_t).sum(), x_t)
    expected = -1 - (x_t.log() - x_0.log()) / sigma**2
    torch.testing.assert_close(x_t * slope, expected.detach())


def test_the_exact_posterior_of_log_normal_data_minimises_it():
    law = MixtureDenoiser([1.0], torch.tensor([[0.3, -0.2]]), 0.25, Logarithm())
    x_0 = law.sample_data(20_000, torch.Generator().manual_seed(0)).exp()

    class Off(torch.nn.Module):
        process, factor = law.process, 1.0

        def forward(self, x, t, condition=None):
            posterior = law(x, t)
            return posterior.with_mean(self.factor * posterior.mean)

    off, found = Off(), []
    for off.factor in (0.9, 1.0, 1.1):
        found.append(MultiplicativeDenoising()(off, {"x_0": x_0}, Keyed(0, len(x_0))).total)
    assert found[1] < found[0] and found[1] < found[2]


def test_what_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive data"):
        MultiplicativeDenoising()(_model(), {"x_0": torch.tensor([[1.0, 0.0]])}, Keyed(0, 1))
    table = TableDenoiser([0, 1], [0.5, 0.5], Absorbing(2))
    with pytest.raises(ValueError, match="affine process"):
        MultiplicativeDenoising()(table, {"x_0": torch.ones(2, 1)}, Keyed(0, 2))
    for options in ({"first": 0.0}, {"weighting": "none"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MultiplicativeDenoising(**options)
