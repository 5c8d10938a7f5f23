from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare

from ornstein import data
from ornstein.data.scenes import (
    ACCESSORIES,
    BACKGROUND_RGB,
    BACKGROUNDS,
    PARTS,
    PLACES,
    SIZES,
    TRAITS,
    Creatures,
    Portrait,
    creature_captions,
    creature_name,
    creature_parts,
    draw_creatures,
    draw_identities,
    identity_distances,
    place_holds,
    read_portrait,
    render_creatures,
)
from ornstein.data.scenes.creatures import _Traits


@pytest.fixture(scope="module")
def drawn() -> Creatures:
    return draw_creatures(1500, 3)


def equal(one: Creatures, other: Creatures) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def upright(n: int = 1, **changes: torch.Tensor | float | int) -> Creatures:
    """In the middle of a black picture, with nothing on."""
    said = {
        "x": 0.5,
        "y": 0.5,
        "radius": 0.4,
        "angle": 0.0,
        "size": 1,
        "accessory": 0,
        "background": 0,
        **changes,
    }
    return draw_creatures(n, 0)._replace(
        **{k: v if isinstance(v, torch.Tensor) else torch.full((n,), v) for k, v in said.items()}
    )


def test_a_picture_is_the_same_in_any_batch(drawn):
    order = torch.tensor([1499, 0, 30])
    assert equal(draw_creatures(order, 3), drawn.rows(order))
    assert torch.equal(draw_identities(order, 3), draw_identities(1500, 3)[order])
    assert torch.equal(draw_identities(1500, 3), drawn.identity)
    assert torch.equal(
        render_creatures(drawn.rows(order), 16), render_creatures(drawn.rows(slice(0, None)), 16)[order]
    )


def test_what_varies_is_drawn_apart_from_who_it_is(drawn):
    one = draw_creatures(1500, 3, draw_identities(1, 9)[0])
    assert equal(one._replace(identity=drawn.identity), drawn)
    assert torch.equal(one.identity, draw_identities(1, 9).expand(1500, -1))
    for name, count in (("size", 2), ("accessory", 4), ("background", 4)):
        assert chisquare(torch.bincount(getattr(drawn, name), minlength=count)).pvalue > 1e-3
    for values, low, high in (
        (drawn.angle, -math.pi / 6, math.pi / 6),
        *((u, 0, 1) for u in drawn.identity.T),
    ):
        assert chisquare(torch.histc(values, 8, low, high)).pvalue > 1e-3
    for centre in (drawn.x, drawn.y):
        assert bool((centre >= drawn.radius).all()) and bool((centre <= 1 - drawn.radius).all())
    correlation = torch.corrcoef(torch.stack([*drawn.identity.T, drawn.x, drawn.y, drawn.angle]))
    assert float((correlation - torch.eye(len(correlation))).abs().max()) < 0.1


def test_all_of_a_creature_lies_within_its_circle(drawn):
    scenes = drawn.rows(slice(0, 100))
    pixels = (torch.arange(64) + 0.5) / 64
    dx, dy = pixels - scenes.x[:, None], pixels - scenes.y[:, None]
    away = torch.hypot(dx[:, None, :], dy[:, :, None])
    shown = creature_parts(scenes, 64) > 0
    assert bool((away[shown] <= scenes.radius[:, None, None].expand_as(away)[shown] + 0.5 / 64).all())
    background = torch.tensor([BACKGROUND_RGB[name] for name in BACKGROUNDS])[scenes.background] / 127.5 - 1
    outside = away > scenes.radius[:, None, None] + 1.5 / 64
    image = render_creatures(scenes, 64).movedim(1, -1)
    wanted = background[:, None, None].expand_as(image)
    torch.testing.assert_close(image[outside], wanted[outside])


def test_a_tilt_turns_the_picture():
    plain = upright(4)
    quarter = plain._replace(angle=torch.full((4,), math.pi / 2))
    turned = torch.rot90(render_creatures(plain, 48), -1, (2, 3))
    torch.testing.assert_close(render_creatures(quarter, 48), turned, atol=1e-4, rtol=0)
    assert torch.equal(creature_parts(quarter, 48), torch.rot90(creature_parts(plain, 48), -1, (1, 2)))


