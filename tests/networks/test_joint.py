from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from ornstein.networks import JointUNet


@pytest.fixture
def network(wake):
    torch.manual_seed(0)
    return wake(JointUNet(1, 3, width=8, multipliers=(1, 2)).double())


@pytest.fixture
def x():
    return {"image": torch.randn(4, 1, 6, 6).double(), "label": torch.tensor([0, 1, 2, 3])}


@pytest.fixture
def level():
    return {"image": torch.randn(4).double(), "label": torch.randn(4).double()}


def test_both_heads_read_both_leaves_and_both_levels(network, x, level):
    before = network(x, level)
    for changed in (
        ({**x, "image": x["image"] + 1}, level),
        ({**x, "label": x["label"].flip(0)}, level),
        (x, {**level, "image": level["image"] + 1}),
        (x, {**level, "label": level["label"] + 1}),
    ):
        after = network(*changed)
        for leaf in ("image", "label"):
            moved = (after[leaf] - before[leaf]).flatten(1).abs().amax(1)
            assert (moved > 1e-6).all(), leaf


def test_the_two_levels_are_not_one(network, x, level):
    swapped = network(x, {"image": level["label"], "label": level["image"]})
    assert not torch.allclose(swapped["image"], network(x, level)["image"])


def test_the_mask_is_a_label_of_its_own_and_logits_are_of_data_only(network, x, level):
    output = network(x, level)
    assert output["label"].shape == (4, 3)
    assert output["image"].shape == (4, 1, 6, 6)
    with pytest.raises(IndexError):
        network({**x, "label": torch.full((4,), 4)}, level)


def test_one_hot_rows_equal_ids_and_have_gradients(network, x, level):
    rows = one_hot(x["label"], 4).double().requires_grad_()
    soft, hard = network({**x, "label": rows}, level), network(x, level)
    assert all(torch.allclose(soft[k], hard[k], rtol=0, atol=1e-10) for k in hard)
    soft["image"].square().sum().backward()
    assert (rows.grad.abs() > 0).all()


def test_the_label_head_does_not_read_positions_it_averages_over(network, x, level):
    """A constant shift of the pooled features' norm aside, logits are one linear map of one mean."""
    seen = {}
    network.unet.middle.register_forward_hook(lambda _, __, out: seen.update(middle=out))
    logits = network(x, level)["label"]
    shuffled = seen["middle"].flatten(2)[..., torch.randperm(9)].reshape(seen["middle"].shape)
    network.unet.middle.register_forward_hook(lambda *_: shuffled)
    assert torch.allclose(network(x, level)["label"], logits, atol=1e-10)


def test_the_trunk_is_a_unet_with_its_options():
    network = JointUNet(3, 5, dims=1, width=8, multipliers=(1, 2, 2), out_channels=6)
    x = {"image": torch.randn(2, 3, 11), "label": torch.tensor([5, 0])}
    output = network(x, {"image": torch.zeros(2), "label": torch.zeros(2)})
    assert output["image"].shape == (2, 6, 11)
    assert network.fields == frozenset()
