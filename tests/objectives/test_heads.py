"""Heads beside the state: neutral values, and what their likelihoods are least at (MT-Diffusion)."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import ornstein as orn
from ornstein.core import Condition, Denoiser, Keyed, Posterior
from ornstein.denoisers import AggregatedMixture, MixtureDenoiser, MultiTask, NetworkDenoiser
from ornstein.guides import ClassifierGradient
from ornstein.networks import MapHead, MultiHead, PooledHead, UNet
from ornstein.objectives import Denoising, Heads
from ornstein.processes import Aggregated, RectifiedFlow, VariancePreserving
from ornstein.spaces import Aggregate, Planes

from ..exact import covariance

N = 6
SHAPE = (1, 8, 8)


def backbone() -> UNet:
    torch.manual_seed(0)
    network = UNet(1, width=8, multipliers=(1, 2))
    torch.nn.init.normal_(network.out.weight, std=0.1)
    return network


def heads() -> dict[str, torch.nn.Module]:
    return {"label": PooledHead(16, 3), "map": MapHead(8, 1)}


def model(process=None, aggregate=None, **options) -> MultiTask:
    network = MultiHead(backbone(), heads(), {"label": "middle", "map": "decoder.0"})
    kinds = {"label": "categorical", "map": "gaussian"}
    return MultiTask(network, process or VariancePreserving(), "edm", SHAPE, 0.5, kinds, aggregate, **options)


def batch() -> dict:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(N, *SHAPE, generator=g)
    return {"x_0": x, "condition": Condition({"label": torch.arange(N) % 3, "map": x.abs()})}


def test_without_heads_it_is_denoising_bit_for_bit():
    plain = NetworkDenoiser(backbone(), VariancePreserving(), "edm", SHAPE, 0.5)
    known = Denoising()(plain, {"x_0": batch()["x_0"]}, Keyed(0, N))
    for own in (plain, model()):
        found = Heads({})(own, {"x_0": batch()["x_0"]}, Keyed(0, N))
        assert torch.equal(found.sample, known.sample)


def test_a_weight_of_zero_leaves_the_states_loss_and_gradient_as_they_were():
    own, plain = model(), NetworkDenoiser(backbone(), VariancePreserving(), "edm", SHAPE, 0.5)
    with_, without = (
        Heads({"label": 0.0, "map": 0.0})(own, batch(), Keyed(0, N)),
        Denoising()(plain, batch(), Keyed(0, N)),
    )
    assert torch.equal(with_.sample, without.sample)
    assert torch.equal(with_.named["loss"], without.named["loss"])
    with_.total.backward()
    without.total.backward()
    for a, b in zip(own.network.backbone.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_each_head_has_its_own_likelihood():
    own, given = model(), batch()
    for head in own.network.heads.values():
        torch.nn.init.normal_(head.out.weight)
    losses = Heads({"label": 0.5, "map": 2.0})(own, given, Keyed(0, N))
    seen = Heads({}).seen(own, {"x_0": given["x_0"]}, Keyed(0, N))
    logits, shown = seen.posterior.heads["label"], seen.posterior.heads["map"]
    entropy = torch.nn.functional.cross_entropy(logits, given["condition"]["label"], reduction="none")
    torch.testing.assert_close(losses.named["label"], 0.5 * entropy)
    square = (shown - given["condition"]["map"]).square().flatten(1).mean(1)
    torch.testing.assert_close(losses.named["map"], 2.0 * square)
    torch.testing.assert_close(
        losses.sample, losses.named["loss"] + losses.named["label"] + losses.named["map"]
    )


@pytest.mark.parametrize("drop", [0.0, 0.9])
def test_rows_without_a_modality_say_nothing_of_its_head(drop):
    """An absent label is stored as class 0 and an absent map as zeros, which are no data."""
    own, given = model(), batch()
    for head in own.network.heads.values():
        torch.nn.init.normal_(head.out.weight)
    there = {"label": torch.arange(N) != 2, "map": torch.arange(N) > 3}
    some = {**given, "condition": Condition(given["condition"], there)}
    weights = {"label": 0.5, "map": 2.0}
    every, found = (Heads(weights, drop=drop)(own, b, Keyed(0, N)) for b in (given, some))
    for name, present in there.items():
        assert (every.named[name] > 0).all()  # also where conditions are dropped: the model is not told these
        assert torch.equal(found.named[name], torch.where(present, every.named[name], 0.0))
    assert torch.equal(found.named["loss"], every.named["loss"])


def test_nothing_is_added_of_a_modality_that_is_absent():
    planes = Aggregate({"label": Planes(3, SHAPE)}, {"label": 2.0})
    own, given = model(Aggregated.fading(VariancePreserving(), 1.0), planes), batch()
    there = {"label": torch.arange(N) > 1, "map": torch.zeros(N, dtype=torch.bool)}
    record = {**given, "condition": Condition(given["condition"], there)}
    y = Heads({"label": 1.0, "map": 1.0}).seen(own, record, Keyed(0, N)).condition["anchor"]
    assert torch.equal(y[2:], planes(given["condition"])[2:]) and (y[:2] == 0).all()


def test_items_at_a_level_are_read_from_the_data_beside_the_heads():
    assert Heads({"label": 1.0}).fields == {"label", "level"}


def test_aggregation_with_weights_of_zero_changes_nothing():
    planes = Aggregate({"label": Planes(3, SHAPE)})
    added = model(Aggregated(VariancePreserving(), [0.0, 0.0]), planes)
    weights = {"label": 1.0, "map": 1.0}
    one, two = (Heads(weights)(m, batch(), Keyed(0, N)) for m in (model(), added))
    assert torch.equal(one.sample, two.sample)


def test_what_is_added_is_in_the_state_and_not_told():
    planes = Aggregate({"label": Planes(3, SHAPE)}, {"label": 2.0})
    own, given = model(Aggregated.fading(VariancePreserving(), 1.0), planes), batch()
    told = []
    own.network.backbone.register_forward_pre_hook(lambda module, inputs: told.append(inputs))
    seen = Heads({"label": 1.0, "map": 1.0}).seen(own, given, Keyed(0, N))
    level = own.process.at(seen.t)
    y = planes(given["condition"])
    torch.testing.assert_close(y.square().mean((1, 2, 3)), torch.full((N,), 4.0))
    z = Keyed(0, N).fold("state").normal(given["x_0"])
    expected = sum(a.reshape(-1, 1, 1, 1) * b for a, b in zip(level, (given["x_0"], y, z), strict=True))
    torch.testing.assert_close(seen.x_t, expected)
    assert told[0][2] is None
    end = planes({"label": seen.posterior.heads["label"].exp()})
    torch.testing.assert_close(seen.posterior.end, end)
    assert not seen.posterior.end.requires_grad
    Heads({"label": 1.0, "map": 1.0})(own, given, Keyed(0, N)).total.backward()
    assert planes.encoders["label"].table.grad.abs().sum() > 0  # the encoder learns through the state


# --- what the likelihoods are least at


C = covariance(4, 7)  # of (x_1, x_2), two numbers each
INJECTIVE = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
SUM = torch.cat([torch.eye(2), torch.eye(2)], 1).double()


def regression(a: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """E[x | z_t] = C A^T alpha (alpha^2 A C A^T + sigma^2)^-1 z_t for z_0 = A x."""
    spread = alpha**2 * a @ C @ a.T + sigma**2 * torch.eye(len(a))
    return alpha * torch.linalg.solve(spread, a @ C).T


class LinearHeads(Denoiser):
    """Heads that are a linear map of the state."""

    likelihoods: ClassVar = {"x_1": "gaussian", "x_2": "gaussian"}
    prediction, scale = "mean", 1.0

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.process, self.matrix = VariancePreserving(), torch.nn.Parameter(matrix.clone())

    def forward(self, x, t, condition=None, step=None):
        out = x @ self.matrix.T
        return Posterior(self.process, x, t, 0 * x, heads={"x_1": out[:, :2], "x_2": out[:, 2:]})


@pytest.mark.parametrize("a", [INJECTIVE, SUM], ids=["injective", "sum"])
def test_the_best_gaussian_heads_are_linear_regressions(a):
    n, t = 40_000, 0.3
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(4)) @ torch.linalg.cholesky(C).T
    record = {
        "x_0": x @ a.T,
        "time": torch.full((n,), t),
        "condition": Condition({"x_1": x[:, :2], "x_2": x[:, 2:]}),
    }
    level = VariancePreserving().at(t)
    own = LinearHeads(regression(a, level.alpha, level.sigma))
    losses = Heads({"x_1": 1.0, "x_2": 1.0}, drop=0.0)(own, record, Keyed(0, n))
    heads_only = losses.named["x_1"].mean() + losses.named["x_2"].mean()
    (gradient,) = torch.autograd.grad(heads_only, own.matrix)
    assert gradient.abs().max() < 0.03  # a matter of the draws: 1 / sqrt(n) of terms of order one
    with torch.no_grad():
        own.matrix.add_(0.2)
    (elsewhere,) = torch.autograd.grad(
        sum(
            v.mean()
            for k, v in Heads({"x_1": 1.0, "x_2": 1.0}, drop=0.0)(own, record, Keyed(0, n)).named.items()
            if k != "loss"
        ),
        own.matrix,
    )
    assert elsewhere.abs().max() > 10 * gradient.abs().max()


def test_heads_recover_their_modality_as_noise_goes_if_and_only_if_the_encoding_is_injective():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(5))
    for a, exact in ((INJECTIVE, True), (SUM, False)):
        found = x @ a.T @ regression(a, 1.0, 1e-6).T
        assert bool((found - x).abs().max() < 1e-6) is exact
        torch.testing.assert_close(
            found @ a.T, x @ a.T, rtol=1e-6, atol=1e-6
        )  # what was encoded is always met
    middle = x @ SUM.T @ torch.linalg.solve(SUM @ C @ SUM.T, SUM @ C)
    torch.testing.assert_close(found, middle, rtol=1e-5, atol=1e-6)  # of a plain sum: the conditional mean


class Told(AggregatedMixture):
    """The exact posterior as the objective calls it, its label's probabilities sharpened by a power."""

    likelihoods: ClassVar = {"label": "categorical"}
    prediction, scale, power = "mean", 1.0, 1.0

    def aggregate(self, fields):
        return self.planes.reshape(-1, *self.shape)[fields["label"]]

    def forward(self, x, t, condition=None, step=None):
        posterior = super().forward(x, t, condition, step)
        posterior.heads = {"label": (self.power * posterior.heads["label"]).log_softmax(1)}
        return posterior


