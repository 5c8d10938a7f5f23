from __future__ import annotations

import pytest
import torch

from ornstein.conditions import PerturbEmbedding
from ornstein.core import Condition, Keyed
from ornstein.denoisers import NetworkDenoiser, TableDenoiser
from ornstein.objectives import Denoising, Heads, OwnCondition, Perturbed
from ornstein.processes import Absorbing, ProductProcess, RectifiedFlow, VarianceExploding, VariancePreserving

from ..exact import TABLE, TABLE_WEIGHTS, gaussian, joint, table


class Recorder(torch.nn.Module):
    """A network that answers a fixed tensor and remembers what it was told."""

    fields = frozenset({"label"})
    labels = 3

    def __init__(self, answer=None):
        super().__init__()
        self.answer, self.gain = answer, torch.nn.Parameter(torch.ones(()))

    def forward(self, x, level, condition=None):
        self.seen = x, level, condition
        return self.gain * (self.answer if self.answer is not None else torch.zeros_like(x))


def _targets(process, x_0, x_t, t, scale):
    level, slope = process.at(t), process.slope(t)
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    z = (x_t - alpha * x_0) / sigma
    size = alpha**2 * scale**2 + sigma**2
    return {
        "mean": x_0,
        "noise": z,
        "score": -z / sigma,
        "velocity": slope.alpha[:, None] * x_0 + slope.sigma[:, None] * z,
        "edm": (x_0 - alpha * scale**2 / size * x_t) / (scale * sigma / size.sqrt()),
    }


@pytest.mark.parametrize("prediction", ["mean", "noise", "score", "velocity", "edm"])
@pytest.mark.parametrize("process", [VariancePreserving(), VariancePreserving("cosine"), VarianceExploding()])
def test_the_target_weighting_is_plain_least_squares_on_the_networks_own_output(process, prediction):
    answer, x_0 = torch.randn(6, 4), torch.randn(6, 4) * 0.5
    model = NetworkDenoiser(Recorder(answer), process, prediction, shape=(4,))
    objective, noise = Denoising(drop=0.0), Keyed(0, 6)
    losses = objective(model, {"x_0": x_0, "condition": None}, noise)
    t = objective.times(process, x_0, noise)
    x_t = process.marginal(x_0, t).sample(noise.fold("state"))
    target = _targets(process, x_0, x_t, t, 0.5)[prediction]
    torch.testing.assert_close(losses.sample, ((answer - target) ** 2).mean(1), rtol=1e-6, atol=1e-8)


def test_weightings_are_written_of_the_clean_error_and_so_agree_over_predictions():
    """Two parametrisations with equal clean estimates have equal losses under every weighting but their own target."""
    process, x_0 = VariancePreserving(), torch.randn(6, 4)
    truth = gaussian(process, 4)
    for weighting in ("snr", "min-snr", "uniform"):
        objective, noise = Denoising(weighting, drop=0.0), Keyed(0, 6)
        t = objective.times(process, x_0, noise)
        x_t = process.marginal(x_0, t).sample(noise.fold("state"))
        posterior = truth(x_t, t)
        found = [
            objective(
                NetworkDenoiser(Recorder(answer), process, name, shape=(4,)),
                {"x_0": x_0, "condition": None},
                noise,
            ).sample
            for name, answer in (
                ("mean", posterior.mean),
                ("noise", posterior.noise),
                ("velocity", posterior.velocity),
            )
        ]
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-8)


def test_the_exact_posterior_minimises_the_loss():
    process, n = RectifiedFlow(), 20_000
    truth = gaussian(process)
    x_0 = truth.sample_data(n, torch.Generator().manual_seed(0))

    class Off(torch.nn.Module):
        process, prediction, scale, factor = truth.process, "velocity", 0.5, 1.0

        def forward(self, x, t, condition=None, step=None):
            posterior = truth(x, t)
            return posterior.with_mean(posterior.mean * self.factor)

    model, losses = Off(), []
    for model.factor in (0.9, 1.0, 1.1):
        losses.append(Denoising()(model, {"x_0": x_0}, Keyed(0, n)).total)
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_the_absorbing_bound_is_tight_at_the_exact_denoiser():
    """Its expectation is the entropy of the data: the bound of 2406.07524 over all orders of unmasking."""
    process, n = Absorbing(3), 60_000
    truth = table(process)
    rows = torch.multinomial(TABLE_WEIGHTS, n, True, generator=torch.Generator().manual_seed(0))
    losses = Denoising()(truth, {"x_0": TABLE[rows]}, Keyed(0, n)).sample
    weights = TABLE_WEIGHTS.double() / TABLE_WEIGHTS.sum()
    entropy = float(-(weights * weights.log()).sum())
    error = float(losses.std() / n**0.5) * 3
    assert float(losses.mean()) * 3 == pytest.approx(entropy, abs=4 * error)
    worse = TableDenoiser(TABLE, torch.ones(5), process)
    assert Denoising()(worse, {"x_0": TABLE[rows]}, Keyed(0, n)).sample.mean() > losses.mean()


