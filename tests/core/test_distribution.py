from __future__ import annotations

import pytest
import torch
from torch.distributions import kl_divergence

from ornstein.core import Categorical, Gaussian, Keyed, Matrix, Product, Pushforward, Space

from ..exact import covariance


def _gaussians():
    mean = torch.randn(4, 2, 3)
    root = torch.linalg.cholesky(covariance(6))
    return {
        "number": Gaussian(mean, 0.7),
        "rows": Gaussian(mean, torch.rand(4) + 0.1),
        "entries": Gaussian(mean, torch.rand(4, 2, 3) + 0.1),
        "matrix": Gaussian(mean, Matrix(root)),
    }


@pytest.mark.parametrize("kind", ["number", "rows", "entries", "matrix"])
def test_gaussian_densities_are_torchs(kind):
    law = _gaussians()[kind]
    x = law.sample(Keyed(0, 4))
    flat = x.flatten(1) if kind == "matrix" else x
    torch.testing.assert_close(law.log_prob(x), law.torch().log_prob(flat), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["number", "rows", "entries", "matrix"])
def test_gaussian_noise_round_trips(kind):
    law = _gaussians()[kind]
    z = law.noise(Keyed(0, 4))
    torch.testing.assert_close(law.noise_of(law.transform(z)), z, rtol=1e-12, atol=1e-12)
    assert law.sample(Keyed(0, 4), (5,)).shape == (5, 4, 2, 3)
    assert torch.equal(law.sample(Keyed(0, 4), (5,))[0], law.sample(Keyed(0, 4)))


@pytest.mark.parametrize("kind", ["number", "rows", "entries", "matrix"])
def test_tilting_a_gaussian_is_what_bayes_rule_says(kind):
    law, g = _gaussians()[kind], torch.randn(4, 2, 3)
    tilted = law.tilt(g)
    x, y = law.sample(Keyed(0, 4)), law.sample(Keyed(1, 4))
    gained = (tilted.log_prob(x) - tilted.log_prob(y)) - (law.log_prob(x) - law.log_prob(y))
    torch.testing.assert_close(gained, (g * (x - y)).flatten(1).sum(1))


def test_kl_divergences_are_torchs():
    a, b = _gaussians()["rows"], Gaussian(torch.randn(4, 2, 3), 1.3)
    torch.testing.assert_close(a.kl(b), kl_divergence(a.torch(), b.torch()))
    p, q = Categorical(torch.randn(4, 2, 3)), Categorical(torch.randn(4, 2, 3))
    torch.testing.assert_close(p.kl(q), kl_divergence(p.torch(), q.torch()))
    both = Product({"x": a, "k": p}).kl(Product({"x": b, "k": q}))
    torch.testing.assert_close(both, a.kl(b) + p.kl(q))


def test_a_point_mass_has_no_density_but_a_residual():
    point = Gaussian(torch.zeros(3, 2))
    assert point.noise(Keyed(0, 3)) is None
    assert torch.equal(point.sample(Keyed(0, 3)), point.mean)
    assert torch.equal(point.residual(torch.ones(3, 2)), torch.ones(3, 2))
    for law in (point, Gaussian(torch.zeros(3, 2), torch.tensor([1.0, 0.0, 1.0]))):
        with pytest.raises(ValueError, match="point mass"):
            law.log_prob(torch.zeros(3, 2))
    assert point.kl(Gaussian(torch.tensor([[0.0, 0], [0, 0], [1, 0]]))).tolist() == [0, 0, torch.inf]


def test_categorical_frequencies_are_its_probabilities():
    logits = torch.tensor([[1.0, 0.0, -torch.inf, 2.0]]).expand(1, 4)
    drawn = Categorical(logits.expand(60_000, 4)).sample(Keyed(0, 60_000))
    seen = torch.bincount(drawn, minlength=4) / 60_000
    torch.testing.assert_close(seen, logits.softmax(-1)[0], atol=0.01, rtol=0)
    assert seen[2] == 0


def test_categorical_noise_given_the_outcome_leads_back_to_it_and_has_the_prior_law():
    law = Categorical(torch.tensor([[0.3, -0.5, 1.0]]).expand(40_000, 3))
    x = law.sample(Keyed(0, 40_000))
    z = law.noise_of(x, Keyed(1, 40_000))
    assert torch.equal(law.transform(z), x)
    # averaged over outcomes the noise is Gumbel again, up to the shift that argmax cannot see
    free = z - z.mean(1, keepdim=True)
    true = Keyed(2, 40_000).gumbel(z)
    true = true - true.mean(1, keepdim=True)
    torch.testing.assert_close(
        free.quantile(torch.linspace(0.05, 0.95, 7), dim=0),
        true.quantile(torch.linspace(0.05, 0.95, 7), dim=0),
        atol=0.05,
        rtol=0,
    )
    with pytest.raises(ValueError, match="source"):
        law.noise_of(x)


def test_categorical_edges_are_numbers_and_never_nan():
    certain = Categorical(torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]]))
    assert certain.log_prob(torch.tensor([[0, 1]])).item() == 0
    assert certain.log_prob(torch.tensor([[1, 1]])).item() == -torch.inf
    assert certain.kl(certain).item() == 0


def test_relaxed_rows_are_on_the_simplex_and_sharpen_to_the_draw():
    law = Categorical(torch.randn(50, 4))
    z = law.noise(Keyed(0, 50))
    soft = law.relaxed(z, 1.0)
    torch.testing.assert_close(soft.sum(-1), torch.ones(50))
    assert torch.equal(law.relaxed(z, 1e-3).argmax(-1), law.transform(z))


def test_tilting_a_categorical_is_what_bayes_rule_says():
    law, g = Categorical(torch.randn(4, 3)), torch.randn(4, 3)
    tilted = law.tilt(g)
    for k in range(3):
        x, y = torch.full((4,), k), torch.zeros(4, dtype=torch.long)
        gained = tilted.log_prob(x) - tilted.log_prob(y) - law.log_prob(x) + law.log_prob(y)
        torch.testing.assert_close(gained, g[:, k] - g[:, 0])


def test_product_adds_and_pushforward_keeps_the_messages_density():
    parts = {"x": Gaussian(torch.randn(4, 2), 0.5), "k": Categorical(torch.randn(4, 3))}
    law = Product(parts)
    x = law.sample(Keyed(0, 4))
    torch.testing.assert_close(law.log_prob(x), sum(parts[k].log_prob(x[k]) for k in parts))
    assert torch.equal(x["x"], parts["x"].sample(Keyed(0, 4).fold("x")))
    pushed = Pushforward(parts["x"], lambda m: m.clamp(min=0))
    message = parts["x"].sample(Keyed(1, 4))
    assert torch.equal(pushed.sample(Keyed(1, 4)), message.clamp(min=0))
    torch.testing.assert_close(pushed.log_prob(message), parts["x"].log_prob(message))


def test_the_density_counts_the_spaces_dimension():
    class Half(Space):
        def dim(self, x):
            return torch.full((len(x),), 1.0)

    law = Gaussian(torch.zeros(2, 2), 2.0, Half())
    expected = torch.distributions.Normal(0.0, 2.0).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(law.log_prob(torch.zeros(2, 2)), expected.expand(2))
