"""A base shifted by a code: closed forms on Gaussian data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein import Sampler, conditions, denoisers, networks, objectives, processes, solvers
from ornstein.core import Condition, Keyed

VP = processes.VariancePreserving("linear")
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, 0.1], [0.2, 0.1, 0.5]], dtype=torch.float64)
READ = torch.tensor([[1.0, -0.5, 0.3]], dtype=torch.float64)  # z = READ x_0
SPREAD = READ @ COVARIANCE @ READ.T


def base():
    return denoisers.GaussianDenoiser(torch.zeros(3, dtype=torch.float64), COVARIANCE, VP)


def given_code(t):
    """The exact denoiser of x_0 | z = 0 and the gain of z on its mean: x_0 | z is Gaussian."""
    gain = COVARIANCE @ READ.T / SPREAD
    return gain[:, 0], denoisers.GaussianDenoiser(
        torch.zeros(3, dtype=torch.float64), COVARIANCE - gain @ (READ @ COVARIANCE), VP
    )


def exact_mean(x, z, t):
    """E[x_0 | x_t, z]."""
    gain, rest = given_code(t)
    own = z * gain
    return own + rest(x - VP.at(t).alpha * own, t).mean


class Exact(nn.Module):
    """G = (E[eps | x_t, z] - E[eps | x_t]) / s_t, in closed form."""

    taps = ()

    def __init__(self, x, t, coefficient):
        super().__init__()
        self.x, self.t, self.coefficient = x, t, coefficient

    def forward(self, taken, z):
        level = VP.at(self.t)
        noise = (self.x - level.alpha * exact_mean(self.x, z, self.t)) / level.sigma
        return (noise - base()(self.x, self.t).noise) / self.coefficient


def log_likelihood_of_code(x, z, t):
    """log p(z | x_t), exactly."""
    law = base()(x, t)
    gap, spread = z[:, 0] - (law.mean @ READ.T)[:, 0], READ @ law.variance[0] @ READ.T
    return -0.5 * gap**2 / spread[0, 0]


@pytest.mark.parametrize("spacing", [0.0, 1e-3])
@pytest.mark.parametrize("t", [0.05, 0.4, 0.95])
def test_the_optimal_branch_gives_the_posterior_given_the_code(t, spacing):
    x, z = torch.randn(6, 3), torch.randn(6, 1)
    level, before = VP.at(t), VP.at(t - spacing)
    s_t = -(level.alpha / before.alpha) * before.sigma**2 / level.sigma
    model = denoisers.ShiftedDenoiser(base(), Exact(x, t, s_t), nn.Identity(), spacing=spacing)
    found = model(x, t, Condition({"code": z}))
    assert torch.allclose(found.mean, exact_mean(x, z, t), atol=1e-10)
    assert torch.allclose(found.noise, base()(x, t).noise + s_t * Exact(x, t, s_t)(None, z), atol=1e-10)


def test_in_continuous_time_the_branch_is_the_gradient_of_the_codes_likelihood():
    t, z = 0.3, torch.randn(6, 1)
    x = torch.randn(6, 3).requires_grad_()
    (slope,) = torch.autograd.grad(log_likelihood_of_code(x, z, t).sum(), x)
    optimal = Exact(x.detach(), t, -VP.at(t).sigma)(None, z)
    assert torch.allclose(optimal, slope, atol=1e-10)


def test_training_and_sampling_coefficients_meet_at_large_times_only():
    trained, sampled = (
        denoisers.ShiftedDenoiser(base(), nn.Identity(), nn.Identity(), spacing=s) for s in (1e-3, 0.0)
    )
    ratio = [trained.coefficient(t) / sampled.coefficient(t) for t in (1e-3, 2e-3, 0.1, 0.9)]
    assert ratio[0] == 0.0 and ratio == sorted(ratio) and abs(ratio[-1] - 1) < 0.01
    times = torch.tensor([1e-3, 0.1, 0.9], dtype=torch.float64)
    assert torch.allclose(
        trained.coefficient(times), torch.tensor([trained.coefficient(float(t)) for t in times])
    )


@pytest.fixture
def parts():
    torch.manual_seed(0)
    network = networks.UNet(1, width=8, multipliers=(1, 2))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    base = denoisers.NetworkDenoiser(network, VP, "noise", shape=(1, 8, 8))
    return base, networks.ShiftBranch(network, 6), networks.Encoder(1, 6, width=8)


def test_a_new_branch_leaves_the_base_as_it_is_bit_for_bit(parts):
    base, branch, encoder = parts
    model = denoisers.ShiftedDenoiser(base, branch, encoder)
    x, image = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    expected = base(x, 0.4).mean
    assert torch.equal(model(x, 0.4).mean, expected)
    assert torch.equal(model(x, 0.4, Condition({"image": image})).mean, expected)


def opened(parts):
    base, branch, encoder = parts
    torch.nn.init.normal_(branch.out.weight, std=0.2)
    return base, branch, encoder


def test_one_stage_is_pdae_bit_for_bit(parts):
    base, branch, encoder = opened(parts)
    given = Condition({"image": torch.randn(3, 1, 8, 8)})
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    plain = denoisers.ShiftedDenoiser(base, branch, encoder)(x, t, given).mean
    for mode in conditions.MODES:
        staged = denoisers.ShiftedDenoiser(base, branch, encoder, conditions.TimeMasked([1.0], [6], mode))
        assert torch.equal(staged(x, t, given).mean, plain)


def test_the_code_is_encoded_once_a_run_and_rows_without_one_are_the_base(parts):
    base, branch, encoder = opened(parts)
    model = denoisers.ShiftedDenoiser(base, branch, encoder)
    image, calls = torch.randn(2, 1, 8, 8), []
    encoder.register_forward_hook(lambda *given: calls.append(1))
    sampler = Sampler(solvers.DDIM(), 4)
    by_image = sampler(model, 2, seed=0, image=image)
    assert len(calls) == 1
    assert torch.allclose(sampler(model, 2, seed=0, code=encoder(image).detach()), by_image, atol=1e-10)
    some = Condition({"image": image}).dropped(torch.tensor([True, False]))
    x = torch.randn(2, 1, 8, 8)
    mixed = model(x, 0.5, some).mean
    assert torch.allclose(mixed[0], base(x, 0.5).mean[0], atol=1e-12)
    assert not torch.allclose(mixed[1], base(x, 0.5).mean[1], atol=1e-3)


@pytest.mark.parametrize("mode, first", [("base", 0), ("both", 2), ("stop_grad", 2)])
def test_the_loss_at_a_stage_teaches_its_part_alone(parts, mode, first):
    base, branch, encoder = opened(parts)
    mask = conditions.TimeMasked([0.3, 0.6, 1.0], [2, 3, 1], mode)
    model = denoisers.ShiftedDenoiser(base, branch, encoder, mask)
    codes = []
    encoder.register_forward_hook(lambda m, given, z: (z.retain_grad(), codes.append(z))[1])
    objective = objectives.OwnCondition(objectives.Denoising(drop=0.0))
    batch = {"x_0": torch.randn(4, 1, 8, 8), "time": torch.full((4,), 0.5, dtype=torch.float64)}
    objective(model, batch, Keyed(0, 4)).total.backward()
    live = codes[0].grad.abs().sum(0) > 0
    assert live.tolist() == [first <= i < 5 for i in range(6)]


def test_only_branch_and_encoder_learn_and_the_base_stays_in_evaluation_mode(parts):
    model = denoisers.ShiftedDenoiser(*parts).train()
    learned = {id(p) for p in model.parameters() if p.requires_grad}
    assert learned == {id(p) for part in parts[1:] for p in part.parameters()}
    assert not model.denoiser.training and model.branch.training


def test_a_process_without_signal_at_its_end_is_refused():
    truth = denoisers.GaussianDenoiser(torch.zeros(3), 1.0, processes.RectifiedFlow())
    with pytest.raises(ValueError, match="some signal at time 1"):
        denoisers.ShiftedDenoiser(truth, nn.Identity(), nn.Identity())


def test_a_code_that_is_given_comes_before_that_of_the_image(parts):
    base, branch, encoder = opened(parts)
    model = denoisers.ShiftedDenoiser(base, branch, encoder)
    image, code = torch.randn(3, 1, 8, 8), torch.randn(3, 6)
    shown = {"image": torch.tensor([True, True, False]), "code": torch.tensor([True, False, False])}
    coded = model.coded(Condition({"image": image, "code": code}, shown))
    assert torch.equal(coded["code"][:1], code[:1])
    assert torch.allclose(coded["code"][1:2], encoder(image)[1:2])
    assert coded.present["code"].tolist() == [True, True, False]


@pytest.mark.parametrize("t", [0.0, 0.02, 0.1])
def test_the_level_before_the_first_is_the_first(t):
    model = denoisers.ShiftedDenoiser(base(), nn.Identity(), nn.Identity(), spacing=0.1)
    level = VP.at(0.0)
    for time in (t, torch.tensor([t], dtype=torch.float64)):
        found = torch.as_tensor(model.coefficient(time))
        assert torch.allclose(found, torch.as_tensor(level.sigma**2 / level.alpha, dtype=found.dtype))
