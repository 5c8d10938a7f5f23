"""Low-rank adapters: neutral before training, exact when merged, scaled per row, named as peft names them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.adapters import LowRank, adapt, adapter_state, load_adapter, scaled
from ornstein.networks import UNet


def trained(layer: LowRank, name: str = "default") -> LowRank:
    with torch.no_grad():
        layer.lora_B[name].weight.normal_()
    return layer


LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (3, 5)),
    "convolution": (lambda: nn.Conv2d(5, 7, 3, stride=2, padding=1), (3, 5, 8, 8)),
    "signal": (lambda: nn.Conv1d(5, 7, 3, padding=1, bias=False), (3, 5, 8)),
}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_change_is_of_low_rank_and_merges_exactly(make, shape):
    layer, x = make(), torch.randn(shape)
    whole = LowRank(layer).add("default", 2, alpha=3.0)
    assert torch.equal(whole(x), layer(x))  # B starts at zero
    trained(whole)
    assert (whole(x) - layer(x)).abs().max() > 0.1
    torch.testing.assert_close(whole.merged()(x), whole(x), rtol=1e-10, atol=1e-10)
    change = (whole.merged().weight - layer.weight).flatten(1)
    assert torch.linalg.matrix_rank(change) == 2
    outer, inner = whole.lora_B["default"].weight.flatten(1), whole.lora_A["default"].weight.flatten(1)
    torch.testing.assert_close(change, 1.5 * outer @ inner)


def test_scales_hold_within_their_context_and_row_by_row():
    whole = trained(LowRank(nn.Linear(4, 4)).add("default", 2))
    trained(whole.add("other", 1), "other")
    x = torch.randn(3, 4)
    base, all_ = whole.base_layer(x), whole(x)
    with scaled(default=0.0):
        without = whole(x)
        with scaled(other=0.0):
            assert torch.equal(whole(x), base)
        assert torch.equal(whole(x), without)
    torch.testing.assert_close(all_ - without, whole.lora_B["default"](whole.lora_A["default"](x)))
    with scaled(default=torch.tensor([0.0, 1.0, 0.5]), other=0.0):
        rows = whole(x)
    full = base + (all_ - without)
    torch.testing.assert_close(rows, torch.stack([base[0], full[1], 0.5 * (base[2] + full[2])]))
    assert torch.equal(whole(x), all_)


def test_a_network_is_frozen_and_its_adapter_saved_as_peft_does():
    torch.manual_seed(0)
    network, x, level = (
        UNet(1, width=8, multipliers=(1, 2), attention=(1,)),
        torch.randn(2, 1, 8, 8),
        torch.zeros(2),
    )
    nn.init.normal_(network.out.weight, std=0.1)
    before = network(x, level)
    names = adapt(network, ("qkv", "attention.out"), rank=3)
    assert "encoder" in names[1] and all(n.endswith(("qkv", "attention.out")) for n in names)
    assert torch.equal(network(x, level), before)
    learned = {k for k, p in network.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in k for k in learned)
    for module in network.modules():
        if isinstance(module, LowRank):
            trained(module)
    state = {k: v.clone() for k, v in adapter_state(network).items()}
    assert set(state) == {f"base_model.model.{n}.lora_{p}.weight" for n in names for p in "AB"}
    after = network(x, level)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.zero_()
    assert torch.equal(network(x, level), before)
    load_adapter(network, state)
    assert torch.equal(network(x, level), after)


def test_peft_reads_the_same_numbers():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2))
    theirs = peft.get_peft_model(
        nn.Sequential(
            *[type(m)(m.in_features, m.out_features) if hasattr(m, "in_features") else m for m in net]
        ),
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"]),
    )
    theirs.base_model.model.load_state_dict(
        {
            k.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias"): v
            for k, v in net.state_dict().items()
        },
        strict=False,
    )
    adapt(net, ("0", "2"), rank=2, alpha=4)
    for i in (0, 2):
        trained(net[i])
    peft.set_peft_model_state_dict(theirs, adapter_state(net))
    x = torch.randn(3, 4)
    torch.testing.assert_close(theirs(x), net(x))


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="ungrouped"):
        LowRank(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="Did you mean 'qkv'"):
        adapt(UNet(1, width=8, attention=(0,)), ("qvk",), 2)
    with pytest.raises(ValueError, match="another name"):
        LowRank(nn.Linear(2, 2)).add("a", 1).add("a", 1)
    with pytest.raises(ValueError, match="unknown adapter"):
        adapter_state(nn.Linear(2, 2))
    one, two = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    adapt(one, ("0",), 1), adapt(two, ("0",), 2)
    with pytest.raises(ValueError, match=r"state: .* is \(1, 2\), the adapter's \(2, 2\)"):
        load_adapter(two, adapter_state(one))