def test_conditions_are_dropped_at_the_stated_rate_and_only_in_training():
    model = NetworkDenoiser(Recorder(), RectifiedFlow(), shape=(2,))
    condition = Condition({"label": torch.ones(4000, dtype=torch.long)})
    Denoising(drop=0.25)(model, {"x_0": torch.randn(4000, 2), "condition": condition}, Keyed(0, 4000))
    kept = model.network.seen[2].present["label"].double().mean()
    assert kept == pytest.approx(0.75, abs=0.03)
    model(torch.randn(4, 2), 0.5, condition.rows(slice(4)))
    assert model.network.seen[2].present["label"].all()


def test_a_tree_is_trained_with_a_time_for_every_leaf_some_of_them_held():
    truth = joint(RectifiedFlow(), Absorbing(2))
    x_0 = {"image": torch.randn(8000, 2), "label": torch.randint(0, 2, (8000,))}
    t = Denoising(clean=0.2).times(truth.process, x_0, Keyed(0, 8000))
    for name in ("image", "label"):
        assert (t[name] == 0).double().mean() == pytest.approx(0.2, abs=0.02)
        assert (t[name] == 1).double().mean() == pytest.approx(0.2, abs=0.02)
    both = ((t["image"] == 0) & (t["label"] == 0)).double().mean()
    assert both == pytest.approx(0.04, abs=0.01)
    losses = Denoising(clean=0.2)(_with_prediction(truth), {"x_0": x_0}, Keyed(0, 8000))
    assert set(losses.named) == {"image", "label"}
    assert (losses.named["image"][t["image"] == 0] == 0).all()
    assert (losses.named["label"][t["label"] == 0] == 0).all()
    torch.testing.assert_close(losses.sample, losses.named["image"] + losses.named["label"])


def _with_prediction(truth):
    truth.prediction = "velocity"
    return truth


def test_items_with_a_weight_and_a_time_of_their_own():
    process = RectifiedFlow()
    model = NetworkDenoiser(Recorder(), process, shape=(2,))
    x_0, t = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9])
    plain = Denoising()(model, {"x_0": x_0, "time": t}, Keyed(0, 3)).sample
    weighted = Denoising()(
        model, {"x_0": x_0, "time": t, "weight": torch.tensor([0.0, 1.0, 2.0])}, Keyed(0, 3)
    )
    torch.testing.assert_close(weighted.sample, plain * torch.tensor([0.0, 1.0, 2.0]))


class Gain(torch.nn.Module):
    """A tree network of one weight."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x, level, condition=None):
        return {k: self.gain * v for k, v in x.items()}


@pytest.mark.parametrize("weighting", ["target", "snr", "min-snr", "snr-power", "edm", "sigmoid", "uniform"])
@pytest.mark.parametrize("first", [0.0, 1e-3])
def test_clean_leaves_have_no_loss_and_a_finite_gradient(first, weighting):
    process = ProductProcess({"a": RectifiedFlow(), "b": VariancePreserving("cosine")})
    model = NetworkDenoiser(Gain().double(), process, "edm", shape={"a": (2,), "b": (3,)})
    x_0 = {"a": torch.randn(200, 2), "b": torch.randn(200, 3)}
    objective, noise = Denoising(weighting, clean=0.3, first=first), Keyed(0, 200)
    losses, t = objective(model, {"x_0": x_0}, noise), objective.times(process, x_0, noise)
    for name in x_0:
        assert (losses.named[name][t[name] == 0] == 0).all() and (t[name] == 0).any()
    (slope,) = torch.autograd.grad(losses.total, model.network.gain)
    assert losses.total.isfinite() and slope.isfinite() and slope != 0


@pytest.mark.parametrize("first", [0.0, 1e-3])
def test_entries_that_are_clean_have_a_finite_gradient(first):
    """A time for every entry, some of them 0."""
    model = NetworkDenoiser(Recorder(torch.randn(4, 3)), RectifiedFlow(), "velocity", shape=(3,))
    t = torch.tensor([[0.0, 0.5, 1.0]]).expand(4, 3)
    losses = Denoising(first=first)(model, {"x_0": torch.randn(4, 3), "time": t}, Keyed(0, 4))
    assert torch.autograd.grad(losses.total, model.network.gain)[0].isfinite()


def test_what_a_batch_cannot_hold_is_named():
    model = NetworkDenoiser(Recorder(), RectifiedFlow(), shape=(2,))
    x_0 = torch.randn(3, 2)
    for weight in (torch.ones(2), torch.ones(3, 1), torch.ones(())):
        with pytest.raises(ValueError, match="weight: expected one number for each of 3 samples, got"):
            Denoising()(model, {"x_0": x_0, "weight": weight}, Keyed(0, 3))
    told = {"label": torch.zeros(3, dtype=torch.long)}
    plain, perturbed = Denoising(), Perturbed(Denoising(), PerturbEmbedding())
    for objective in (plain, perturbed, OwnCondition(Denoising()), Heads({"label": 1.0})):
        with pytest.raises(TypeError, match=r"condition: expected an ornstein\.core\.Condition.* got dict"):
            objective(model, {"x_0": x_0, "condition": told}, Keyed(0, 3))


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"unknown weighting 'min-snrr'. Did you mean 'min-snr'"):
        Denoising("min-snrr")
    with pytest.raises(ValueError, match="drop"):
        Denoising(drop=1.5)
