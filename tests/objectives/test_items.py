"""Items at a noise level of their own (Ambient diffusion, 2411.02780), and consistency below it."""

from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein.core import Condition, Denoiser, Keyed, Posterior
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers import GaussianDenoiser, NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.objectives import Consistency, Denoising, OptimalAssignment, PerBlock, UniformTime
from ornstein.objectives.consistency import mean_square, product_square
from ornstein.processes import Absorbing, RectifiedFlow, VarianceExploding, VariancePreserving

from ..exact import AFFINE, gaussian, table


def network(process, d=3):
    torch.manual_seed(0)
    model = NetworkDenoiser(ResidualMLP(d, 16, 1).double(), process, "edm", shape=(d,))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def flat_gradient(model, total):
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])


def test_the_prediction_of_an_item_is_the_papers_for_variance_exploding():
    """(1 - (sigma_n / sigma)^2) D + (sigma_n / sigma)^2 x_t."""
    process, x_t, mean = VarianceExploding(), torch.randn(5, 3), torch.randn(5, 3)
    t, n = torch.full((5,), 0.7), torch.full((5,), 0.4)
    share = (process.at(n).sigma / process.at(t).sigma)[:, None] ** 2
    found = process.bridge(x_t, mean, t, n).mean
    torch.testing.assert_close(found, (1 - share) * mean + share * x_t, rtol=1e-12, atol=1e-12)


def test_the_prediction_of_an_item_is_the_released_formula_for_variance_preserving():
    """((v / s_t^2)(alpha_t D - x_t) + x_t) / c, c^2 = (1 - s_t^2) / (1 - s_n^2), v = s_t^2 - c^2 s_n^2."""
    process, x_t, mean = VariancePreserving(), torch.randn(5, 3), torch.randn(5, 3)
    t, n = torch.full((5,), 0.7), torch.full((5,), 0.4)
    (alpha, _, s_t), s_n = (v[:, None] for v in process.at(t)), process.at(n).sigma[:, None]
    c = ((1 - s_t**2) / (1 - s_n**2)) ** 0.5
    v = s_t**2 - c**2 * s_n**2
    wanted = (v / s_t**2 * (alpha * mean - x_t) + x_t) / c
    torch.testing.assert_close(process.bridge(x_t, mean, t, n).mean, wanted, rtol=1e-10, atol=1e-12)