def test_the_categorical_head_is_least_surprised_at_the_responsibilities():
    n, means = 20_000, torch.tensor([[0.6, 0.0], [-0.6, 0.3], [0.0, -0.8]], dtype=torch.float64)
    process = Aggregated.fading(VariancePreserving(), 0.5)
    own = Told([0.5, 0.3, 0.2], means, 0.2, means.flip(0), process)
    g = torch.Generator().manual_seed(6)
    label = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, True, generator=g)
    x = means[label] + 0.2**0.5 * torch.randn(n, 2, generator=g)
    record = {"x_0": x, "time": torch.full((n,), 0.3), "condition": Condition({"label": label})}
    surprise = {}
    for power in (0.8, 1.0, 1.25):
        own.power = power
        surprise[power] = float(Heads({"label": 1.0})(own, record, Keyed(0, n)).named["label"].mean())
    assert surprise[1.0] < min(surprise[0.8], surprise[1.25]) - 1e-3
    own.power = 1.0
    seen = Heads({"label": 1.0}).seen(own, record, Keyed(0, n))
    probs = seen.posterior.heads["label"].exp()
    for k in range(3):  # calibrated: of the states with p(k) near a half, that share is of class k
        near = (probs[:, k] - 0.5).abs() < 0.1
        assert float((label[near] == k).double().mean()) == pytest.approx(
            float(probs[near, k].mean()), abs=0.03
        )
    # without aggregation these are the responsibilities of the plain mixture
    plain = MixtureDenoiser([0.5, 0.3, 0.2], means, 0.2, VariancePreserving())
    none = AggregatedMixture([0.5, 0.3, 0.2], means, 0.2, 0 * means, Aggregated(VariancePreserving(), [0.0]))
    torch.testing.assert_close(
        none(x[:9], 0.4).heads["label"].exp(),
        plain(x[:9], 0.4).heads["responsibilities"],
        rtol=1e-10,
        atol=1e-12,
    )