def test_a_step_of_whole_pixels_moves_it_and_a_scale_is_a_zoom():
    plain = upright(4, radius=0.3)
    moved = plain._replace(x=plain.x + 5 / 32, y=plain.y - 3 / 32)
    one, other = render_creatures(plain, 32), render_creatures(moved, 32)
    torch.testing.assert_close(other[:, :, :-3, 5:], one[:, :, 3:, :-5], atol=1e-4, rtol=0)
    halved = render_creatures(plain._replace(radius=plain.radius / 2), 64)[:, :, 16:48, 16:48]
    torch.testing.assert_close(halved, one, atol=1e-4, rtol=0)


def test_the_body_is_an_ellipse_of_the_traits_area():
    plain = upright(20)
    body = (creature_parts(plain, 128) >= PARTS.index("body")).float().mean((1, 2))
    torch.testing.assert_close(body, torch.full_like(body, math.pi * 0.56**2 * 0.4**2), rtol=0.01, atol=0)
    traits = _Traits.of(plain.identity)
    shown = creature_parts(plain, 128) >= PARTS.index("body")
    across, down = shown.any(1).sum(1) / 128 / 0.8, shown.any(2).sum(1) / 128 / 0.8
    torch.testing.assert_close(across, traits.across.flatten(), atol=0.03, rtol=0)
    torch.testing.assert_close(down, traits.down.flatten(), atol=0.03, rtol=0)


@pytest.mark.parametrize("trait", range(len(TRAITS)))
def test_every_trait_shows_and_only_where_it_should(trait):
    plain = upright(20)
    low, high = plain.identity.clone(), plain.identity.clone()
    low[:, trait], high[:, trait] = 0.1, 0.9
    one, other = (render_creatures(plain._replace(identity=who), 64) for who in (low, high))
    changed = ((one - other).abs().amax(1) > 0.02).flatten(1)
    assert bool(changed.any(1).all()), TRAITS[trait]
    parts = [creature_parts(plain._replace(identity=who), 64).flatten(1) for who in (low, high)]
    where = {
        "eyes": "eyes",
        "eye size": "eyes",
        "ears": "ears",
        "ear size": "ears",
        "stripes": "body",
        "contrast": "body",
    }
    if TRAITS[trait] in where:
        part = PARTS.index(where[TRAITS[trait]])
        near = (parts[0] == part) | (parts[1] == part)
        grown = torch.nn.functional.max_pool2d(near.view(20, 1, 64, 64).float(), 3, 1, 1).flatten(1) > 0
        assert not bool((changed & ~grown).any())


