"""Noise on the condition's embedding (2405.20494) and on the input (2301.11706), in training only."""

from __future__ import annotations

import pytest
import torch

from ornstein.conditions import PerturbEmbedding
from ornstein.core import Condition, Keyed, build
from ornstein.denoisers import GaussianDenoiser, NetworkDenoiser
from ornstein.networks import ResidualMLP, Transformer
from ornstein.networks.embedding import TokenEmbedding
from ornstein.objectives import Denoising, InputPerturbation, Perturbed
from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving

from ..exact import AFFINE


def network(process=None, prediction="velocity"):
    torch.manual_seed(0)
    net = ResidualMLP(2, 16, 1, labels=3).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return NetworkDenoiser(net, process or RectifiedFlow(), prediction, shape=(2,))


def batch(n=8):
    return {"x_0": torch.randn(n, 2), "condition": Condition({"label": torch.arange(n) % 3})}


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_the_noise_has_the_stated_size_in_every_coordinate(kind):
    d, embedding = 25, torch.zeros(20_000, 25)
    delta = PerturbEmbedding(2.0, kind)(embedding, Keyed(0, 20_000))
    if kind == "uniform":
        assert float(delta.abs().max()) == pytest.approx(2 / d**0.5, rel=1e-3)
        assert float(delta.var()) == pytest.approx(4 / d / 3, rel=0.02)
    else:
        assert float(delta.std()) == pytest.approx(2 / d**0.5, rel=0.01)
    assert abs(float(delta.mean())) < 0.01
    with pytest.raises(ValueError, match="Did you mean 'gaussian'"):
        PerturbEmbedding(1.0, "gauss")


def losses(model, gamma, record=None, drop=0.0, noise=None):
    objective = Perturbed(Denoising(drop=drop), PerturbEmbedding(gamma))
    record = record or batch()
    return objective(model, record, noise or Keyed(0, len(record["x_0"]))).sample


def test_labels_are_perturbed_behind_their_table():
    """The loss is that of a network whose table holds the perturbed row of every sample."""
    torch.manual_seed(3)
    model, record, noise = network(), batch(), Keyed(0, 8)
    found = losses(model, 1.0, record)
    table = model.network.conditioning.label.table
    rows = table(record["condition"]["label"])
    name = "network.conditioning.label.table"
    rows = PerturbEmbedding(1.0)(rows, noise.fold("embedding").fold(name)).detach()
    larger = network()
    larger.network.conditioning.label.table = TokenEmbedding(8, 16).double()
    larger.network.conditioning.label.table.weight.data = rows
    own = {"x_0": record["x_0"], "condition": Condition({"label": torch.arange(8)})}
    torch.testing.assert_close(found, Denoising(drop=0.0)(larger, own, noise).sample)
    assert not torch.allclose(found, losses(model, 0.0, record))


def test_nothing_is_left_on_afterwards_nor_at_evaluation():
    model, record = network(), batch()
    t, x = torch.full((8,), 0.5), torch.randn(8, 2)
    before = model(x, t, record["condition"]).mean
    losses(model, 5.0, record)
    assert torch.equal(model(x, t, record["condition"]).mean, before)
    model.eval()
    assert torch.equal(losses(model, 5.0, record), losses(model, 0.0, record))


def test_the_null_embedding_is_never_perturbed():
    model, record = network(), batch()
    absent = {**record, "condition": record["condition"].null()}
    assert torch.equal(losses(model, 5.0, absent), losses(model, 0.0, absent))
    noise, x = Keyed(0, 8), record["x_0"]
    dropped = noise.fold("drop").uniform(torch.empty(8, 1)).squeeze(1) < 0.5
    one, other = (losses(model, gamma, record, drop=0.5, noise=noise) for gamma in (5.0, 0.0))
    assert torch.equal(one[dropped], other[dropped]) and bool((one != other)[~dropped].all())
    assert bool(dropped.any()) and len(x) == 8


def test_embeddings_in_the_condition_are_perturbed_as_they_are():
    class Reads(torch.nn.Module):
        fields = frozenset({"text"})

        def forward(self, x, level, condition=None):
            self.seen = condition["text"]
            return x

    model = NetworkDenoiser(Reads(), RectifiedFlow(), shape=(2,))
    text = torch.randn(4, 9)
    record = {"x_0": torch.randn(4, 2), "condition": Condition({"text": text})}
    Perturbed(Denoising(drop=0.0), PerturbEmbedding(1.0))(model, record, Keyed(0, 4))
    wanted = PerturbEmbedding(1.0)(text, Keyed(0, 4).fold("embedding").fold("text"))
    assert torch.equal(model.network.seen, wanted)


