"""The parser against scenes that are known."""

from __future__ import annotations

import pytest
import torch

from ornstein.data.scenes import detector as detection
from ornstein.data.scenes.layers import layers, painted
from ornstein.data.scenes.parse import Parsed, parse
from ornstein.data.scenes.render import BACKGROUND_RGB, COLOUR_RGB, render
from ornstein.data.scenes.shapes import DISTANCES
from ornstein.data.scenes.world import BACKGROUNDS, COLOURS, SHAPES, Scenes, World, draw_scenes
from ornstein.metrics.scenes_reading import reading_error

SEED = 4_000_037  # not among the scenes that the network was trained on


def noisy(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def truth() -> Scenes:
    return draw_scenes(120, SEED)


@pytest.fixture(scope="module")
def read(truth: Scenes) -> Parsed:
    return parse(render(truth, 32))


def test_renders_are_read_without_error(truth: Scenes, read: Parsed) -> None:
    error = reading_error(truth, read)
    assert error.exact.float().mean() >= 0.99 and read.readable.all()
    assert error.offset.max() < 0.05 / 32  # a twentieth of a pixel
    assert float(read.confidence.median()) > 0.999


@pytest.mark.parametrize("size, sigma, least", [(16, 0.0, 0.9), (32, 0.1, 0.97), (64, 0.1, 0.97)])
def test_other_sizes_and_noise(truth: Scenes, size: int, sigma: float, least: float) -> None:
    some = truth.rows(slice(0, 60))
    assert reading_error(some, noisy(render(some, size), sigma)).exact.double().mean() >= least


def test_radius_and_tint_are_found(truth: Scenes, read: Parsed) -> None:
    one = truth.counts == 1
    for name in ("radius", "tint"):
        there, found = (getattr(s, name)[one, 0] for s in (truth, read.scenes))
        assert (there - found).abs().quantile(0.95) < 2e-3, name


def test_slots_and_groups_are_in_order(read: Parsed) -> None:
    scenes = read.scenes
    for i in range(len(scenes.x)):
        n = int(scenes.counts[i])
        kinds = [
            tuple(int(getattr(scenes, k)[i, j]) for k in ("shape", "colour", "size", "texture"))
            for j in range(n)
        ]
        groups = scenes.group[i, :n].tolist()
        assert groups == sorted(groups) and (scenes.group[i, n:] == -1).all()
        assert [kinds.index(k) for k in kinds] == [groups.index(g) for g in groups]
        for a in range(1, n):
            assert groups[a] != groups[a - 1] or scenes.x[i, a] >= scenes.x[i, a - 1]


def test_a_row_does_not_depend_on_its_batch(truth: Scenes) -> None:
    images = noisy(render(truth, 32), 0.1)
    whole = parse(images)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    for index in (torch.tensor([17]), order):
        part = parse(images[index])
        assert torch.equal(part.readable, whole.readable[index])
        for name in Scenes._fields:
            torch.testing.assert_close(
                getattr(part.scenes, name), getattr(whole.scenes, name)[index], rtol=0, atol=1e-3
            )


def test_what_is_no_scene_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 3, 32, 32, generator=generator)
    smooth = torch.nn.functional.interpolate(noise[..., :6, :6], (32, 32), mode="bicubic").clamp(-1, 1)
    assert not parse(noise).readable.any() and not parse(smooth).readable.any()
    assert (parse(noise).confidence == 0).all()


def test_a_missing_or_further_thing_is_noticed(truth: Scenes) -> None:
    """A violet bar across the picture, which no object is like."""
    images = render(truth.rows(slice(0, 60)), 32)
    images[:, :, 12:17, 8:26] = torch.tensor([0.3, -0.2, 0.6])[:, None, None]
    assert parse(images).readable.float().mean() < 0.35


def test_an_empty_picture_and_no_picture() -> None:
    black = (torch.tensor(BACKGROUND_RGB["black"]) / 127.5 - 1)[None, :, None, None].expand(2, 3, 32, 32)
    found = parse(black)
    assert found.readable.all() and (found.scenes.counts == 0).all() and (found.confidence == 1).all()
    assert (found.scenes.background == BACKGROUNDS.index("black")).all()
    none = parse(torch.empty(0, 3, 32, 32))
    assert none.scenes.x.shape == (0, 4) and none.readable.shape == (0,)


def test_wrong_images() -> None:
    for shape in ((3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 16), (1, 3, 12, 12)):
        with pytest.raises(ValueError, match="images: expected"):
            parse(torch.zeros(shape))