def test_the_prediction_of_an_item_of_a_rectified_flow():
    """By hand: x_n | x_t, x_0 with z = (x_t - (1 - t) x_0) / t and fresh noise between the levels."""
    process, x_t, mean = RectifiedFlow(), torch.randn(5, 3), torch.randn(5, 3)
    t, n = 0.7, 0.4
    g = (1 - t) / (1 - n) * n**2 / t**2
    wanted = (1 - n) * mean + g * (x_t - (1 - t) * mean)
    found = process.bridge(x_t, mean, torch.full((5,), t), torch.full((5,), n)).mean
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", AFFINE)
def test_the_loss_compares_the_bridge_of_the_posterior_with_the_item(name):
    process, noise = AFFINE[name](), Keyed(3, 6)
    model, y = network(process), torch.randn(6, 3)
    level, t = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.8, 0.0]), torch.full((6,), 0.6)
    seen = Denoising().seen(model, {"x_0": y, "level": level, "time": t}, noise)
    torch.testing.assert_close(seen.t, torch.tensor([0.6, 0.6, 0.6, 0.6, 0.8, 0.6]))
    loss = Denoising("uniform").judged(model, seen).sample
    clean = ((seen.posterior.mean - y) ** 2).mean(1)
    torch.testing.assert_close(loss[[0, 5]], clean[[0, 5]], rtol=0, atol=0)
    item = process.bridge(seen.x_t, seen.posterior.mean, seen.t, torch.where(level > 0, level, 0.6)).mean
    torch.testing.assert_close(loss[1:5], ((item - y) ** 2).mean(1)[1:5], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", AFFINE)
def test_states_of_noisy_items_have_the_marginal_of_the_clean_data(name):
    """Noised from the item on, x_t is as if it had been noised from x_0."""
    process, n = AFFINE[name](), 40_000
    x_0, noise = torch.full((n, 1), 1.5), Keyed(0, n)
    level, t = torch.full((n,), 0.3), torch.full((n,), 0.6)
    y = process.marginal(x_0, level).sample(noise.fold("item"))
    seen = Denoising().seen(gaussian(process, 1), {"x_0": y, "level": level, "time": t}, noise)
    at = process.at(0.6)
    assert float(seen.x_t.mean()) == pytest.approx(at.alpha * 1.5, abs=5 * at.sigma / n**0.5)
    assert float(seen.x_t.std()) == pytest.approx(at.sigma, rel=0.02)


def test_an_item_teaches_nothing_at_and_below_its_own_level():
    process = VariancePreserving()
    model, batch = network(process), {"x_0": torch.randn(6, 3), "level": torch.full((6,), 0.7)}
    losses = Denoising()(model, {**batch, "time": torch.linspace(0.05, 0.7, 6)}, Keyed(0, 6))
    assert (losses.sample == 0).all()
    assert (flat_gradient(model, losses.total) == 0).all()
    above = Denoising()(model, {**batch, "time": torch.linspace(0.71, 1, 6)}, Keyed(0, 6))
    assert (above.sample > 0).all()


class Linear(Denoiser):
    """D = W x, at every time."""

    prediction = "mean"

    def __init__(self, process, d):
        super().__init__()
        self.process, self.weight = process, torch.nn.Parameter(torch.zeros(d, d))

    def forward(self, x, t, condition=None, step=None):
        return Posterior(self.process, x, t, x @ self.weight.T)


def minimiser(model, loss):
    """Of a loss that is quadratic in the weight: one step of Newton."""
    (slope,) = torch.autograd.grad(loss, model.weight, create_graph=True)
    rows = [torch.autograd.grad(s, model.weight, retain_graph=True)[0].flatten() for s in slope.flatten()]
    return -torch.linalg.solve(torch.stack(rows), slope.detach().flatten()).reshape(model.weight.shape)


@pytest.mark.parametrize("name", ["ve", "vp-linear", "flow"])
def test_from_noisy_items_alone_the_minimiser_is_the_posterior_mean_of_the_clean_data(name):
    process, n = AFFINE[name](), 60_000
    truth = GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 0.5]]), process)
    x_0 = truth.sample_data(n, torch.Generator().manual_seed(0))
    low, high = process.time_at(torch.tensor([0.7, -0.5])).tolist()
    level, noise = torch.full((n,), low), Keyed(0, n)
    y = process.marginal(x_0, level).sample(noise.fold("item"))
    model = Linear(process, 2)
    batch = {"x_0": y, "level": level, "time": torch.full((n,), high)}
    found = minimiser(model, Denoising("uniform")(model, batch, noise).total)
    wanted = truth(torch.eye(2), torch.full((2,), high)).mean.T
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03)
    naive = minimiser(model, Denoising("uniform")(model, {**batch, "level": None}, noise).total)
    assert float((naive - wanted).abs().max()) > 0.06  # a noisy item as a clean target teaches something else


def test_items_at_a_level_refuse_a_coupling():
    """What the posterior says of an item is the mean of a bridge, whose noise is independent of the data."""
    model, noise = network(RectifiedFlow()), Keyed(2, 16)
    coupled, level = Denoising(coupling=OptimalAssignment()), torch.full((16,), 0.3)
    for own in ({"level": level}, {"condition": Condition({"level": level})}):
        with pytest.raises(ValueError, match="level: items that are noisy themselves need independent noise"):
            coupled(model, {"x_0": torch.randn(16, 3), **own}, noise)
    assert model.estimates == "posterior"
    coupled(model, {"x_0": torch.randn(16, 3)}, noise)


class ReadsLevel(torch.nn.Module):
    """A network with a condition field of the name."""

    fields = frozenset({"level"})

    def forward(self, x, level, condition=None):
        self.told = condition
        return x


@pytest.mark.parametrize("reads", [True, False])
def test_a_field_level_is_the_items_only_where_the_model_does_not_read_it(reads):
    model = NetworkDenoiser(ReadsLevel(), RectifiedFlow(), shape=(3,))
    model.fields = frozenset({"level"} if reads else ())
    level = torch.tensor([0.3, 0.9])
    batch = {"x_0": torch.randn(2, 3), "condition": Condition({"level": level})}
    seen = Denoising(drop=0.0).seen(model, batch, Keyed(0, 2))
    assert (seen.level is None) is reads and (model.network.told is not None) is reads
    if reads:
        assert torch.equal(model.network.told["level"], level)


def test_items_with_a_time_for_every_entry():
    process, noise = VariancePreserving(), Keyed(2, 64)
    model, level = Linear(process, 3), torch.full((64,), 0.3)
    times = PerBlock(UniformTime(), (1,))
    seen = Denoising(times=times).seen(model, {"x_0": torch.randn(64, 3), "level": level}, noise)
    assert (
        seen.t.shape == (64, 3)
        and float(seen.t.min()) == 0.3
        and float((seen.t == 0.3).double().mean()) > 0.2
    )
    assert torch.equal(seen.x_t[seen.t == 0.3], seen.x_0[seen.t == 0.3])