def test_the_tokens_of_a_text_are_perturbed_and_their_mask_is_not():
    class Reads(torch.nn.Module):
        fields = frozenset({"text"})

        def forward(self, x, level, condition=None):
            self.seen = condition["text"]
            return x

    model = NetworkDenoiser(Reads(), RectifiedFlow(), shape=(2,))
    text = {"tokens": torch.randn(4, 5, 9), "mask": torch.rand(4, 5) > 0.5}
    record = {"x_0": torch.randn(4, 2), "condition": Condition({"text": text})}
    objective = Perturbed(Denoising(drop=0.0), PerturbEmbedding(1.0))
    objective(model, record, Keyed(0, 4))
    wanted = PerturbEmbedding(1.0)(text["tokens"], Keyed(0, 4).fold("embedding").fold("text"))
    assert torch.equal(model.network.seen["tokens"], wanted)
    assert torch.equal(model.network.seen["mask"], text["mask"])
    other = {**record, "condition": Condition({"text": {"words": torch.randn(4, 5)}})}
    with pytest.raises(ValueError, match=r"text: Perturbed takes a tensor, or .*tokens.*got \['words'\]"):
        objective(model, other, Keyed(0, 4))


def test_a_transformer_is_trained_under_perturbed_texts():
    network = Transformer(1, dims=1, patch=2, width=16, depth=1, heads=2, text=9).double()
    model = NetworkDenoiser(network, RectifiedFlow(), shape=(1, 8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    text = {"tokens": torch.randn(4, 5, 9), "mask": torch.ones(4, 5, dtype=torch.bool)}
    record = {"x_0": torch.randn(4, 1, 8), "condition": Condition({"text": text})}
    one, other = (losses(model, gamma, record) for gamma in (0.0, 3.0))
    assert other.isfinite().all() and bool((one != other).all())


def test_an_integer_condition_without_a_table_is_refused():
    class Reads(torch.nn.Module):
        fields = frozenset({"label"})

        def forward(self, x, level, condition=None):
            return x * condition["label"][:, None]

    model = NetworkDenoiser(Reads(), RectifiedFlow(), shape=(2,))
    with pytest.raises(ValueError, match="nothing would be perturbed"):
        losses(model, 1.0)


def test_it_is_written_as_json_and_read_back():
    objective = Perturbed(Denoising(), PerturbEmbedding(0.5, "gaussian"))
    assert build(objective.spec()).perturbation.gamma == 0.5


# --- the closed form: noise on a one-hot label is ridge regression on the class bias


class Affine(torch.nn.Module):
    """eps = W x + V e, with e the row of a fixed table."""

    fields = frozenset({"label"})

    def __init__(self, d, classes):
        super().__init__()
        self.table = TokenEmbedding(classes, classes).requires_grad_(False)
        self.table.weight.data = torch.eye(classes)
        self.weight = torch.nn.Parameter(torch.zeros(d, d + classes))

    def forward(self, x, level, condition=None):
        return torch.cat([x, self.table(condition["label"])], 1) @ self.weight.T


def fitted(gamma, data, t, repeats=3000, classes=3):
    """The weights that minimise the loss on copies of the data, all of class 0: one step of Newton."""
    process, net = VariancePreserving(), Affine(data.shape[1], classes)
    model = NetworkDenoiser(net, process, "noise", shape=(data.shape[1],))
    x_0 = data.repeat(repeats, 1)
    n = len(x_0)
    condition = Condition({"label": torch.zeros(n, dtype=torch.long)})
    objective = Perturbed(Denoising(drop=0.0), PerturbEmbedding(gamma * classes**0.5, "gaussian"))
    record = {"x_0": x_0, "condition": condition, "time": torch.full((n,), t)}
    loss = objective(model, record, Keyed(0, n)).total
    (slope,) = torch.autograd.grad(loss, net.weight, create_graph=True)
    rows = [torch.autograd.grad(s, net.weight, retain_graph=True)[0].flatten() for s in slope.flatten()]
    size = (
        process.at(torch.tensor([t])).alpha ** 2 * 0.25 + process.at(torch.tensor([t])).sigma ** 2
    ) ** -0.5
    solved = -torch.linalg.solve(torch.stack(rows), slope.detach().flatten()).reshape(net.weight.shape)
    return solved[:, : data.shape[1]] * size, solved[:, data.shape[1] :]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_embedding_noise_shrinks_the_class_mean_and_widens_its_covariance(gamma):
    """W = sigma (alpha^2 M + sigma^2)^-1 with M = S + kappa m m^T, and bias -alpha W m / (1 + gamma^2): exactly the
    noise predicted for N(m / (1 + gamma^2), M), so that is the sampled law.
    """
    data = torch.tensor([[1.0, 0.2], [1.4, -0.3], [0.7, 0.9], [0.2, 0.4], [1.6, 0.1]])
    m, kappa, t = data.mean(0), gamma**2 / (1 + gamma**2), 0.4
    covariance = (data - m).T @ (data - m) / len(data)
    process = VariancePreserving()
    widened = covariance + kappa * torch.outer(m, m)
    law = GaussianDenoiser(m / (1 + gamma**2), widened, process)
    times = torch.full((3,), t)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    wanted = law(x, times).noise
    weight, bias = fitted(gamma, data, t, classes=3 if gamma else 1)
    torch.testing.assert_close(bias[:, 0], wanted[0], rtol=0, atol=0.03)
    torch.testing.assert_close(weight, (wanted[1:] - wanted[0]).T, rtol=0, atol=0.03)
    if gamma:
        assert float(bias[:, 1:].abs().max()) < 0.03  # off-class columns
    alpha, _, sigma = process.at(t)
    spread = torch.linalg.inv(alpha**2 * widened + sigma**2 * torch.eye(2)) * sigma
    torch.testing.assert_close(-alpha * spread @ m / (1 + gamma**2), wanted[0])


def test_the_expected_distance_to_the_truth_first_falls_and_then_rises():
    """W2^2 between N(m / (1 + g^2), S + kappa m m^T) of 32 points in 16 dimensions and their law N(mu, I), |mu| = 1."""
    draws = torch.randn(4000, 32, 16, generator=torch.Generator().manual_seed(0))
    draws[..., 0] += 1.0
    mu, m = torch.eye(16)[0], draws.mean(1)
    centred = draws - m[:, None]
    spread = centred.mT @ centred / 32
    found, entropy = [], []
    for gamma in (0.0, 0.3, 0.5, 1.0, 2.0):
        shrunk, kappa = m / (1 + gamma**2), gamma**2 / (1 + gamma**2)
        levels = torch.linalg.eigvalsh(spread + kappa * m[:, :, None] * m[:, None, :]).clamp(min=0)
        found.append(float((((shrunk - mu) ** 2).sum(1) + ((levels.sqrt() - 1) ** 2).sum(1)).mean()))
        entropy.append(float(levels.clamp(min=1e-12).log().sum(1).mean()))
    assert found == pytest.approx([2.840, 2.728, 2.632, 2.670, 3.060], abs=0.04)
    assert found[0] > found[1] > found[2] < found[3] < found[4]
    assert entropy == sorted(entropy)


# --- the baseline


@pytest.mark.parametrize("prediction", ["mean", "noise", "score", "velocity", "edm"])
@pytest.mark.parametrize("name", ["vp-linear", "ve"])
def test_the_input_is_perturbed_and_the_target_is_not(name, prediction):
    process, noise, x_0 = AFFINE[name](), Keyed(0, 8), torch.randn(8, 2)
    model, t = network(process, prediction), torch.linspace(0.2, 0.8, 8)
    found = InputPerturbation(0.3, drop=0.0)(model, {"x_0": x_0, "time": t}, noise).sample
    law = process.marginal(x_0, t)
    z, n = noise.fold("state").normal(x_0), noise.fold("input").normal(x_0)
    level = process.at(t)
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    shown = law.mean + sigma * (z + 0.3 * n)
    size = (alpha**2 * 0.25 + sigma**2) ** -0.5
    output = model.network(shown * size, process.clock(t), None)
    slope = process.slope(t)
    target = {
        "mean": x_0,
        "noise": z,
        "score": -z / sigma,
        "velocity": slope.alpha[:, None] * x_0 + slope.sigma[:, None] * z,
        "edm": (x_0 - alpha * 0.25 * size**2 * (alpha * x_0 + sigma * z)) / (0.5 * sigma * size),
    }[prediction]
    torch.testing.assert_close(found, ((output - target) ** 2).mean(1), rtol=1e-6, atol=1e-9)


def test_input_perturbation_moves_the_marginal_and_embedding_noise_does_not():
    record, noise = batch(2000), Keyed(0, 2000)
    record["time"] = torch.full((2000,), 0.7)
    for objective, wider in (
        (InputPerturbation(0.5), True),
        (Perturbed(Denoising(), PerturbEmbedding(5.0)), False),
    ):
        model = Watching(network(VarianceExploding(0.01, 50.0)))
        objective(model, record, noise)
        plain = Denoising().seen(model.model, record, noise).x_t
        assert torch.equal(model.x, plain) is not wider
        assert (float(model.x.var() / plain.var()) > 1.15) is wider


class Watching(torch.nn.Module):
    """A model that remembers which states it was shown."""

    def __init__(self, model):
        super().__init__()
        self.model, self.process, self.prediction = model, model.process, model.prediction
        self.scale, self.fields = model.scale, model.fields

    def forward(self, x, t, condition=None, step=None):
        self.x = x
        return self.model(x, t, condition)


def test_options_are_checked():
    with pytest.raises(ValueError, match="gamma"):
        PerturbEmbedding(-1.0)
    with pytest.raises(ValueError, match="gamma"):
        InputPerturbation(-1.0)
