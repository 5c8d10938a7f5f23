from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Keyed, Sampler
from ornstein.denoisers import InterpolantDenoiser, InterpolantMixture
from ornstein.objectives import InterpolantMatching
from ornstein.processes import GaussianMixture, Interpolant, RectifiedFlow
from ornstein.solvers import FreeDiffusion

TARGETS = ("b", "v", "score", "eta")


def exact(gamma: str = "brownian") -> InterpolantMixture:
    data = GaussianMixture([0.4, 0.6], torch.tensor([[2.0, 1.0], [-1.0, -1.5]]), [0.3, 0.2])
    base = GaussianMixture([0.5, 0.5], torch.tensor([[-2.0, 2.0], [2.0, -2.0]]), [0.2, 0.5])
    return InterpolantMixture(data, Interpolant(gamma=gamma, base=base))


class Answer(torch.nn.Module):
    """A network that answers a multiple of one number, and remembers what it was told."""

    fields = frozenset()

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, x, level, condition=None):
        self.seen = x, level, condition
        return self.value * torch.ones_like(x)


def denoiser(predictions=("b", "eta"), process=None, value=1.0) -> InterpolantDenoiser:
    process = Interpolant() if process is None else process
    return InterpolantDenoiser(Answer(value), Answer(value), process, predictions, (2,))


@pytest.mark.parametrize("target", TARGETS)
def test_pairs_change_the_variance_and_not_the_mean(target):
    model, n = exact(), 100_000
    x_0 = model.sample_data(n, torch.Generator().manual_seed(0))
    t = torch.full((n,), 0.3)
    losses = [
        InterpolantMatching(target, antithetic)(model, {"x_0": x_0, "time": t}, Keyed(0, n)).sample
        for antithetic in (True, False)
    ]
    error = sum(loss.var() / n for loss in losses) ** 0.5
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * error
    assert losses[0].var() <= losses[1].var()


@pytest.mark.parametrize("target", ["b", "score"])
def test_the_variance_of_pairs_stays_bounded_at_the_ends_where_the_plain_one_diverges(target):
    model, n = exact(), 20_000
    x_0 = model.sample_data(n, torch.Generator().manual_seed(0))

    def variance(antithetic, t):
        objective = InterpolantMatching(target, antithetic)
        batch = {"x_0": x_0, "time": torch.full((n,), t)}
        return float(objective(model, batch, Keyed(0, n)).sample.var())

    for end in (0.0, 1.0):
        near, nearer = (abs(end - distance) for distance in (1e-3, 1e-5))
        assert variance(False, nearer) > 50 * variance(False, near)  # as 1 / gamma^2
        assert variance(True, nearer) < 2 * variance(True, near)


@pytest.mark.parametrize("target", TARGETS)
def test_the_exact_posterior_minimises_every_loss(target):
    model, n = exact(), 40_000
    x_0 = model.sample_data(n, torch.Generator().manual_seed(0))

    class Off(torch.nn.Module):
        process, factor = model.process, 1.0

        def forward(self, x, t, condition=None):
            made = model(x, t, condition)
            gg = self.process.slopes(t).sigma.unsqueeze(1)
            flow = made.velocity + gg * made.score
            score = self.factor * made.score
            velocity = self.factor * flow - gg * score
            return self.process.posterior(x, t, (made.mean, made.end), score, velocity)

    off, found = Off(), []
    for off.factor in (0.9, 1.0, 1.1):
        found.append(InterpolantMatching(target, first=0.02)(off, {"x_0": x_0}, Keyed(0, n)).total)
    assert found[1] < found[0] and found[1] < found[2]


@pytest.mark.parametrize("predictions", [("b", "eta"), ("b", "score"), ("v", "eta"), ("v", "score")])
def test_the_loss_of_what_the_networks_predict_is_the_quadratic_of_their_own_output(predictions):
    model, x_0, n = denoiser(predictions), torch.randn(6, 2), 6
    objective, noise = InterpolantMatching(), Keyed(0, n)
    batch = {"x_0": x_0, "time": torch.linspace(0.1, 0.9, n)}
    losses = objective(model, batch, noise)
    assert tuple(losses.named) == predictions
    flow = noise.fold("base").normal(x_0) - x_0  # a pair's terms in z cancel where the output is the same
    for name in predictions:
        expected = (0.5 - (flow if name in ("b", "v") else 0 * flow)).mean(1)
        torch.testing.assert_close(losses.named[name], expected, rtol=1e-9, atol=1e-9)


