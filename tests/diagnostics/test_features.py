"""Taps: the same activations through every wrapper, and nothing else changed."""

from __future__ import annotations

import sys

import pytest
import torch

from ornstein import denoisers, guides, networks, processes
from ornstein.core import Condition, Keyed
from ornstein.diagnostics import feature_names, features, pool, pooled_features
from ornstein.training.average import Average

VP, FLOW = processes.VariancePreserving(), processes.RectifiedFlow()
NAMES = ["encoder.0", "encoder.1", "middle", "decoder.0"]


def filled(network):
    """Zero-initialised layers made random, so that nothing is hidden by them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return network


@pytest.fixture(scope="module")
def model():
    torch.set_default_dtype(torch.float64)
    network = filled(networks.UNet(1, width=8, multipliers=(1, 2, 2), labels=3))
    return denoisers.NetworkDenoiser(network, VP, "noise", shape=(1, 8, 8))


X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_names_are_the_blocks_in_order(model):
    assert feature_names(model) == ["encoder.0", "encoder.1", "encoder.2", "middle", "decoder.0", "decoder.1"]
    words = networks.SequenceTransformer(5, 4, 6, width=8, depth=2, heads=2)
    assert networks.tap_names(words) == ["blocks.0", "blocks.1"]


def test_features_are_what_the_blocks_computed_of_the_noised_state(model):
    noise = Keyed(3, 5)
    x_t = VP.marginal(X, 0.2).sample(noise)
    with networks.tapped(model.network, NAMES) as direct:
        model(x_t, 0.2)
    found = features(model, X, 0.2, NAMES, noise)
    assert list(found) == NAMES
    assert all(torch.equal(found[k], direct[k]) for k in NAMES)


def test_a_row_depends_on_its_sample_its_level_and_its_noise_alone(model):
    noise = Keyed(0, 5)
    whole = features(model, X, 0.3, ["middle"], noise)["middle"]
    rows = torch.tensor([3, 1])
    assert torch.allclose(
        features(model, X[rows], 0.3, ["middle"], noise[rows])["middle"], whole[rows], atol=1e-12
    )
    assert torch.equal(features(model, X, 0.3, ["middle"])["middle"], whole)  # seed 0 is the default
    other = features(model, X, 0.3, ["middle"], Keyed(1, 5))["middle"]
    assert not torch.allclose(other, whole, atol=1e-3)


def test_a_guide_does_not_run(model):
    """Its pass with a condition and without are two; features are those of the one that was asked for."""
    label = Condition({"label": torch.ones(5).long()})
    calls = []
    handle = model.network.register_forward_hook(lambda *given: calls.append(1))
    found = features(guides.ClassifierFree(3.0)(model), X, 0.3, NAMES, condition=label)
    handle.remove()
    expected = features(model, X, 0.3, NAMES, condition=label)
    assert calls == [1] and all(torch.equal(found[k], expected[k]) for k in NAMES)


def test_wrappers_leave_features_alone(model):
    expected = features(model, X, 0.3, NAMES)
    guided = guides.ClassifierFree(3.0)(guides.ClassifierFree(2.0)(model))
    average = Average(model).module
    for wrapped in (guided, average):
        found = features(wrapped, X, 0.3, NAMES)
        assert all(torch.equal(found[k], expected[k]) for k in NAMES)


def test_a_conversion_is_read_at_its_own_level(model):
    converted = denoisers.Converted(model, FLOW)
    t = FLOW.time_at(VP.half_log_snr(0.3))
    found, expected = features(converted, X, t, NAMES), features(model, X, 0.3, NAMES)
    assert all(torch.allclose(found[k], expected[k], atol=1e-9) for k in NAMES)


def test_labels_cannot_leak_unless_given(model):
    null = Condition({"label": torch.zeros(5, dtype=torch.long)}).null()
    plain = features(model, X, 0.3, ["decoder.1"])["decoder.1"]
    assert torch.equal(features(model, X, 0.3, ["decoder.1"], condition=null)["decoder.1"], plain)
    told = features(model, X, 0.3, ["decoder.1"], condition=Condition({"label": torch.ones(5).long()}))
    assert not torch.allclose(told["decoder.1"], plain, atol=1e-3)
    by_field = features(model, X, 0.3, ["decoder.1"], label=1)
    assert torch.equal(by_field["decoder.1"], told["decoder.1"])
    with pytest.raises(TypeError, match="Did you mean 'label'"):
        features(model, X, 0.3, lable=1)


def test_taps_keep_the_graph_and_leave_no_hooks(model):
    x = X.clone().requires_grad_()
    with networks.tapped(model, ["middle"]) as taken:
        model(x, 0.3)
    assert torch.autograd.grad(taken["middle"].sum(), x)[0].abs().sum() > 0
    assert not any(m._forward_hooks for m in model.modules())


def test_names_that_are_none_are_refused(model):
    with pytest.raises(ValueError, match=r"Did you mean 'decoder\.0'"):
        features(model, X, 0.3, ["decodr.0"])
    for asked in (features, pooled_features):
        with pytest.raises(TypeError, match=r"names: expected a sequence of names such as \('middle',\)"):
            asked(model, X, 0.3, "middle")
    truth = denoisers.GaussianDenoiser(torch.zeros(2), 1.0, VP)
    with pytest.raises(ValueError, match="GaussianDenoiser has no network"):
        feature_names(truth)


def test_pooling_to_one_cell_is_the_mean():
    x = torch.randn(2, 3, 5, 7)
    assert torch.allclose(pool(x), x.mean((2, 3)))
    assert torch.allclose(pool(x.flatten(2).transpose(1, 2), tokens=True), x.mean((2, 3)))
    assert torch.equal(pool(x[:, :, 0, 0]), x[:, :, 0, 0])


def test_pooling_to_cells_is_the_mean_of_each():
    x = torch.randn(2, 3, 4, 6)
    cells = pool(x, 2).reshape(2, 3, 2, 2)
    assert torch.allclose(cells[:, :, 1, 0], x[:, :, 2:, :3].mean((2, 3)))
    assert torch.allclose(pool(torch.randn(1, 2, 4, 4, 4), 4).shape[1] * torch.ones(1), torch.tensor([128.0]))
    with pytest.raises(ValueError, match="1 to 4 cells"):
        pool(x, 5)


def test_a_data_set_is_read_in_parts(model, monkeypatch):
    monkeypatch.setattr(sys.modules[pooled_features.__module__], "CHUNK", 2)
    found = pooled_features(model, X, 0.3, NAMES)
    whole = features(model, X, 0.3, NAMES)
    assert all(torch.allclose(found[k], pool(whole[k]), atol=1e-12) for k in NAMES)


def test_the_exact_posterior_classifies_by_bayes_rule_and_worse_with_noise():
    """The analytic control: responsibilities are the Bayes classifier at noise t; real networks peak at t > 0."""
    from scipy.stats import norm

    gap = 1.5
    means = torch.tensor([[-gap], [gap]])
    truth = denoisers.MixtureDenoiser([0.5, 0.5], means, 1.0, VP)
    generator, n = torch.Generator().manual_seed(0), 40_000
    label = torch.randint(2, (n,), generator=generator)
    x_0 = means[label] + torch.randn(n, 1, generator=generator)
    rates = []
    for t in (0.01, 0.2, 0.4, 0.6):
        shares = truth(VP.marginal(x_0, t).sample(Keyed(0, n)), t).heads["responsibilities"]
        rates.append(float((shares.argmax(1) == label).double().mean()))
        assert abs(rates[-1] - norm.cdf(gap * VP.at(t).alpha)) < 0.006  # VP keeps the variance at 1
    assert rates == sorted(rates, reverse=True)
