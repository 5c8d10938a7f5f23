"""The tree slice: sampled jointly, label given image, image given label, all consistent with the exact law."""

from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.denoisers import JointDenoiser, MixtureDenoiser, TableDenoiser
from ornstein.processes import Absorbing, RectifiedFlow, UniformNoise, VariancePreserving

from ..exact import joint

N = 12_000


@pytest.fixture(params=[Absorbing, UniformNoise])
def truth(request):
    return joint(RectifiedFlow(), request.param(2))


def test_joint_samples_have_the_joint_law(truth):
    x = orn.sample(truth, N, steps=40, seed=0)
    one = x["label"] == 1
    assert one.double().mean() == pytest.approx(0.75, abs=0.015)
    near = torch.cdist(x["image"], truth.leaves["image"].means).argmin(1)
    assert ((near > 0) == one).double().mean() > 0.985  # the leaves agree with each other
    shares = torch.bincount(near, minlength=3) / N
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.25]), atol=0.025, rtol=0)


def test_the_image_given_the_label(truth):
    x = orn.sample(truth, N, steps=40, seed=0, given={"label": 1})
    assert (x["label"] == 1).all()
    expected = MixtureDenoiser([2, 1], [[3.0, 0.0], [0.0, 3.0]], 0.3, RectifiedFlow())
    data = expected.sample_data(N, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x["image"].mean(0), data.mean(0), atol=0.08, rtol=0)
    torch.testing.assert_close(x["image"].T.cov(), data.T.cov(), atol=0.12, rtol=0)


def test_the_label_given_the_image(truth):
    image = torch.tensor([1.45, 0.3])
    x = orn.sample(truth, N, steps=10, seed=0, given={"image": image})
    assert torch.equal(x["image"], image.expand(N, 2))
    unknown = torch.tensor([truth.process.parts["label"].states - 1])  # at time 1 it tells nothing
    exact = truth({"image": image[None], "label": unknown}, {"image": 0.0, "label": 1.0})
    probability = float(exact["label"].probs[0, 1])
    assert 0.1 < probability < 0.9
    assert x["label"].double().mean() == pytest.approx(probability, abs=0.015)


def test_the_conditionals_make_the_joint(truth):
    """Label first and image given it has the same law as both at once."""
    labels = orn.sample(truth, N, steps=40, seed=1)["label"]
    x = orn.sample(truth, N, steps=40, seed=2, given={"label": labels})
    both = orn.sample(truth, N, steps=40, seed=3)
    torch.testing.assert_close(x["image"].mean(0), both["image"].mean(0), atol=0.08, rtol=0)


def test_the_joint_posterior_is_bayes_rule():
    truth = joint(VariancePreserving(), Absorbing(2))
    x = {"image": torch.tensor([[0.4, 0.9]]), "label": torch.tensor([1])}
    t = {"image": 0.3, "label": 0.6}
    image, label = truth.leaves["image"], truth.leaves["label"]
    log_p = image.log_likelihoods(x["image"], 0.3) + label.log_likelihoods(x["label"], 0.6)
    weights = (log_p + torch.tensor([0.25, 0.5, 0.25]).log()).softmax(1)
    assert float(weights[0, 0]) == 0  # a label that shows rules its component out
    posterior = truth(x, t)
    torch.testing.assert_close(posterior["image"].heads["responsibilities"], weights)
    torch.testing.assert_close(posterior.mean["label"], posterior["label"].probs)
    gradient = torch.autograd.functional.jacobian(
        lambda v: truth.log_density({"image": v, "label": x["label"]}, t).sum(), x["image"]
    )
    torch.testing.assert_close(posterior["image"].score, gradient)


def test_independent_leaves_are_two_independent_samplers():
    a = MixtureDenoiser([1.0], [[0.5, -0.5]], 0.3, RectifiedFlow())
    b = TableDenoiser([0], [1.0], Absorbing(2))
    both = JointDenoiser({"image": a, "label": b})
    start = a.process.prior(torch.zeros(4, 2)).sample(Keyed(0, 4).fold(-1).fold("image"))
    x = orn.sample(both, 4, steps=6, seed=0)
    torch.testing.assert_close(x["image"], orn.sample(a, start, steps=6))


def test_a_leaf_held_at_its_own_time_is_untouched_to_the_bit(truth):
    image = torch.randn(3, 2)
    grid = TimeGrid.product(image=0.4, label=TimeGrid.uniform(5))
    sampler = Sampler(orn.solvers.recommended(truth.process), grid=grid)
    start = {"image": image, "label": None}
    for step in sampler.steps(truth, start, seed=0):
        assert torch.equal(step.next["image"], image)
    with pytest.raises(ValueError, match="given: got leaves"):
        orn.sample(truth, 2, given={"text": 1})
    with pytest.raises(ValueError, match="samples of shape"):
        sampler(truth, {"image": torch.randn(3, 5), "label": None})