def test_a_head_is_the_classifier_that_guides_to_its_class():
    """The conditional score: exact for the exact head."""
    means = torch.tensor([[0.6, 0.0], [-0.6, 0.3], [0.0, -0.8]], dtype=torch.float64)
    plain = MixtureDenoiser([0.5, 0.3, 0.2], means, 0.2, VariancePreserving(), labels=[0, 1, 2])

    def log_prob(x, t, condition):
        return MultiTask.log_prob(_Headed(plain), "label")(x, t, condition)

    x, label = torch.randn(N, 2), torch.arange(N) % 3
    guided = ClassifierGradient(log_prob)(plain)
    given = Condition({"label": label})
    unconditional = ClassifierGradient(log_prob)(_Unlabelled(plain))
    torch.testing.assert_close(
        unconditional(x, 0.4, given).score, plain(x, 0.4, given).score, rtol=1e-8, atol=1e-9
    )
    assert guided.fields >= {"label"}


class _Unlabelled(Denoiser):
    def __init__(self, inner) -> None:
        super().__init__()
        self.inner, self.process = inner, inner.process

    def forward(self, x, t, condition=None, step=None):
        return self.inner(x, t)


class _Headed(_Unlabelled):
    def forward(self, x, t, condition=None, step=None):
        posterior = self.inner(x, t)
        posterior.heads = {"label": posterior.heads["responsibilities"].log()}
        return posterior


