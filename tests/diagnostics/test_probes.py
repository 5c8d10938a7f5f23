"""Probes: logistic regression to its optimum, heads, and a grid that never sees the test set."""

from __future__ import annotations

import pytest
import torch

from ornstein import denoisers, networks, processes
from ornstein.core import Keyed
from ornstein.diagnostics import (
    alignment,
    cka,
    head_probe,
    linear_probe,
    pooled_features,
    probe_grid,
    uniformity,
)
from ornstein.diagnostics.probes import PENALTIES


def classes(n=400, d=6, k=3, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(k, d, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(k, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, d, generator=generator), labels


def test_a_linear_probe_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = classes(spread=3.0)
    penalty = 0.01
    probe = linear_probe(x, y, penalty)
    scaled = StandardScaler().fit_transform(x.numpy())
    peer = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5000).fit(scaled, y.numpy())
    probs = torch.tensor(peer.predict_proba(scaled))
    assert torch.allclose(probe.logits(x).softmax(1), probs, atol=1e-5)
    centred = probe.head.weight - probe.head.weight.mean(0)
    assert torch.allclose(centred, torch.tensor(peer.coef_), atol=1e-4)


def test_separable_data_are_separated():
    x, y = classes(spread=0.1)
    test_x, test_y = classes(spread=0.1, seed=1)
    assert linear_probe(x, y, 1e-4).accuracy(test_x, test_y) == 1.0


def test_probes_do_not_see_scale_or_shift():
    x, y = classes(spread=3.0)
    moved = 7 * x + 3
    assert torch.allclose(
        linear_probe(x, y, 0.01).logits(x), linear_probe(moved, y, 0.01).logits(moved), atol=1e-6
    )


def test_a_penalty_is_chosen_on_validation_data():
    x, y = classes(n=30, d=40, spread=12.0)
    held = classes(n=500, d=40, spread=12.0, seed=1)

    def held_loss(probe):
        return float(torch.nn.functional.cross_entropy(probe.logits(held[0]), held[1]))

    losses = [held_loss(linear_probe(x, y, penalty)) for penalty in PENALTIES]
    assert held_loss(linear_probe(x, y, validation=held)) == min(losses) < losses[0]
    with pytest.raises(ValueError, match="validation"):
        linear_probe(x, y)
    with pytest.raises(ValueError, match="pool maps first"):
        linear_probe(x[:, :, None], y, 0.1)


def test_a_probe_refuses_what_it_cannot_fit():
    x, y = classes(n=20)
    x[3, 1] = float("nan")
    for fit in (lambda: linear_probe(x, y, 0.1), lambda: head_probe(x, y)):
        with pytest.raises(ValueError, match="finite numbers, got others in 1 of 20 rows"):
            fit()
    for penalty in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="penalty: expected a finite number from 0 up"):
            linear_probe(*classes(n=20), penalty)


def test_a_probe_is_shown_in_a_line():
    assert repr(linear_probe(*classes(n=20), 0.1)) == "Probe(Linear of 6 features)"


def test_a_probe_is_where_its_features_are_whatever_the_default_device():
    x, y = classes(n=20)
    expected = linear_probe(x, y, 0.1).logits(x), head_probe(x, y, epochs=2).logits(x)
    with torch.device("meta"):
        found = linear_probe(x, y, 0.1), head_probe(x, y, epochs=2)
    assert all(torch.equal(p.logits(x), want) for p, want in zip(found, expected, strict=True))


