"""Windows over a canvas: partitions of unity, and decoding in windows."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch import Tensor, nn

from ornstein.networks import Autoencoder
from ornstein.spaces import AutoencoderCodec, Codec, Tiling, decode_tiled
from ornstein.spaces.tiling import PROFILES

CASES = [
    ((13,), (5,), 2, False),
    ((12, 10), (4, 6), 3, False),
    ((8, 8), (4, 4), 2, True),
    ((6, 5, 4), (3, 3, 2), 2, False),
    ((7, 7), (7, 7), 4, False),
]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("canvas, window, stride, periodic", CASES)
def test_weights_add_to_one_and_pasting_undoes_cutting(canvas, window, stride, periodic, profile):
    tiling = Tiling(canvas, window, stride, profile, periodic)
    total = torch.zeros(tiling.size).index_add(0, tiling.places.flatten(), tiling.weights.flatten())
    assert torch.allclose(total, torch.ones(tiling.size), atol=1e-14)
    assert bool((tiling.weights > 0).all())
    x = torch.randn(2, 3, *canvas)
    pieces = tiling.cut(x)
    assert pieces.shape == (2, len(tiling), 3, *window)
    assert torch.allclose(tiling.paste(pieces), x, atol=1e-14)


def test_a_window_is_the_slice_at_its_start():
    x = torch.randn(1, 2, 9, 11)
    tiling = Tiling((9, 11), (4, 5), (3, 2))
    for piece, (row, column) in zip(tiling.cut(x)[0], tiling.starts.tolist(), strict=True):
        assert torch.equal(piece, x[0, :, row : row + 4, column : column + 5])
    assert tiling.starts[-1].tolist() == [5, 6]  # the far border, where the stride does not lead
    assert torch.equal(tiling.centres[0], torch.tensor([1.5, 2.0]))


def test_a_torus_is_cut_alike_everywhere():
    x = torch.randn(1, 1, 8, 8)
    tiling = Tiling((8, 8), (4, 4), 2, periodic=True)
    assert len(tiling) == 16
    moved, cut = tiling.cut(x.roll((2, 4), (2, 3))), tiling.cut(x)
    assert torch.equal(moved.unflatten(1, (4, 4)), cut.unflatten(1, (4, 4)).roll((1, 2), (1, 2)))


def test_a_gaussian_profile_prefers_the_middle():
    weights = Tiling((12,), (6,), 3, "gaussian").weights
    assert bool((weights[1, :3].diff() > 0).all())
    assert torch.allclose(Tiling((12,), (6,), 6, "gaussian").weights, torch.ones(2, 6))  # nothing overlaps


class Enlarging(Codec):
    """Nearest-neighbour enlargement and a convolution of radius 1."""

    def __init__(self, pointwise: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 1 if pointwise else 3, padding=0 if pointwise else 1)

    def decode(self, z: Tensor, condition: object = None) -> Tensor:
        return self.conv(z).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_decoding_in_windows_is_decoding_for_a_pointwise_decoder():
    z, codec = torch.randn(2, 2, 9, 8), Enlarging(pointwise=True)
    for profile in PROFILES:
        found = decode_tiled(codec, z, 4, 3, profile, chunk=5)
        assert torch.allclose(found, codec.decode(z), atol=1e-12)


def test_one_window_decodes_the_whole_and_small_ones_differ_at_their_borders_only():
    z, codec = torch.randn(1, 2, 8, 8), Enlarging(pointwise=False)
    whole = codec.decode(z)
    assert torch.allclose(decode_tiled(codec, z, 8, 8), whole, atol=1e-12)
    apart = (decode_tiled(codec, z, 4, 4) - whole).abs().amax((0, 1)) > 1e-9
    inner = torch.ones(16, dtype=torch.bool)
    inner[6:10] = False
    assert not bool(apart[inner][:, inner].any()) and bool(apart[6:10].any())


@pytest.mark.parametrize("patch, blocks", [(1, 1), (2, 1)])
def test_with_a_margin_of_its_reach_a_decoder_in_windows_is_the_decoder_on_the_whole(patch, blocks):
    torch.manual_seed(0)
    network = Autoencoder(1, latent=2, factor=2, width=4, patch=patch, blocks=(1, blocks))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # residual blocks start as identities, which see one place
    codec, margin = AutoencoderCodec(network).eval().requires_grad_(False), network.reach
    z = torch.randn(2, 2, 2 * margin + 6, 2 * margin + 9)
    whole = codec.decode(z)
    for profile in PROFILES:
        found = decode_tiled(codec, z, 2 * margin + 3, 2, profile, margin=margin)
        assert torch.allclose(found, whole, atol=1e-12)
    short = decode_tiled(codec, z, 2 * margin + 3, 2, margin=margin - 1)
    assert not torch.allclose(short, whole, atol=1e-7)  # so the reach is no larger than it must be


@pytest.mark.parametrize("profile", PROFILES)
def test_on_a_torus_windows_with_a_margin_of_the_reach_are_the_whole(profile):
    around = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
    blind = nn.Conv2d(2, 3, 3, padding=1)  # as windows see it: nothing beyond their borders
    blind.load_state_dict(around.state_dict())
    z = torch.randn(2, 2, 12, 9)
    for window, stride in (((6, 5), (4, 3)), ((12, 9), (6, 3)), ((12, 5), (6, 3))):
        tiling = Tiling((12, 9), window, stride, profile, periodic=True, margin=1)
        assert bool(tiling.weights.isfinite().all())
        shown = blind(tiling.cut(z).flatten(0, 1)).unflatten(0, (2, len(tiling)))
        assert torch.allclose(tiling.paste(shown), around(z), atol=1e-12)


def test_margins_weigh_nothing_inside_and_all_at_the_borders_of_the_canvas():
    tiling = Tiling((10,), (6,), 2, margin=2)
    assert tiling.starts.flatten().tolist() == [0, 2, 4]
    assert tiling.weights.tolist() == [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]
    x = torch.randn(2, 3, 10)
    assert torch.allclose(tiling.paste(tiling.cut(x)), x)
    around = Tiling((8,), (6,), 2, periodic=True, margin=2)
    assert bool((around.weights[:, [0, 1, 4, 5]] == 0).all()) and bool((around.weights[:, 2:4] == 1).all())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ((8, 8), (4, 4), 3, "uniform", False, 1),
            "margin: expected 0 to 0, half of what windows overlap, got 1",
        ),
        (((8, 8), (4, 4), 2, "uniform", False, -1), "margin: expected 0 to 1"),
        (((8, 8), (8, 8), 8, "uniform", True, 1), "margin: expected 0 to 0"),
        (((8, 8), (8, 8), 4, "uniform", True, 3), "margin: expected 0 to 2"),
        (((8, 8), (4, 4), 5), "stride <= window"),
        (((8, 8), (9, 9), 4), "window <= canvas"),
        (((8,), (4, 4), 2), "as many axes"),
        (((9, 9), (4, 4), 2, "uniform", True), "does not divide"),
        (((8,), (4,), 2, "gausian"), "Did you mean 'gaussian'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tiling(*arguments)
    with pytest.raises(ValueError, match="canvas of"):
        Tiling((8,), (4,), 2).cut(torch.zeros(1, 1, 9))


@pytest.mark.parametrize("rows, chunk", [(1, 4), (2, 4), (3, 2)])
def test_no_more_than_a_chunk_of_windows_is_cut_tabled_or_kept(rows, chunk, monkeypatch):
    made, tables, z = [], [], torch.randn(rows, 2, 11, 10)
    codec, product = Enlarging(pointwise=False), Tiling._product

    class Watched(Enlarging):
        def decode(self, z: Tensor, condition: object = None) -> Tensor:
            assert len(z) <= chunk and z.untyped_storage().nbytes() <= 8 * chunk * 2 * 4 * 4
            assert sum(one() is not None for one in made) <= 1  # the last chunk's at most
            shown = super().decode(z)
            made.append(weakref.ref(shown))
            return shown

    def watched(self, which, kind):
        tables.append(product(self, which, kind))
        return tables[-1]

    whole = Tiling((22, 20), (8, 8), 4, "gaussian").paste(
        codec.decode(Tiling((11, 10), (4, 4), 2).cut(z).flatten(0, 1)).unflatten(0, (rows, -1))
    )
    monkeypatch.setattr(Tiling, "_product", watched)
    own = Watched(pointwise=False)
    own.load_state_dict(codec.state_dict())
    with torch.no_grad():
        found = decode_tiled(own, z, 4, 2, chunk=chunk)
    assert torch.allclose(found, whole, atol=1e-12)
    assert len(made) >= 5 and max(len(table) for table in tables) <= chunk
    with pytest.raises(ValueError, match="no whole multiple"):
        decode_tiled(Uneven(), z, 4, 2)


class Uneven(Codec):
    def decode(self, z: Tensor, condition: object = None) -> Tensor:
        return z[..., :-1, :]


@pytest.mark.parametrize("profile", PROFILES)
def test_weights_of_a_window_are_its_profiles_share_of_all_that_overlap(profile):
    """Written out window by window, with margins that weigh nothing inside the canvas."""
    tiling = Tiling((9, 7), (5, 4), (2, 2), profile, margin=1)
    shares, total = [], torch.zeros(9, 7)
    for row, column in tiling.starts.tolist():
        share = torch.zeros(9, 7)
        for i in range(5):
            for j in range(4):
                at = (
                    (row == 0 or i >= 1)
                    and (row == 4 or i < 4)
                    and (column == 0 or j >= 1)
                    and (column == 3 or j < 3)
                )
                gaps = ((i - 2) / (0.4 * 5)) ** 2 + ((j - 1.5) / (0.4 * 4)) ** 2
                share[row + i, column + j] = at * (math.exp(-gaps / 2) if profile == "gaussian" else 1.0)
        shares.append(share)
        total += share
    for k, share in enumerate(shares):
        found = torch.zeros(63).index_copy(0, tiling.places[k], tiling.weights[k])
        assert torch.allclose(found.reshape(9, 7), share / total, atol=1e-14)