def test_paired_ends_come_from_the_anchor_and_are_hidden_from_the_networks():
    model, x_0 = denoiser(), torch.randn(4, 2)
    y = torch.randn(4, 2)
    condition = Condition({"anchor": y, "label": torch.ones(4)})
    batch = {"x_0": x_0, "condition": condition, "time": torch.full((4,), 0.5)}
    paired = InterpolantMatching("b", coupling="paired")(model, batch, Keyed(0, 4)).sample
    torch.testing.assert_close(paired, (0.5 - (y - x_0)).mean(1))
    assert set(model.velocity.seen[2]) == {"label"}
    with pytest.raises(ValueError, match="anchor"):
        InterpolantMatching(coupling="paired")(model, {"x_0": x_0}, Keyed(0, 4))


def test_without_latent_noise_only_the_velocity_is_learned():
    process = Interpolant(gamma="zero")
    model = InterpolantDenoiser(Answer(), None, process, ("v", "eta"), (2,))
    losses = InterpolantMatching()(model, {"x_0": torch.randn(5, 2)}, Keyed(0, 5))
    assert tuple(losses.named) == ("v",)
    assert torch.isfinite(losses.sample).all()
    x = Sampler(FreeDiffusion(), 4)(model, 3)
    assert torch.isfinite(x).all()
    with pytest.raises(ValueError, match="no score"):
        Sampler(FreeDiffusion(0.1), 4)(model, 3)
    with pytest.raises(ValueError, match="no latent noise"):
        InterpolantMatching("eta")(model, {"x_0": torch.randn(5, 2)}, Keyed(0, 5))
    with pytest.raises(ValueError, match="no latent noise"):
        InterpolantDenoiser(Answer(), Answer(), process)


@pytest.mark.parametrize("predictions", [("b", "eta"), ("v", "score")])
def test_a_network_denoiser_gives_estimates_that_make_up_the_state(predictions):
    model, x = denoiser(predictions), torch.randn(5, 2)
    for t in (0.0, 0.3, 1.0, torch.linspace(0, 1, 5)):
        posterior = model(x, t)
        level = [torch.as_tensor(v).reshape(-1, 1) for v in model.process.at(t)]
        rebuilt = level[0] * posterior.mean + level[1] * posterior.end + level[2] * posterior.noise
        torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-11)
        assert torch.isfinite(posterior.velocity).all() and posterior.evaluations == 2
    assert torch.isfinite(Sampler(FreeDiffusion(0.5), 5)(model, 3)).all()


def test_training_reaches_the_exact_fields():
    """Two small networks between Gaussians, where b and the score are linear in x."""
    torch.manual_seed(0)
    data = GaussianMixture([1.0], torch.tensor([[1.0, -1.0]]), 0.25)
    process = Interpolant(base=GaussianMixture([1.0], torch.zeros(1, 2), 1.0))
    truth = InterpolantMixture(data, process)

    class Small(torch.nn.Module):
        fields = frozenset()

        def __init__(self):
            super().__init__()
            sizes = (torch.nn.Linear(5, 48), torch.nn.SiLU(), torch.nn.Linear(48, 2))
            self.layers = torch.nn.Sequential(*sizes)

        def forward(self, x, level, condition=None):
            t = torch.sigmoid(-2 * level).unsqueeze(1)
            return self.layers(torch.cat([x, t, t * x], 1))

    model = InterpolantDenoiser(Small(), Small(), process, ("b", "eta"), (2,))
    optimiser, objective = torch.optim.Adam(model.parameters(), 5e-3), InterpolantMatching()
    for i in range(300):
        x_0 = data.sample(128, torch.Generator().manual_seed(i))
        optimiser.zero_grad()
        objective(model, {"x_0": x_0}, Keyed(i, 128)).total.backward()
        optimiser.step()
    x, t = torch.randn(512, 2), torch.linspace(0.1, 0.9, 512)
    with torch.no_grad():
        ours, theirs = model(x, t), truth(x, t)
    for name in ("velocity", "noise"):
        error = (getattr(ours, name) - getattr(theirs, name)).square().mean()
        assert error < 0.15 * getattr(theirs, name).square().mean()


def test_options_are_checked():
    for options, why in (
        ({"target": "bb"}, "Did you mean 'b'"),
        ({"coupling": "ot"}, "unknown coupling"),
        ({"first": 0.7}, "first"),
    ):
        with pytest.raises(ValueError, match=why):
            InterpolantMatching(**options)
    with pytest.raises(ValueError, match="unknown prediction 'noise'"):
        denoiser(("b", "noise"))

    class Other(torch.nn.Module):
        process = RectifiedFlow()

    with pytest.raises(ValueError, match="needs a model of an Interpolant"):
        InterpolantMatching()(Other(), {"x_0": torch.zeros(2, 2)}, Keyed(0, 2))