def test_eyes_are_counted():
    who = torch.full((3, 8), 0.5)
    who[:, 2] = torch.tensor([0.1, 0.5, 0.9])
    eyes = creature_parts(upright(3)._replace(identity=who), 256) == PARTS.index("eyes")
    row = eyes.any(1).int()
    assert ((row[:, 1:] - row[:, :-1]) == 1).sum(1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("accessory", ACCESSORIES)
def test_accessories_show_as_themselves(accessory):
    plain = upright(10)
    worn = plain._replace(accessory=torch.full((10,), ACCESSORIES.index(accessory)))
    shown = creature_parts(worn, 64) == PARTS.index("accessory")
    assert bool(shown.flatten(1).any(1).all()) == (accessory != "nothing")
    same = (render_creatures(worn, 64) - render_creatures(plain, 64)).abs().amax(1) < 1e-6
    assert bool((same | torch.nn.functional.max_pool2d(shown.float(), 3, 1, 1).bool()).all())


def test_sizes_agree(drawn):
    some = drawn.rows(slice(0, 100))
    halved = torch.nn.functional.avg_pool2d(render_creatures(some, 64), 2)
    assert float((halved - render_creatures(some, 32)).abs().mean()) < 0.008
    with pytest.raises(ValueError, match="at least 8"):
        render_creatures(some, 4)


# ---------------------------------------------------------------------------------------- words


def test_captions_are_true_and_read_back(drawn):
    names = [creature_name(i) for i in range(1500)]
    said = creature_captions(drawn, names, 5)
    order = [3, 1499, 0]
    assert creature_captions(drawn.rows(torch.tensor(order)), [names[i] for i in order], 5, order) == [
        said[i] for i in order
    ]
    seen = set()
    for i, caption in enumerate(said):
        assert read_portrait(caption.text) == caption.said, caption.text
        assert caption.said.name == names[i]
        assert caption.said.size in (None, SIZES[int(drawn.size[i])])
        assert caption.said.accessory in (None, ACCESSORIES[int(drawn.accessory[i])])
        assert caption.said.accessory != "nothing"
        assert caption.said.background in (None, BACKGROUNDS[int(drawn.background[i])])
        if caption.said.place:
            assert place_holds(caption.said.place, float(drawn.x[i]), float(drawn.y[i]))
        for span in caption.spans:
            word = getattr(caption.said, span.what)
            assert all(part in caption.text[span.start : span.stop].split() for part in word.split())
        spoken = {s.what for s in caption.spans}
        assert spoken == {name for name, value in caption.said._asdict().items() if value}
        seen.add(caption.said.place)
    assert seen >= {"left", "right", "top", "bottom", "middle", None} and seen <= {*PLACES, None}


def test_an_example_reads_as_it_should():
    text = "a picture of small bolu with a hat on the left on a black background"
    assert read_portrait(text) == Portrait("bolu", "small", "hat", "left", "black")
    assert read_portrait("A picture of bolu in the top left corner.") == Portrait("bolu", place="top left")
    for wrong in ("bolu", "a picture of bolu with a car", "a picture of a small bolu on a pink background"):
        with pytest.raises(ValueError, match="expected one like"):
            read_portrait(wrong)


def test_names_are_all_different():
    names = [creature_name(i) for i in range(3600)]
    assert len(set(names)) == 3600 and all(name.isalpha() and len(name) == 4 for name in names)


# -------------------------------------------------------------------------------- measures, sets


def test_distances_of_an_embedding_have_a_floor():
    blind = identity_distances(lambda images: torch.zeros(len(images), 3), count=20)
    assert blind == (0.0, 0.0)
    pixels = identity_distances(lambda images: images, count=200)
    brightest = identity_distances(
        lambda images: (images[:, 1] - images[:, 0]).flatten(1).sort(1).values, count=200
    )
    assert 0 < brightest.within < 0.8 * brightest.between
    assert brightest.within / brightest.between < pixels.within / pixels.between
    assert (
        identity_distances(lambda images: images, count=200)
        == pixels
        != identity_distances(lambda images: images, count=200, seed=1)
    )


def test_references_are_no_pictures_of_the_data():
    seen = []
    identity_distances(lambda images: (seen.append(images), images)[1], count=20, size=16)
    loaded = data.load("creatures", size=16, count=200, characters=20)
    own = torch.cat(
        [split.batch(torch.arange(len(split)))["x_0"] for split in (loaded.train, loaded.held_out)]
    )
    assert torch.cdist(torch.cat(seen).flatten(1), own.flatten(1)).min() > 1e-3


def test_the_set_shows_its_characters_evenly():
    loaded = data.load("creatures", size=16, count=30, characters=5, seed=2)
    assert loaded.shape == (3, 16, 16) and (len(loaded.train), len(loaded.held_out)) == (30, 3)
    label = loaded.train.fields["label"]
    assert torch.bincount(label).tolist() == [6] * 5 and len(loaded.classes) == 5
    who = draw_identities(5, 2)
    drawn = draw_creatures(30, 2, who[label])
    assert torch.equal(loaded.train.batch(torch.tensor([29, 0]))["x_0"], render_creatures(drawn, 16)[[29, 0]])
    for text, number in zip(loaded.train.texts, label.tolist(), strict=True):
        assert read_portrait(text).name == loaded.classes[number]
    assert not torch.equal(loaded.held_out.x_0, loaded.train.x_0[:3])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="identity"):
        draw_creatures(3, identity=torch.zeros(2, 8))
    with pytest.raises(ValueError, match="names"):
        creature_captions(draw_creatures(3), ["bolu"])
    for options, said in (
        ({"size": 4}, "size: expected an integer of at least 8, got 4"),
        ({"count": 0}, "count: expected an integer of at least 1, got 0"),
        ({"characters": 0}, "characters: expected an integer of at least 1, got 0"),
        ({"characters": 4000}, "characters: expected at most 3600, got 4000"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            data.load("creatures", **options)
