"""At its neutral value each piece leaves the textbook loss as it is: the loss and its gradient, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from ornstein import objectives as o
from ornstein.conditions import CorruptLabels, PerturbEmbedding, ShuffleCaptions, corrupted
from ornstein.core import Condition, Keyed
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.processes import VariancePreserving

N = 24


def model(prediction="noise"):
    torch.manual_seed(0)
    found = NetworkDenoiser(
        ResidualMLP(4, 16, 1, labels=3).double(), VariancePreserving(), prediction, shape=(4,)
    )
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


def batch():
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(N) % 3
    return {"x_0": torch.randn(N, 4, generator=generator), "condition": Condition({"label": label})}


def unlike():
    """A reference that is not the model."""
    found = model()
    for parameter in found.parameters():
        parameter.data = torch.randn_like(parameter)
    return found


class Image(torch.nn.Module):
    """Weights of terms on images, asked of vectors: the four entries are one 2 x 2 block."""

    def __init__(self, term):
        super().__init__()
        self.term = term

    def of(self, model, seen, noise):
        shaped = seen._replace(x_0=seen.x_0.reshape(-1, 1, 2, 2), posterior=seen.posterior.with_mean(
            seen.posterior.mean.reshape(-1, 1, 2, 2)
        ))  # fmt: skip
        return self.term.of(model, shaped, noise)


def regularised(term):
    return o.Regularised(o.Denoising(), {"term": term})


PIECES = {
    "coupling: independent": lambda: (o.Denoising(coupling=o.Independent()), {}),
    "coupling: k = 1": lambda: (o.Denoising(coupling=o.NearestNoise(1)), {}),
    "times: uniform": lambda: (o.Denoising(times=o.UniformTime()), {}),
    "times: clamped at 0": lambda: (o.Denoising(times=o.ClampedAbove(o.UniformTime(), 0.0)), {}),
    "items: level 0": lambda: (o.Denoising(), {"level": torch.zeros(N)}),
    "items: weight 1": lambda: (o.Denoising(), {"weight": torch.ones(N)}),
    "condition: gamma = 0": lambda: (o.Perturbed(o.Denoising(), PerturbEmbedding(0.0)), {}),
    "condition: gamma = 0, gaussian": lambda: (
        o.Perturbed(o.Denoising(), PerturbEmbedding(0.0, "gaussian")),
        {},
    ),
    "input: gamma = 0": lambda: (o.InputPerturbation(0.0), {}),
    "symmetry: weight 0": lambda: (regularised(o.Symmetry(0.0)), {}),
    "consistency: weight 0": lambda: (regularised(o.Consistency(0.0, steps=2, draws=2)), {}),
    "similarity: weight 0": lambda: (regularised(o.PairwiseSimilarity(unlike(), weight=0.0)), {}),
    "representation: weight 0": lambda: (
        regularised(o.RepresentationAlignment(torch.nn.Identity(), "blocks.0", (16, 4), weight=0.0)),
        {},
    ),
}


def result(objective, changes, prediction="noise"):
    own = model(prediction)
    losses = objective(own, {**batch(), **changes}, Keyed(7, N))
    slopes = torch.autograd.grad(losses.total, list(own.parameters()), allow_unused=True)
    return losses.sample, losses.total.detach(), slopes


@pytest.mark.parametrize("prediction", ["noise", "velocity", "edm"])
@pytest.mark.parametrize("name", PIECES)
def test_a_neutral_piece_changes_no_bit(name, prediction):
    objective, changes = PIECES[name]()
    found, wanted = result(objective, changes, prediction), result(o.Denoising(), {}, prediction)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    for a, b in zip(found[2], wanted[2], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_a_high_frequency_term_of_weight_0_changes_no_bit():
    own, loss = model(), o.Denoising()
    seen = loss.seen(own, batch(), Keyed(7, N))
    total = loss.judged(own, seen).total + Image(o.HighFrequency(0.0)).of(own, seen, Keyed(7, N)).total
    assert torch.equal(total, o.Denoising()(own, batch(), Keyed(7, N)).total)


def test_a_share_of_0_corrupts_nothing():
    fields = {"label": torch.arange(N) % 3, "text": torch.randn(N, 5)}
    data = Dataset("points", TensorSplit(torch.randn(N, 4), fields), TensorSplit(torch.randn(2, 4)), (4,))
    same = corrupted(copy.copy(data), label=CorruptLabels(0.0), text=ShuffleCaptions(0.0))
    assert all(torch.equal(same.train.fields[k], fields[k]) for k in fields)


def test_the_plain_loss_is_the_textbooks():
    """|eps - eps_theta(alpha x_0 + sigma eps)|^2, which is made by way of the clean data: equal to rounding."""
    own, noise, record = model(), Keyed(7, N), batch()
    loss = o.Denoising(drop=0.0)
    t = 1e-3 + (1 - 1e-3) * noise.fold("time").uniform(torch.empty(N, 1)).squeeze(1)
    level = own.process.at(t)
    eps = noise.fold("state").normal(record["x_0"])
    x_t = level.alpha[:, None] * record["x_0"] + level.sigma[:, None] * eps
    size = (level.alpha**2 * 0.25 + level.sigma**2)[:, None] ** -0.5
    predicted = own.network(x_t * size, own.process.clock(t), record["condition"])
    wanted = ((predicted - eps) ** 2).mean(1)
    torch.testing.assert_close(loss(own, record, noise).sample, wanted, rtol=1e-9, atol=1e-12)
