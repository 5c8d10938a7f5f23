from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, build
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import Concatenated, UNet
from ornstein.processes import RectifiedFlow


def network(**options):
    torch.manual_seed(0)
    made = Concatenated(UNet(3, out_channels=1, width=8, multipliers=(1, 2), **options), 1)
    torch.nn.init.normal_(made.network.out.weight, std=0.1)
    return made


X, LEVEL = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(4)
SMALL = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_image_is_seen_at_the_size_of_the_state():
    made = network()
    large = torch.nn.functional.interpolate(SMALL, size=(8, 8), mode="bilinear", align_corners=False)
    both = [made(X, LEVEL, Condition({"measurement": image})) for image in (SMALL, large)]
    torch.testing.assert_close(*both)
    expected = made.network(torch.cat([X, large, torch.ones_like(X)], 1), LEVEL)
    torch.testing.assert_close(both[0], expected)


def test_rows_without_an_image_are_those_without_a_condition():
    made = network()
    plain, given = made(X, LEVEL), Condition({"measurement": SMALL})
    torch.testing.assert_close(made(X, LEVEL, given.null()), plain)
    some = made(X, LEVEL, given.dropped(torch.tensor([True, False, True, False])))
    torch.testing.assert_close(some[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(some[[1, 3]], made(X, LEVEL, given)[[1, 3]])
    grey = made(X, LEVEL, Condition({"measurement": torch.zeros_like(SMALL)}))
    assert not torch.allclose(grey, plain)  # an image of zeros is not no image


def test_it_is_a_network_like_others():
    made = network(labels=3)
    assert made.fields == {"measurement", "label"} and made.labels == 3
    model = NetworkDenoiser(made, RectifiedFlow(), "velocity", (1, 8, 8))
    again = build(model.spec())
    again.load_state_dict(model.state_dict())
    condition = Condition({"measurement": SMALL, "label": torch.tensor([0, 1, 2, 0])})
    torch.testing.assert_close(again(X, 0.5, condition).mean, model(X, 0.5, condition).mean)
    with_, without = model.many(X, 0.5, [condition, condition.null("measurement")])
    torch.testing.assert_close(without.mean, model(X, 0.5, condition.null("measurement")).mean)
    assert not torch.allclose(with_.mean, without.mean)


def test_images_and_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="sees 2 channels"):
        Concatenated(UNet(2, out_channels=1, width=8), 1)
    with pytest.raises(ValueError, match="measurement: expected 1 channels"):
        network()(X, LEVEL, Condition({"measurement": torch.zeros(4, 3, 4, 4)}))