def test_it_trains_samples_and_is_saved(tmp_path):
    torch.set_default_dtype(torch.float32)
    data = orn.data.load("digits")
    network = MultiHead(UNet(1, width=8, multipliers=(1, 2)), {"label": PooledHead(16, 10)})
    process = Aggregated.fading(RectifiedFlow(), 0.5)
    own = MultiTask(
        network,
        process,
        "edm",
        SHAPE,
        0.75,
        {"label": "categorical"},
        Aggregate({"label": Planes(10, SHAPE)}),
    )
    options = {"steps": 4, "batch": 8, "out": tmp_path, "progress": False, "sample_every": 0}
    run = orn.fit(own, data, Heads({"label": 0.1}), **options)
    assert set(run.metrics[-1]) >= {"loss/loss", "loss/label", "held_out_loss"}
    again = orn.load(tmp_path)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(again(x, 0.5).heads["label"], run.denoiser(x, 0.5).heads["label"])
    assert orn.sample(again, 2, steps=3, seed=0, solver=orn.solvers.Ancestral()).shape == (2, *SHAPE)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        Heads({"label": -1.0})
    with pytest.raises(ValueError, match="lacks the field 'label'"):
        Heads({"label": 1.0})(model(), {"x_0": batch()["x_0"]}, Keyed(0, N))
    given = batch()
    given["condition"] = given["condition"].replace(name=torch.zeros(N))
    with pytest.raises(ValueError, match="no head 'name'"):
        Heads({"name": 1.0})(model(), given, Keyed(0, N))
    with pytest.raises(ValueError, match="with the process Aggregated"):
        model(Aggregated(VariancePreserving(), [0.1]))
    with pytest.raises(ValueError, match="likelihood"):
        MultiTask(MultiHead(backbone(), heads()), VariancePreserving(), likelihoods={"label": "categoric"})
    with pytest.raises(ValueError, match="module"):
        MultiHead(backbone(), heads(), "midle")
    with pytest.raises(ValueError, match="encoder"):
        Aggregate({"label": Planes(2, (1,))}, {"lable": 1.0})
