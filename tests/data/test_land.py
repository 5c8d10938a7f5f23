"""Land maps: known layout, known textures."""

from __future__ import annotations

import pytest
import torch

from ornstein import data
from ornstein.data.land import LAND, land_maps, land_patches


def test_kinds_cover_a_quarter_each_and_lie_in_order():
    maps = land_maps(3, 64, 12.0)
    for regions in maps.regions:
        assert torch.allclose(regions.flatten().bincount() / 64**2, torch.full((4,), 0.25), atol=1e-3)
    steps = torch.cat([maps.regions.diff(dim=d).abs().flatten() for d in (1, 2)])
    assert float((steps > 1).float().mean()) < 0.002  # the field is smooth: neighbours in the order


def test_textures_are_those_of_the_layout():
    maps = land_maps(4, 64, 12.0)
    assert maps.image.shape == (4, 1, 64, 64) and float(maps.image.abs().max()) <= 1
    flat, kinds = maps.image.flatten(), maps.regions.flatten()
    spread = [float(flat[kinds == k].std()) for k in range(4)]
    assert float(flat[kinds == 0].mean()) == pytest.approx(-0.8, abs=0.02) and spread[0] < 0.05
    assert float(flat[kinds == 1].mean()) == pytest.approx(-0.3, abs=0.02) and spread[1] == pytest.approx(
        0.25, abs=0.02
    )
    assert spread[2] == pytest.approx(0.25, abs=0.03) and spread[3] > 0.5
    rows = maps.regions[0] == 2
    assert float(maps.image[0, 0, 0::4][rows[0::4]].mean() - maps.image[0, 0, 2::4][rows[2::4]].mean()) > 0.4


def test_maps_are_periodic_smooth_fields_of_their_scale():
    def border(scale):
        regions = land_maps(8, 64, scale).regions
        return float((regions.diff(dim=2) != 0).float().mean())

    assert border(4.0) / border(8.0) == pytest.approx(2.0, rel=0.2)
    seam = (
        (land_maps(8, 64, 16.0).regions[:, :, 0] != land_maps(8, 64, 16.0).regions[:, :, -1]).float().mean()
    )
    assert float(seam) < 3 * border(16.0)  # a torus has no border


def test_patches_are_cut_row_by_row_with_their_majority():
    maps = land_maps(2, 32, 8.0)
    x, label = land_patches(maps, 8)
    assert torch.equal(x[5], maps.image[0, :, 8:16, 8:16])
    assert int(label[5]) == int(maps.regions[0, 8:16, 8:16].flatten().mode().values)
    assert len(land_patches(maps, 8, 4)[0]) == 2 * 7 * 7


def test_the_data_set_is_a_function_of_its_seed_and_splits_by_map():
    one, two = (data.load("land", patch=16, maps=10, side=32, seed=3) for _ in range(2))
    assert torch.equal(one.train.x_0, two.train.x_0) and one.classes == LAND
    assert len(one.train) == 40 and len(one.held_out) == 4
    assert not torch.equal(one.train.x_0, data.load("land", patch=16, maps=10, side=32).train.x_0)
    with pytest.raises(ValueError, match="above 0"):
        land_maps(0)