def test_only_affine_states_sit_at_a_level():
    batch = {"x_0": torch.zeros(2, 3).long(), "level": torch.zeros(2)}
    with pytest.raises(ValueError, match="level: items of Absorbing"):
        Denoising()(table(Absorbing(3)), batch, Keyed(0, 2))


def test_fit_reads_the_level_from_the_data_and_the_network_never_sees_it(tmp_path):
    torch.set_default_dtype(torch.float32)
    level = torch.where(torch.arange(40) % 2 == 0, 0.0, 1.0)  # what is at time 1 teaches nothing
    x = torch.randn(40, 2)
    runs = {}
    for name, fields in (("all", {}), ("half", {"level": level})):
        split = TensorSplit(x, fields)
        torch.manual_seed(0)
        model = NetworkDenoiser(ResidualMLP(2, 16, 1), VariancePreserving(), shape=(2,))
        options = {"steps": 2, "batch": 40, "out": tmp_path / name, "progress": False, "report_every": 1}
        lines = []
        orn.fit(model, Dataset("points", split, split, (2,)), callback=lines.append, **options)
        runs[name] = lines[0]["loss"]
    assert 0.1 * runs["all"] < runs["half"] < 0.9 * runs["all"]


# --- consistency


def test_the_product_of_two_draws_is_unbiased_and_the_mean_of_four_is_off_by_a_quarter_of_the_variance():
    draws, mean = 0.5 + 2 * torch.randn(4, 200_000, 1), torch.zeros(200_000, 1)
    assert float(product_square(draws, mean).mean()) == pytest.approx(0.25, abs=0.03)
    assert float(mean_square(draws, mean).mean()) == pytest.approx(0.25 + 4 / 4, abs=0.03)


def test_an_exact_posterior_is_a_martingale_and_a_wrong_one_is_not():
    process, n = VariancePreserving(), 4000
    truth = gaussian(process, 2)
    batch = {"x_0": truth.sample_data(n, torch.Generator().manual_seed(0)), "time": torch.full((n,), 0.6)}

    class Wrong(Denoiser):
        process = truth.process

        def forward(self, x, t, condition=None, step=None):
            posterior = truth(x, t)
            return posterior.with_mean(posterior.mean * 0.7)

    term = Consistency(draws=2, estimator="product")
    exact, wrong = (term(model, batch, Keyed(0, n)).sample for model in (truth, Wrong()))
    error = float(exact.std()) / n**0.5
    assert abs(float(exact.mean())) < 4 * error
    assert float(wrong.mean()) > 6 * error


def test_trajectories_carry_no_gradient_and_both_estimates_do():
    model = Linear(VariancePreserving(), 2)
    torch.nn.init.constant_(model.weight, 0.3)
    batch = {"x_0": torch.randn(8, 2), "time": torch.full((8,), 0.6)}
    losses = Consistency(draws=2)(model, batch, Keyed(0, 8))
    assert losses.sample.shape == (8,)
    assert torch.autograd.grad(losses.total, model.weight)[0].abs().sum() > 0
    with pytest.raises(ValueError, match="even for 'product'"):
        Consistency(draws=3, estimator="product")


class Clock(Denoiser):
    """D = t in every entry: what is drawn does not matter, and |D(s) - D(t)|^2 is d (t - s)^2."""

    prediction, fields = "mean", frozenset({"label"})

    def __init__(self):
        super().__init__()
        self.process, self.told = RectifiedFlow(), []

    def forward(self, x, t, condition=None, step=None):
        self.told.append(condition)
        return Posterior(self.process, x, t, torch.as_tensor(t).reshape(-1, 1) * torch.ones_like(x))


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize("estimator", ["mean", "product"])
def test_the_term_is_a_mean_over_entries_and_every_call_is_told_the_condition(d, estimator):
    model, noise, t = Clock(), Keyed(3, 5), torch.linspace(0.2, 0.9, 5)
    label = torch.arange(5)
    batch = {"x_0": torch.randn(5, d), "time": t, "condition": Condition({"label": label})}
    found = Consistency(0.5, steps=3, draws=2, estimator=estimator)(model, batch, noise).sample
    s = noise.fold("time").uniform(torch.empty(5)) * t
    torch.testing.assert_close(found, 0.5 * (t - s) ** 2, rtol=1e-9, atol=1e-12)
    assert len(model.told) == 1 + 2 * (3 + 1)
    assert all(told is not None and torch.equal(told["label"], label) for told in model.told)