def test_pictures_on_another_scale_are_not_read(truth: Scenes) -> None:
    images = render(truth.rows(slice(0, 3)), 32)
    pixels = (images + 1) * 127.5
    for wrong, name in ((pixels.byte(), "uint8"), (images.numpy(), "ndarray"), (images.long(), "int64")):
        with pytest.raises(TypeError, match=f"expected a tensor of floats .* got .*{name}; .* / 127.5 - 1"):
            parse(wrong)
    with pytest.raises(ValueError, match=r"x / 127\.5 - 1"):
        parse(pixels)
    with pytest.warns(UserWarning, match="2 x - 1 for"):
        parse((images + 1) / 2)
    assert parse(1.5 * images.double()).readable.shape == (3,)  # an overshoot is no error, and no warning


@pytest.mark.parametrize("style", ["flat", "outlined", "shaded"])
def test_layers_paint_what_the_renderer_paints(style: str) -> None:
    drawn = draw_scenes(60, 2, World(most=1, styles=(style,)))
    scenes = Scenes(*(v.double() if v.is_floating_point() else v for v in drawn))
    size = 32
    at = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    first = {
        name: getattr(scenes, name)[:, 0]
        for name in ("x", "y", "radius", "texture", "shape", "colour", "tint")
    }
    dx, dy = at - first["x"][:, None, None], at[:, None] - first["y"][:, None, None]
    radius, texture, number = (v[:, None, None] for v in (first["radius"], first["texture"], scenes.style))
    distance = torch.stack(
        [DISTANCES[SHAPES[k]](dx[i], dy[i], radius[i]) for i, k in enumerate(first["shape"].tolist())]
    )
    made = layers(distance, dx, dy, radius, texture, number, size)
    palette = torch.tensor([COLOUR_RGB[c] for c in COLOURS], dtype=torch.float64) / 255
    ground = torch.tensor([BACKGROUND_RGB[b] for b in BACKGROUNDS], dtype=torch.float64) / 255
    images = painted(made, palette[first["colour"]] * first["tint"][:, None], ground[scenes.background])
    torch.testing.assert_close(2 * images - 1, render(scenes, size).double(), rtol=0, atol=1e-6)


# ----------------------------------------------------------------------------------- the network


def test_proposals_near_the_border_of_cells_are_one() -> None:
    certainty = torch.tensor([[0.3, 0.3, 0.25, 0.2, 0.1]])
    x = torch.tensor([[0.25, 0.26, 0.24, 0.7, 0.5]])
    found = detection._once(certainty, x, torch.full_like(x, 0.5))
    torch.testing.assert_close(found, torch.tensor([[0.85, 0, 0, 0.2, 0]]))


def test_what_is_hidden_is_not_asked_for() -> None:
    scenes = draw_scenes(40, 3, World(most=2, overlap=True, shapes=("circle",)))
    both = scenes.rows((scenes.counts == 2).nonzero()[:1, 0])
    same = both._replace(
        x=both.x[:, :1].expand(-1, 4), y=both.y[:, :1].expand(-1, 4), radius=torch.full((1, 4), 0.2)
    )
    assert detection._visible(same)[0].tolist() == pytest.approx([0, 1, 0, 0], abs=0.12)
    apart = draw_scenes(40, 3)
    torch.testing.assert_close(detection._visible(apart), apart.present.float(), rtol=0, atol=0.06)


def test_corruptions_leave_some_as_they_are_and_depend_on_their_row_only() -> None:
    from ornstein.core import Keyed

    images = render(draw_scenes(200, 1), 32)
    whole = detection.corrupted(images, Keyed(0, 200))
    share = float((whole == images).flatten(1).all(1).float().mean())
    assert 0.3 < share < 0.55
    one = detection.corrupted(images[7:9], Keyed(0, torch.tensor([7, 8])))
    torch.testing.assert_close(one, whole[7:9], rtol=0, atol=1e-6)


def test_training_lowers_the_loss_and_files_keep_the_network(tmp_path) -> None:
    losses = {}
    for steps in (1, 25):
        made, card = detection.train_detector(steps=steps, batch=16)
        images, scenes, seen = detection._lesson(9, 0, 64)
        losses[steps] = detection._loss(made(images), scenes, seen).item()
    assert losses[25] < 0.7 * losses[1]
    detection.save_detector(made, card, tmp_path)
    again = detection.load_detector(tmp_path)
    images = render(draw_scenes(4, 1), 32)
    torch.testing.assert_close(again(images), made(images), rtol=0.02, atol=0.02)
    assert not any(p.requires_grad for p in again.parameters()) and not again.training


def test_the_shipped_network_is_small() -> None:
    assert (detection._SHIPPED / "detector.safetensors").stat().st_size < 500_000


def test_an_image_that_is_not_finite_is_unreadable_and_the_others_are_read() -> None:
    images = render(draw_scenes(3, 5), 32)
    images[1, 0, 3, 4] = float("nan")
    assert parse(images).readable.tolist() == [True, False, True]
