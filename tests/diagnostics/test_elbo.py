"""The variational bound against densities and probabilities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from tests.exact import AFFINE, DISCRETE, TABLE, TABLE_WEIGHTS, joint, mixture, table

from ornstein.core import AffineProcess, TimeGrid
from ornstein.denoisers import GaussianDenoiser
from ornstein.diagnostics import Quantised, elbo
from ornstein.processes import Absorbing, BrownianBridge, RectifiedFlow, VariancePreserving


def data(denoiser, n: int = 64) -> torch.Tensor:
    return denoiser.sample_data(n, torch.Generator().manual_seed(0))


def pooled(errors: torch.Tensor) -> float:
    """The standard error of the mean of rows with these errors."""
    return float(errors.square().sum().sqrt() / len(errors))


@pytest.mark.parametrize("name", ["vp-linear", "ve", "flow"])
def test_with_an_exact_denoiser_the_limit_is_the_density(name):
    truth = mixture(AFFINE[name]())
    x = data(truth)
    found = elbo(truth, x, repeats=16)
    gap = (found.nats - truth.log_density(x, 0.0)).mean()
    assert abs(float(gap)) < 4 * pooled(found.standard_error) and pooled(found.standard_error) < 0.06
    assert torch.allclose(sum(found.parts.values()), found.nats)
    assert found.evaluations == 16 * 33 and found.dim == 3


def test_few_steps_are_a_looser_bound_and_many_reach_the_limit():
    truth = mixture(VariancePreserving())
    x = data(truth, 32)
    density = truth.log_density(x, 0.0).mean()
    few, more, many = (elbo(truth, x, steps=n, repeats=4) for n in (10, 50, 200))
    gaps = [float(f.nats.mean() - density) for f in (few, more, many)]
    assert gaps[0] < gaps[1] - 2 < gaps[2] - 2  # each far from the next
    assert -1.5 < gaps[2] < 4 * pooled(many.standard_error)


class Paced(AffineProcess):
    """Half-log-SNR from 6 to -5 at a pace of one's own, at any scale."""

    def __init__(self, power: float, grows: bool):
        super().__init__()
        self.power, self.grows = power, grows

    def schedule(self, t):
        half_log_snr = 6.0 - 11.0 * t**self.power
        size = (1 + torch.exp(-2 * half_log_snr)).sqrt() if self.grows else torch.ones_like(t)
        alpha = torch.sigmoid(2 * half_log_snr).sqrt() * size
        return alpha, torch.zeros_like(t), torch.sigmoid(-2 * half_log_snr).sqrt() * size

    def time_at(self, half_log_snr):
        return ((6.0 - torch.as_tensor(half_log_snr)).clamp(min=0.0) / 11.0) ** (1 / self.power)


def test_the_limit_depends_on_the_ends_of_the_schedule_alone():
    values = []
    for process in (Paced(1.0, False), Paced(2.0, False), Paced(0.5, True)):
        truth = mixture(process)
        found = elbo(truth, data(truth), level=math.exp(-5.0))
        values.append(found.parts["diffusion"] + found.parts["reconstruction"])
    assert torch.allclose(values[0], values[1], rtol=0, atol=1e-6)
    assert torch.allclose(values[0], values[2], rtol=0, atol=1e-6)


def test_the_bound_of_a_wrong_denoiser_is_lower():
    truth = mixture(VariancePreserving())
    x = data(truth)
    wrong = GaussianDenoiser(truth.means.mean(0), torch.eye(3), truth.process)
    good, bad = elbo(truth, x), elbo(wrong, x)
    assert float((good.nats - bad.nats).mean()) > 4 * pooled(bad.standard_error)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_rows_bound_the_probability(name):
    truth = table(DISCRETE[name](3))
    rows = TABLE.repeat_interleave(64, 0)
    few, many = (elbo(truth, rows, steps=n, repeats=2) for n in (4, 64))
    means = [f.nats.reshape(5, 64).mean(1) @ TABLE_WEIGHTS.double() for f in (few, many)]
    entropy = float((TABLE_WEIGHTS * TABLE_WEIGHTS.log()).sum())
    assert means[0] < means[1]
    assert entropy - 0.3 < float(means[1]) < entropy + 0.05


def test_a_tree_of_both_kinds_has_one_bound():
    truth = joint(VariancePreserving(), Absorbing(2))
    x = {"image": torch.zeros(32, 2), "label": torch.zeros(32, dtype=torch.long)}
    few, found = (elbo(truth, x, steps=n, repeats=4) for n in (25, 100))
    # at the origin: the first component, of label 0, has a quarter of the weight and variance 0.3
    want = math.log(0.25 / (2 * math.pi * 0.3))
    assert float(few.nats.mean()) + 1 < float(found.nats.mean()) < want + 0.1 and found.dim == 3
    assert float(found.nats.mean()) > want - 1.5


def test_quantised_data_add_their_cell():
    truth = GaussianDenoiser(torch.zeros(2), 0.3, VariancePreserving())
    lattice = Quantised(9, -1.0, 1.0)
    x = torch.zeros(200, 2)
    found = elbo(truth, x, quantised=lattice)
    normal = torch.distributions.Normal(0.0, 0.3**0.5)
    cell = 2 * float((normal.cdf(torch.tensor(0.125)) - normal.cdf(torch.tensor(-0.125))).log())
    assert abs(float(found.nats.mean()) - cell) < 4 * pooled(found.standard_error) + 0.02


def test_a_grid_of_ones_own_may_be_given():
    truth = mixture(VariancePreserving())
    x = data(truth, 8)
    grid = TimeGrid.log_snr(30, truth.process)
    assert elbo(truth, x, grid=grid, repeats=2).evaluations == 60


def test_what_has_no_bound_is_refused():
    truth = mixture(RectifiedFlow())
    x = data(truth, 4)
    with pytest.raises(ValueError, match="points"):
        elbo(truth, x, points=0)
    with pytest.raises(ValueError, match="give steps="):
        elbo(table(Absorbing(3)), TABLE)
    truth.estimates = "velocity"
    with pytest.raises(ValueError, match="dependent coupling"):
        elbo(truth, x)
    bridge = mixture(BrownianBridge())
    with pytest.raises(ValueError, match="ends at a point"):
        elbo(bridge, x, anchor=x)


def test_at_the_mean_of_a_unit_gaussian_chance_is_removed():
    """There |x_0 - D|^2 is alpha^2 sigma^2 |z|^2, all of it the noise's own."""
    truth = GaussianDenoiser(torch.zeros(3), 1.0, VariancePreserving())
    x = torch.zeros(200, 3)
    limit = elbo(truth, x, repeats=1, points=4000)
    assert float(limit.parts["diffusion"].std()) < 1e-3  # without the control 0.25
    few = elbo(truth, x, steps=4, repeats=1)
    assert float(few.parts["reconstruction"].std()) < 1e-4  # without it 1.2


def test_what_is_not_steps_or_a_lattice_is_refused():
    truth = mixture(VariancePreserving())
    with pytest.raises(ValueError, match="steps: expected an integer of at least 1, or None, got 0"):
        elbo(truth, data(truth, 2), steps=0)
    with pytest.raises(TypeError, match="quantised: expected a Quantised lattice"):
        elbo(truth, data(truth, 2), quantised=17)