def test_an_mlp_finds_what_no_line_does():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(800, 2, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    assert linear_probe(x, y, 1e-4).accuracy(x, y) < 0.65
    assert head_probe(x, y, "mlp", epochs=60, learning_rate=1e-2).accuracy(x, y) > 0.93


def test_an_attention_head_finds_a_thing_wherever_it_is():
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(600, 5, 4, 4, generator=generator)
    y = torch.randint(2, (600,), generator=generator)
    place = torch.randint(16, (600,), generator=generator)
    x.flatten(2)[torch.arange(600), 0, place] += 3.0  # where to look
    x.flatten(2)[torch.arange(600), 1, place] += 3.0 * (2 * y - 1)  # what is there
    probe = head_probe(x[:400], y[:400], "attention", epochs=40, learning_rate=5e-3)
    assert probe.accuracy(x[400:], y[400:]) > 0.95
    with pytest.raises(ValueError, match="Did you mean 'mlp'"):
        head_probe(x, y, "mpl")


def test_a_head_probe_is_a_function_of_its_seed():
    x, y = classes()
    state = torch.random.get_rng_state()
    one, two = (head_probe(x, y, epochs=2, seed=s).logits(x) for s in (3, 3))
    assert torch.equal(one, two) and torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(one, head_probe(x, y, epochs=2, seed=4).logits(x))


@pytest.fixture(scope="module")
def model():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    network = networks.ResidualMLP(6, width=16, depth=2)
    return denoisers.NetworkDenoiser(network, processes.VariancePreserving(), "noise", shape=(6,))


def test_the_grid_has_a_cell_for_every_block_and_level_and_chooses_on_its_own_validation_share(model):
    x, y = classes(n=300)
    grid = probe_grid(model, x, y, (0.05, 0.9))
    assert set(grid.accuracy) == {(f"blocks.{i}", t) for i in range(2) for t in (0.05, 0.9)}
    assert grid.best[1] == 0.05 and grid.accuracy[grid.best] == max(grid.accuracy.values())
    assert all(grid.accuracy[b, 0.05] > grid.accuracy[b, 0.9] for b in ("blocks.0", "blocks.1"))
    assert grid.judge(model, *classes(n=300, seed=1)) > 0.85
    assert "blocks.1" in grid.table() and "t=0.05" in grid.table()


def test_a_grid_is_judged_with_noise_that_fitted_nothing(model):
    x, y = classes(n=60)
    y = torch.randint(
        3, (60,), generator=torch.Generator().manual_seed(0)
    )  # noise alone decides what is right
    grid = probe_grid(model, x, y, (0.9,), ["blocks.0"], penalty=1e-4)
    probe = grid.probes["blocks.0", 0.9]

    def share(noise):
        found = pooled_features(model, x, 0.9, ["blocks.0"], noise)["blocks.0"]
        return probe.accuracy(found, y)

    for seed in (0, 1):
        assert (
            grid.judge(model, x, y, seed) == share(Keyed(seed, 60).fold("judged")) != share(Keyed(seed, 60))
        )


def test_the_probes_of_a_grid_never_see_the_validation_labels(model):
    x, y = classes(n=100)
    other = torch.where(torch.arange(100) < 80, y, (y + 1) % 3)
    one, two = (probe_grid(model, x, labels, (0.1,), ["blocks.0"]) for labels in (y, other))
    key = ("blocks.0", 0.1)
    assert one.accuracy[key] > 0.9 > 0.1 > two.accuracy[key]
    with pytest.raises(ValueError, match="share in"):
        probe_grid(model, x, y, (0.1,), validation=1.0)


def test_cka_does_not_see_rotation_scale_or_shift():
    x = torch.randn(60, 5)
    turn = torch.linalg.qr(torch.randn(5, 5)).Q
    for y in (x @ turn, 3 * x, x + 1.0, x):
        assert abs(cka(x, y) - 1) < 1e-12
    assert cka(x, torch.randn(60, 5)) < 0.3
    assert cka(x, x * torch.tensor([10.0, 1, 1, 1, 1])) < 0.9  # another metric is another similarity


def test_cka_is_the_same_by_kernels_and_by_covariances():
    x, y = torch.randn(10, 30), torch.randn(10, 20)
    a, b = x - x.mean(0), y - y.mean(0)
    direct = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert abs(cka(x, y) - float(direct)) < 1e-12
    assert cka(x, y) == pytest.approx(cka(y, x))
    with pytest.raises(ValueError, match="same 10 samples"):
        cka(x, y[:5])


def test_one_sample_has_no_similarity():
    for asked in (lambda: cka(torch.ones(1, 3), torch.ones(1, 3)), lambda: uniformity(torch.ones(1, 3))):
        with pytest.raises(ValueError, match="at least 2 samples"):
            asked()


def test_alignment_and_uniformity_have_their_known_values():
    a, b = torch.eye(3), torch.eye(3).roll(1, 0)
    assert float(alignment(a, 5 * a)) == pytest.approx(0.0, abs=1e-15)
    assert float(alignment(a, b)) == pytest.approx(2.0)
    assert float(uniformity(torch.ones(4, 2))) == pytest.approx(0.0)
    assert float(uniformity(a)) == pytest.approx(-4.0)  # all distances squared are 2
