"""Time samplers, weightings as weights of every prediction, and several times in one sample."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Denoiser, Keyed, Posterior
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.objectives import (
    WEIGHTINGS,
    ClampedAbove,
    Denoising,
    LogitNormal,
    LogNormalSigma,
    PerBlock,
    SharedTime,
    UniformTime,
    weight_of,
)
from ornstein.processes import Absorbing, ProductProcess, RectifiedFlow, VarianceExploding, VariancePreserving

from ..exact import AFFINE, gaussian, joint

N = 20_000


def times(sampler, process=None, n=N):
    return sampler(process or RectifiedFlow(), torch.empty(n, 2), Keyed(0, n))


@pytest.mark.parametrize("name", AFFINE)
def test_the_levels_of_edm_are_log_normal_on_every_process(name):
    process = AFFINE[name]()
    level = -process.half_log_snr(times(LogNormalSigma(), process))
    assert float(level.mean()) == pytest.approx(-1.2, abs=0.04)
    assert float(level.std()) == pytest.approx(1.2, abs=0.04)


def test_logits_are_normal():
    logit = times(LogitNormal(0.3, 0.8)).logit()
    assert float(logit.mean()) == pytest.approx(0.3, abs=0.03)
    assert float(logit.std()) == pytest.approx(0.8, abs=0.02)


def test_clamped_times_are_the_base_s_above_and_the_clamp_below():
    base, clamped = times(UniformTime()), times(ClampedAbove(UniformTime(), 0.4))
    assert torch.equal(clamped, base.clamp(min=0.4))
    assert float((clamped == 0.4).double().mean()) == pytest.approx(0.4, abs=0.02)


def test_a_shared_time_is_the_first_row_s():
    assert torch.equal(times(SharedTime(UniformTime()), n=5), times(UniformTime(), n=5)[:1].expand(5))


def test_rows_keep_their_times_in_any_batch():
    for sampler in (UniformTime(), LogitNormal(), LogNormalSigma(), PerBlock(UniformTime(), (1,))):
        every = sampler(RectifiedFlow(), torch.empty(8, 3), Keyed(0, 8))
        part = sampler(RectifiedFlow(), torch.empty(3, 3), Keyed(0, 8)[2:5])
        assert torch.equal(every[2:5], part)


def test_a_level_is_asked_of_processes_that_have_one():
    with pytest.raises(ValueError, match="Absorbing has no log-SNR"):
        times(LogNormalSigma(), Absorbing(3))
    with pytest.raises(ValueError, match="std"):
        LogitNormal(std=0)


# --- weightings


@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS if w != "target"])
@pytest.mark.parametrize("name", AFFINE)
def test_a_weighting_is_the_same_loss_in_every_prediction(name, weighting):
    """w |D - x_0|^2 = w_of |prediction - target|^2, with the errors computed from two posteriors."""
    process, t = AFFINE[name](), torch.linspace(0.05, 0.95, 7)
    x_t, x_0, mean = torch.randn(7, 3), torch.randn(7, 3), torch.randn(7, 3)
    truth, guess = Posterior(process, x_t, t, x_0), Posterior(process, x_t, t, mean)
    wanted = weight_of(weighting, process, t, "mean") * ((mean - x_0) ** 2).sum(1)
    for view in ("noise", "velocity", "score"):
        error = ((getattr(guess, view) - getattr(truth, view)) ** 2).sum(1)
        found = weight_of(weighting, process, t, view) * error
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)
    level = process.at(t)
    c_out = 0.5 * level.sigma / (level.alpha**2 * 0.25 + level.sigma**2) ** 0.5
    found = weight_of(weighting, process, t, "edm") * (((mean - x_0) / c_out[:, None]) ** 2).sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_weightings_are_their_papers():
    process, t = VarianceExploding(), torch.linspace(0.1, 0.9, 5)
    sigma = process.at(t).sigma
    edm = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(weight_of("edm", process, t, "mean"), edm)
    torch.testing.assert_close(weight_of("edm", process, t, "edm"), torch.ones(5))
    torch.testing.assert_close(
        weight_of("edm", process, t, "mean", scale=2.0), (sigma**2 + 4) / (sigma * 2) ** 2
    )
    torch.testing.assert_close(weight_of("edm", process, t, "edm", scale=2.0), torch.ones(5))
    snr = sigma**-2
    torch.testing.assert_close(weight_of("snr-power", process, t, "noise"), snr**0.1 / (1 + snr))
    torch.testing.assert_close(weight_of("min-snr", process, t, "noise"), (5 / snr).clamp(max=1))
    flow = RectifiedFlow()  # lambda = 2 log((1 - t) / t), -lambda' = 2 / (t (1 - t))
    wanted = torch.sigmoid(2 - 2 * ((1 - t) / t).log()) * 2 / (t * (1 - t))
    torch.testing.assert_close(weight_of("sigmoid", flow, t, "noise"), wanted)
    with pytest.raises(ValueError, match="Did you mean 'sigmoid'"):
        weight_of("sigmoidal", flow, t)
    with pytest.raises(ValueError, match="unknown prediction"):
        weight_of("snr", flow, t, "noises")


def test_the_sigmoid_weighting_is_an_integral_over_log_snr_whatever_the_schedule():
    """Midpoint sums over t of the exact noise error on N(0, I): equal for two schedules of one family of levels."""
    found = []
    for process in (VariancePreserving("linear"), VariancePreserving("cosine"), RectifiedFlow()):
        t = (torch.arange(20_000) + 0.5) / 20_000
        level = process.at(t)
        error = level.alpha**2 / (
            level.alpha**2 + level.sigma**2
        )  # Var(z | x_t), a function of the SNR alone
        weight = weight_of("sigmoid", process, t, "noise")
        inside = process.half_log_snr(t).abs() < 4
        found.append(float((weight * error)[inside].sum() / 20_000))
    assert found[0] == pytest.approx(found[1], rel=3e-3)
    assert found[0] == pytest.approx(found[2], rel=3e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weighting_is_finite_at_the_ends_that_are_drawn(weighting):
    t = torch.tensor([1e-3, 0.5, 1.0])
    weight = WEIGHTINGS[weighting](
        NetworkDenoiser(ResidualMLP(2, 16, 1), RectifiedFlow()), RectifiedFlow(), t
    )
    assert bool(weight.isfinite().all()) and bool((weight >= 0).all())


# --- several times in one sample


class Fixed(Denoiser):
    """D = x / 2 at any time, entry by entry."""

    prediction, scale = "mean", 0.5

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x, t, condition=None, step=None):
        return Posterior(self.process, x, t, x / 2)


def test_blocks_have_times_of_their_own():
    t = PerBlock(UniformTime(), (None, 2, 3))(None, torch.empty(4, 5, 6, 7), Keyed(0, 4))
    assert t.shape == (4, 1, 6, 7)
    assert len(t[0].unique()) == 3 * 3
    assert len(t[0, 0, :2, :3].unique()) == 1 and len(t[0, 0, :2, 2:4].unique()) == 2
    assert torch.equal(PerBlock(UniformTime(), (None,))(None, torch.empty(4, 5), Keyed(0, 4))[:, 0], times(
        UniformTime(), n=4
    ))  # fmt: skip
    with pytest.raises(ValueError, match="samples have 1 axes"):
        PerBlock(UniformTime(), (1, 1))(None, torch.empty(4, 5), Keyed(0, 4))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", AFFINE)
def test_equal_times_in_every_entry_are_one_time(name, weighting):
    process, noise, x_0 = AFFINE[name](), Keyed(0, 6), torch.randn(6, 2, 3)
    model, t = Fixed(process), torch.tensor([0.0, 0.2, 0.3, 0.5, 0.7, 0.9])
    loss = Denoising(weighting)
    one = loss(model, {"x_0": x_0, "time": t}, noise).sample
    each = loss(model, {"x_0": x_0, "time": t[:, None, None].expand(6, 2, 3)}, noise).sample
    shared = loss(model, {"x_0": x_0, "time": t[:, None, None].expand(6, 2, 1)}, noise).sample
    torch.testing.assert_close(each, one, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shared, one, rtol=1e-10, atol=1e-12)


def test_the_weight_is_each_entrys_own():
    process, noise, x_0 = VariancePreserving(), Keyed(0, 4), torch.randn(4, 3)
    loss = Denoising("snr", times=PerBlock(UniformTime(), (1,)))
    seen = loss.seen(Fixed(process), {"x_0": x_0}, noise)
    assert seen.t.shape == (4, 3)
    snr = (process.at(seen.t).alpha / process.at(seen.t).sigma) ** 2
    wanted = (snr * (seen.x_t / 2 - x_0) ** 2).mean(1)
    torch.testing.assert_close(loss.judged(Fixed(process), seen).sample, wanted)


def test_discrete_entries_have_times_of_their_own():
    process, x_0 = Absorbing(3), torch.randint(0, 3, (512, 4))

    class Even(Denoiser):
        def forward(self, x, t, condition=None, step=None):
            return Posterior(process, x, t, probs=torch.full((*x.shape, 3), 1 / 3))

    model = Even()
    model.process = process
    loss = Denoising(times=PerBlock(UniformTime(), (1,)))
    seen = loss.seen(model, {"x_0": x_0}, Keyed(0, 512))
    assert seen.t.shape == (512, 4)
    wanted = ((seen.x_t == process.mask) * math.log(3) / seen.t).mean(1)
    torch.testing.assert_close(loss.judged(model, seen).sample, wanted)


def test_a_tree_draws_each_leaf_by_the_sampler():
    process = joint(RectifiedFlow(), Absorbing(2)).process
    assert isinstance(process, ProductProcess)
    x_0 = {"image": torch.randn(64, 2), "label": torch.randint(0, 2, (64,))}
    t = Denoising(clean=0.0, times=LogitNormal(3.0, 0.1)).times(process, x_0, Keyed(0, 64))
    assert all(float(v.min()) > 0.9 for v in t.values()) and not torch.equal(t["image"], t["label"])


def test_the_exact_posterior_minimises_the_loss_under_any_sampler():
    process, n = VariancePreserving(), 5000
    truth = gaussian(process)
    x_0 = truth.sample_data(n, torch.Generator().manual_seed(0))

    class Off(torch.nn.Module):
        process, prediction, scale, factor, training = truth.process, "noise", 0.5, 1.0, True

        def forward(self, x, t, condition=None, step=None):
            posterior = truth(x, t)
            return posterior.with_mean(posterior.mean * self.factor)

    model = Off()
    for sampler in (LogNormalSigma(), LogitNormal(), SharedTime(UniformTime())):
        losses = []
        for model.factor in (0.8, 1.0, 1.2):
            losses.append(float(Denoising("edm", times=sampler)(model, {"x_0": x_0}, Keyed(0, n)).total))
        assert losses[1] < losses[0] and losses[1] < losses[2]
