"""A network of one thing as a joint network of two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ornstein as orn
from ornstein.adapters import JointAttention
from ornstein.core import Condition, build
from ornstein.denoisers import NetworkDenoiser
from ornstein.guides import JointSeparate
from ornstein.networks import Transformer, UNet
from ornstein.objectives import Denoising
from ornstein.processes import ProductProcess, RectifiedFlow

B = 3


def base() -> UNet:
    torch.manual_seed(0)
    network = UNet(1, width=8, multipliers=(1, 2), attention=(1,), labels=4)
    for p in network.parameters():  # so that zeroed layers do not hide anything
        nn.init.normal_(p, std=0.15)
    return network


def image_transformer() -> Transformer:
    torch.manual_seed(0)
    network = Transformer(1, patch=2, width=16, depth=2, heads=2, labels=4)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    return network


def state(n: int = B) -> tuple[dict, dict]:
    g = torch.Generator().manual_seed(1)
    x = {k: torch.randn(n, 1, 8, 8, generator=g) for k in ("image", "map")}
    return x, {"image": torch.linspace(-2, 1, n), "map": torch.linspace(0, 3, n)}


def stirred(network=base) -> JointAttention:
    """With random adapters, as if trained."""
    joint = JointAttention(network(), rank=2)
    for p in joint.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.5)
    return joint


@pytest.mark.parametrize("base", [base, image_transformer], ids=["unet", "transformer"])
def test_it_starts_as_two_independent_copies_bit_for_bit(base):
    x, level = state()
    alone = base()
    both = alone(torch.cat([x["image"], x["map"]]), torch.cat([level["image"], level["map"]]))
    out = JointAttention(base(), rank=2)(x, level)
    assert torch.equal(torch.cat([out["image"], out["map"]]), both)


@pytest.mark.parametrize("base", [base, image_transformer], ids=["unet", "transformer"])
def test_streams_see_each_other_unless_they_are_kept_apart(base):
    joint, (x, level) = stirred(base), state()
    moved = {**x, "map": x["map"] + 1}
    assert (joint(moved, level)["image"] - joint(x, level)["image"]).abs().max() > 1e-3
    apart = Condition({"joint": torch.zeros(B)})
    torch.testing.assert_close(
        joint(moved, level, apart)["image"], joint(x, level, apart)["image"], rtol=0, atol=0
    )
    alone = base()(x["image"], level["image"])  # the first stream, kept apart, is the pretrained network
    torch.testing.assert_close(joint(x, level, apart)["image"], alone, rtol=1e-10, atol=1e-10)
    with_own = base()(x["map"], level["map"])
    assert (joint(x, level, apart)["map"] - with_own).abs().max() > 1e-3  # the second has its own change


def test_rows_are_independent_and_each_has_its_scale():
    joint, (x, level) = stirred(), state()
    scale = torch.tensor([0.0, 1.0, 0.5])
    together = joint(x, level, Condition({"joint": scale}))
    for i in range(B):
        one = {k: v[i : i + 1] for k, v in x.items()}, {k: v[i : i + 1] for k, v in level.items()}
        alone = joint(*one, Condition({"joint": scale[i : i + 1]}))
        for stream in x:
            torch.testing.assert_close(together[stream][i : i + 1], alone[stream], rtol=1e-9, atol=1e-10)


def test_only_small_parts_learn_and_all_of_them_do():
    joint, (x, level) = JointAttention(base(), rank=2), state()
    nn.init.normal_(joint.network.middle.attention[0].attention.join.weight)
    learned = {k: p for k, p in joint.named_parameters() if p.requires_grad}
    assert all("lora_" in k or ".join." in k for k in learned)
    sum(v.square().sum() for v in joint(x, level).values()).backward()
    assert all(p.grad is None for k, p in joint.named_parameters() if k not in learned)
    for k, p in learned.items():
        if "middle" in k and "lora_A" not in k:  # A learns once B has left zero
            assert p.grad.abs().sum() > 0, k


def model() -> NetworkDenoiser:
    process = ProductProcess({"image": RectifiedFlow(), "map": RectifiedFlow()})
    return NetworkDenoiser(stirred(), process, "velocity", {"image": (1, 8, 8), "map": (1, 8, 8)})


def test_it_is_sampled_trained_guided_and_rebuilt_like_any_network():
    own = model()
    x = orn.sample(own, 2, steps=3, seed=0, given={"map": torch.zeros(2, 1, 8, 8)}, label=[1, None])
    assert torch.equal(x["map"], torch.zeros(2, 1, 8, 8))
    guided = orn.sample(JointSeparate(0.0)(own), 2, steps=3, seed=0, given={"map": torch.zeros(2, 1, 8, 8)})
    moved = orn.sample(JointSeparate(0.0)(own), 2, steps=3, seed=0, given={"map": torch.ones(2, 1, 8, 8)})
    torch.testing.assert_close(guided["image"], moved["image"], rtol=0, atol=0)
    losses = Denoising()(own, {"x_0": state(4)[0]}, orn.Keyed(0, 4))
    losses.total.backward()
    again = build(own.network.spec())
    again.load_state_dict(own.network.state_dict())
    x, level = state()
    assert torch.equal(again(x, level)["map"], own.network(x, level)["map"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has no SelfAttention"):
        JointAttention(UNet(1, width=8))
    with pytest.raises(ValueError, match="two different names"):
        JointAttention(base(), ("image", "image"))
    x, level = state()
    with pytest.raises(ValueError, match="one shape"):
        stirred()({**x, "map": x["map"][:, :, :4]}, level)
