from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, build
from ornstein.networks import Paired, UNet


@pytest.fixture
def network() -> Paired:
    torch.manual_seed(0)
    made = Paired(UNet(8, width=4, multipliers=(1, 2), out_channels=2))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def inputs(n: int = 3):
    x_a, x_b, y_a, y_b = torch.randn(4, n, 2, 6, 6)
    return {"previous": x_a, "next": x_b}, {"previous": torch.rand(n), "next": torch.rand(n)}, y_a, y_b


def test_each_side_sees_itself_first(network):
    x, level, y, z = inputs()
    found = network(x, level, Condition({"previous": y, "next": z}))
    own = network.network(torch.cat([x["next"], x["previous"], z, y], 1), level["next"])
    assert torch.allclose(found["next"], own, atol=1e-5)
    assert found["previous"].shape == x["previous"].shape


def test_exchanging_the_sides_exchanges_the_outputs(network):
    x, level, y, z = inputs()
    one = network(x, level, Condition({"previous": y, "next": z}))
    turned = [{"previous": v["next"], "next": v["previous"]} for v in (x, level)]
    other = network(*turned, Condition({"previous": z, "next": y}))
    assert torch.allclose(one["previous"], other["next"], atol=1e-5)
    assert torch.allclose(one["next"], other["previous"], atol=1e-5)


def test_it_is_rebuilt_from_its_spec(network):
    again = build(network.spec())
    again.load_state_dict(network.state_dict())
    x, level, y, z = inputs()
    condition = Condition({"previous": y, "next": z})
    assert torch.equal(again(x, level, condition)["next"], network(x, level, condition)["next"])
    assert network.fields == {"previous", "next"}


def test_what_does_not_fit_is_refused(network):
    with pytest.raises(ValueError, match="sides: expected two different names"):
        Paired(UNet(4), sides=("a", "a"))
    with pytest.raises(ValueError, match="sees 3 channels; needed are 4 times"):
        Paired(UNet(3))
    x, level, y, _ = inputs()
    with pytest.raises(ValueError, match="unknown condition field 'next'"):
        network(x, level, Condition({"previous": y}))
    with pytest.raises(ValueError, match=r"level\['next'\]"):
        network(x, {**level, "next": torch.rand(2)}, Condition({"previous": y, "next": y}))
