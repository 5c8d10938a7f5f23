"""Distances against brute force, closed forms and other libraries; their intervals by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from ornstein import metrics

DISTANCES = [metrics.energy_distance, metrics.sliced_wasserstein, metrics.frechet_distance]


def normal(n, *shape, seed=0, mean=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64) * scale + mean


def test_energy_distance_is_the_mean_over_pairs():
    x, y = normal(7, 3), normal(5, 3, seed=1, mean=0.5)
    cross = np.mean([math.dist(a, b) for a in x.tolist() for b in y.tolist()])
    within = [
        np.mean([math.dist(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
        for z in (x.tolist(), y.tolist())
    ]
    assert metrics.energy_distance(x, y).value == pytest.approx(2 * cross - sum(within), rel=1e-12)


def test_energy_distance_of_two_normals():
    x, y = normal(4000, 1), normal(4000, 1, seed=1, mean=1.0, scale=2.0)

    def gap(mean, variance):  # E|Z| of a normal Z
        spread = math.sqrt(variance)
        tail = 1 - 2 * scipy.stats.norm.cdf(-mean / spread)
        return spread * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * tail

    exact = 2 * gap(1.0, 5.0) - gap(0.0, 2.0) - gap(0.0, 8.0)
    found = metrics.energy_distance(x, y, resamples=50)
    assert found.low < exact < found.high
    assert found.high - found.low < 0.25 * exact


def test_energy_distance_is_unbiased_where_laws_agree():
    values = [
        metrics.energy_distance(normal(20, 2, seed=2 * i), normal(15, 2, seed=2 * i + 1), 2).value
        for i in range(300)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


@pytest.mark.parametrize("sizes", [(40, 40), (40, 23)])
def test_sliced_wasserstein_on_a_line_is_wasserstein(sizes):
    x, y = normal(sizes[0], 1), normal(sizes[1], 1, seed=1, mean=0.3, scale=1.5)
    exact = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    found = metrics.sliced_wasserstein(x, y, projections=3, resamples=2)
    assert found.value == pytest.approx(exact, rel=1e-12)


def test_sliced_wasserstein_of_a_shift():
    x, shift = normal(50, 4), torch.tensor([3.0, 0.0, 0.0, 4.0], dtype=torch.float64)
    found = metrics.sliced_wasserstein(x, x + shift, projections=4000, resamples=2)
    mean_cosine = math.gamma(2) / (math.gamma(2.5) * math.sqrt(math.pi))  # E|u_1| on the 3-sphere
    assert found.value == pytest.approx(5 * mean_cosine, rel=0.02)


def test_frechet_distance_of_given_moments():
    rng = np.random.default_rng(0)
    moments, sets = [], []
    for n in (300, 200):
        root, mean = rng.normal(size=(3, 3)), rng.normal(size=3)
        z = rng.normal(size=(n, 3))
        z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T)).T)  # exactly white
        moments.append((mean, root @ root.T))
        sets.append(torch.from_numpy(z @ root.T + mean))
    (mx, sx), (my, sy) = moments
    cross = np.trace(scipy.linalg.sqrtm(sx @ sy).real)
    exact = ((mx - my) ** 2).sum() + np.trace(sx) + np.trace(sy) - 2 * cross
    assert metrics.frechet_distance(*sets, resamples=2).value == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_set_is_at_no_distance_from_itself(distance):
    x = normal(60, 3)
    expected = 0.0
    if distance is metrics.energy_distance:  # unbiased for two independent sets: below zero for one
        expected = -2 * (torch.cdist(x, x).sum() / (60 * 59) - torch.cdist(x, x).mean())
    assert distance(x, x, resamples=2).value == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_moving_both_sets_alike_changes_nothing(distance):
    x, y = normal(80, 4), normal(60, 4, seed=1, mean=0.5)
    turn = torch.linalg.qr(normal(4, 4, seed=2)).Q
    if distance is metrics.sliced_wasserstein:
        turn = torch.eye(4, dtype=torch.float64)  # its directions are few: exact under shifts alone
    moved = [z @ turn + normal(4, seed=3) * 10 for z in (x, y)]
    assert distance(*moved).value == pytest.approx(distance(x, y).value, rel=1e-9)
    assert distance(y, x).value == pytest.approx(distance(x, y).value, rel=1e-9)


def test_sliced_wasserstein_hardly_sees_a_turn():
    x, y = normal(80, 4), normal(60, 4, seed=1, mean=0.5)
    turn = torch.linalg.qr(normal(4, 4, seed=2)).Q
    values = [
        metrics.sliced_wasserstein(a, b, projections=2000, resamples=2).value
        for a, b in ((x, y), (x @ turn, y @ turn))
    ]
    assert values[1] == pytest.approx(values[0], rel=0.03)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_scale_with_the_unit(distance):
    x, y = normal(50, 2), normal(50, 2, seed=1, mean=1.0)
    power = 2 if distance is metrics.frechet_distance else 1
    scaled, plain = distance(3 * x, 3 * y), distance(x, y)
    assert scaled[:3] == pytest.approx([3**power * v for v in plain[:3]], rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_intervals_cover(distance):
    few = {"projections": 8} if distance is metrics.sliced_wasserstein else {}
    found = [
        distance(normal(80, 2, seed=2 * i), normal(80, 2, seed=2 * i + 1, mean=0.7), resamples=100, **few)
        for i in range(150)
    ]
    expectation = np.mean([estimate.value for estimate in found])
    coverage = np.mean([estimate.low <= expectation <= estimate.high for estimate in found])
    spread = np.std([estimate.value for estimate in found])
    width = np.mean([estimate.high - estimate.low for estimate in found])
    assert 0.88 < coverage <= 1
    assert 0.75 < width / (2 * 1.96 * spread) < 1.4


def test_strata_take_the_share_of_each_class_out():
    labels = torch.arange(100) % 2
    x, y = (normal(100, 2, seed=s) + 20.0 * labels[:, None] for s in (0, 1))
    free = metrics.frechet_distance(x, y)
    fixed = metrics.frechet_distance(x, y, strata=(labels, labels))
    assert fixed.value == free.value
    assert fixed.high - fixed.low < 0.3 * (free.high - free.low)


def test_estimates_are_reproducible_and_say_n():
    x, y = normal(30, 2), normal(20, 2, seed=1)
    one, two, other = (metrics.energy_distance(x, y, seed=s) for s in (0, 0, 1))
    assert one == two
    assert one.value == other.value
    assert one.low != other.low
    assert one.n == 20
    assert str(metrics.Estimate(0.5, 0.25, 1.0, 1200)) == "0.5 [0.25, 1] (n = 1,200)"


def test_images_and_float32_are_accepted():
    x = normal(20, 1, 4, 4).float().requires_grad_()
    assert metrics.energy_distance(x, x + 1).value == pytest.approx(
        metrics.energy_distance(x.detach().flatten(1).double(), x.detach().flatten(1) + 1).value
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_bad_samples_are_refused(distance):
    x = normal(5, 2)
    with pytest.raises(TypeError, match="x: expected a Tensor"):
        distance({"image": x}, x)
    with pytest.raises(ValueError, match="y: expected at least 2 samples"):
        distance(x, x[:1])
    with pytest.raises(ValueError, match=r"samples of shape \(2,\) as in x, got \(3,\)"):
        distance(x, normal(5, 3))
    with pytest.raises(ValueError, match="y: sample 3 holds NaN"):
        distance(x, x.index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(ValueError, match="resamples: expected at least 2"):
        distance(x, x, resamples=1)
    with pytest.raises(ValueError, match=r"strata: expected class numbers of \(5, 5\) samples"):
        distance(x, x, strata=(torch.zeros(5), torch.zeros(4)))


def test_projections_are_counted():
    with pytest.raises(ValueError, match="projections: expected at least 1, got 0"):
        metrics.sliced_wasserstein(normal(4, 2), normal(4, 2), projections=0)


def test_large_sets_are_measured_in_blocks():
    x, y = normal(2100, 2), normal(1500, 2, seed=1)
    whole = 2 * torch.cdist(x, y).mean() - sum(
        torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)
    )
    assert metrics.energy_distance(x, y, 2).value == pytest.approx(float(whole), abs=1e-9)
