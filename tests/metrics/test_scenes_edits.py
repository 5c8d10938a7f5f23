"""Edits whose right answer is a render, and edits that go wrong in known ways."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.data.scenes.parse import Parsed
from ornstein.data.scenes.render import coverage, render
from ornstein.data.scenes.world import BACKGROUNDS, MOST, Scenes, World, draw_scenes, same_scene
from ornstein.metrics import scenes_edits
from ornstein.metrics.scenes import reading
from ornstein.metrics.scenes_edits import EditScore, edit_score, edited_mask, hypervolume, permuted_edits

SIZE = 32
FIRST = torch.arange(MOST) == 0
WORLD = World(backgrounds=("black",), styles=("flat",), textures=("plain",))
INDIGO = torch.tensor([0.1, -0.6, 0.1])[:, None, None]  # no colour of objects or backgrounds


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Scenes of two or three objects, on black."""
    drawn = draw_scenes(120, 1, WORLD)
    return drawn.rows(((drawn.counts == 2) | (drawn.counts == 3)).nonzero()[:24, 0])


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return draw_scenes(1200, 3, WORLD)


@pytest.fixture(scope="module")
def one(drawn) -> Scenes:
    """Scenes of a single object."""
    return drawn.rows((drawn.counts == 1).nonzero()[:50, 0])


@pytest.fixture
def read_as(monkeypatch):
    """From now on the parser reads these scenes, whatever the pictures are."""

    def set_reading(found: Scenes | Parsed) -> None:
        monkeypatch.setattr(scenes_edits, "parse", lambda images: reading(found))

    return set_reading


def blank(scenes: Scenes) -> torch.Tensor:
    return torch.zeros(len(scenes.x), 3, 8, 8)


def score_of(
    read_as, before: Scenes, target: Scenes, found: Scenes | Parsed, null: bool = False
) -> EditScore:
    read_as(found)
    return (permuted_edits if null else edit_score)(blank(before), before, target, blank(before))


def first(scenes: Scenes, name: str, values: torch.Tensor) -> Scenes:
    """The first object has this attribute instead."""
    return same_scene(scenes, **{name: torch.where(FIRST, values, getattr(scenes, name))})


def recoloured(scenes: Scenes) -> Scenes:
    return first(scenes, "colour", (scenes.colour + 1) % 8)


def removed(scenes: Scenes) -> Scenes:
    """The last object is gone."""
    return same_scene(scenes, group=scenes.group.masked_fill(last(scenes), -1))


def last(scenes: Scenes) -> torch.Tensor:
    return torch.arange(MOST) == scenes.counts[:, None] - 1


def moved(scenes: Scenes, by: float) -> Scenes:
    """The first object, towards the middle."""
    return first(scenes, "x", scenes.x + torch.where(scenes.x < 0.5, by, -by))


def resized(scenes: Scenes) -> Scenes:
    radius = torch.where(scenes.size == 0, 0.19, 0.13)
    return first(first(scenes, "size", 1 - scenes.size), "radius", radius)


EDITS = {
    "colour": recoloured,
    "shape": lambda s: first(s, "shape", (s.shape + 1) % 6),
    "size": resized,
    "texture": lambda s: first(s, "texture", s.texture + 1),
    "removal": removed,
    "move": lambda s: moved(s, 0.4),
    "small move": lambda s: moved(s, 0.03),
    "radius": lambda s: first(s, "radius", s.radius - 0.02),
    "tint": lambda s: first(s, "tint", s.tint + torch.where(s.tint < 1, 0.1, -0.1)),
    "background": lambda s: same_scene(s, background=2),
    "style": lambda s: same_scene(s, style=1),
}


def pairs(scenes: Scenes, kind: str) -> tuple[Scenes, Scenes]:
    """Scenes and what an edit makes of them."""
    return (removed(scenes), scenes) if kind == "addition" else (scenes, EDITS[kind](scenes))


# ------------------------------------------------------------------------------- right and wrong answers


@pytest.mark.parametrize("kind", [*EDITS, "addition"])
def test_the_right_answer_succeeds_and_doing_nothing_never_does(scenes: Scenes, kind: str, read_as) -> None:
    before, target = pairs(scenes, kind)
    right, nothing = (score_of(read_as, before, target, found) for found in (target, before))
    assert (right.success == 1).all() and (nothing.success == 0).all()
    for score in (right, nothing):
        assert (score.others[~score.others.isnan()] == 1).all()


@pytest.mark.parametrize("kind", [*EDITS, "addition"])
def test_not_even_with_the_parsers_noise(scenes: Scenes, kind: str, read_as) -> None:
    before, target = pairs(scenes, kind)
    generator = torch.Generator().manual_seed(0)
    jitter = {"x": 0.0049, "y": 0.0049, "radius": 0.007, "tint": 0.039}

    def noisy(s: Scenes) -> Scenes:
        shifts = {k: e * (2 * torch.rand(s.x.shape, generator=generator) - 1) for k, e in jitter.items()}
        return s._replace(**{k: getattr(s, k) + v for k, v in shifts.items()})

    for _ in range(5):
        assert (score_of(read_as, before, target, noisy(before)).success == 0).all()
        assert (score_of(read_as, before, target, noisy(target)).success == 1).all()


def test_pictures_are_read(scenes: Scenes) -> None:
    """The same with the parser itself, on two scenes of each kind of edit."""
    made = [pairs(scenes.rows(slice(2 * i, 2 * i + 2)), kind) for i, kind in enumerate([*EDITS, "addition"])]
    before, target = map(Scenes.join, zip(*made, strict=True))
    source, wanted = render(before, SIZE), render(target, SIZE)
    right, nothing = (edit_score(source, before, target, images) for images in (wanted, source))
    assert float(right.success.mean()) > 0.95 and (nothing.success == 0).all()
    outside = ~right.outside_error.isnan()
    for score in (right, nothing):
        assert (score.outside_error[outside] == 0).all() and (score.preservation[outside] == 1).all()
        assert (score.outside_psnr[outside] > 120).all() and float(score.others.nanmean()) > 0.9
    assert (right.target_psnr > 120).all() and (nothing.target_psnr < 60).all()
    gone = slice(2 * list(EDITS).index("removal"), 2 * list(EDITS).index("removal") + 2)
    assert right.shape_iou[gone].isnan().all() and float(right.shape_iou[:6].mean()) > 0.95
    assert float(nothing.shape_iou[2 * list(EDITS).index("move")]) == 0


def test_an_edit_that_asks_for_nothing_to_be_seen_is_not_judged(scenes: Scenes, read_as) -> None:
    tiny = first(first(moved(scenes, 0.01), "radius", scenes.radius + 0.01), "tint", scenes.tint + 0.05)
    empty = same_scene(scenes, group=-1)
    for before, target in ((scenes, scenes), (scenes, tiny), (empty, same_scene(empty, style=1))):
        for found in (before, target, recoloured(scenes)):
            score = score_of(read_as, before, target, found)
            assert score.success.isnan().all() and "success" not in score.estimates()
    target = recoloured(tiny)  # the colour can be judged all the same
    for found, want in ((scenes, 0), (target, 1), (recoloured(scenes), 1)):
        assert (score_of(read_as, scenes, target, found).success == want).all()


def test_like_objects_that_change_places_change_nothing(scenes: Scenes, read_as) -> None:
    like = {
        name: getattr(scenes, name)[:, :1]
        for name in ("shape", "colour", "size", "texture", "radius", "tint")
    }
    before = same_scene(scenes, **like)
    target = before._replace(x=before.x[:, [1, 0, 2, 3]], y=before.y[:, [1, 0, 2, 3]])
    assert score_of(read_as, before, target, before).success.isnan().all()


def test_a_picture_that_cannot_be_read_is_no_success(scenes: Scenes, read_as) -> None:
    for kind in [*EDITS, "addition"]:
        before, target = pairs(scenes, kind)
        refused = Parsed(target, target.present.float(), torch.zeros(len(target.x), dtype=torch.bool))
        score = score_of(read_as, before, target, refused)
        assert (score.success == 0).all() and (score.others[~score.others.isnan()] == 0).all()


def test_nor_is_one_that_the_parser_refuses(scenes: Scenes) -> None:
    few = scenes.rows(slice(0, 3))
    images = render(recoloured(few), SIZE)
    images[..., :8] = INDIGO
    assert (edit_score(render(few, SIZE), few, recoloured(few), images).success == 0).all()


@pytest.mark.parametrize("name, value", [("background", 1), ("style", 2)])
def test_background_and_style_are_the_targets(scenes: Scenes, name: str, value: int, read_as) -> None:
    target = recoloured(scenes)
    assert (score_of(read_as, scenes, target, same_scene(target, **{name: value})).success == 0).all()
    assert (
        score_of(read_as, scenes, EDITS[name](scenes), same_scene(scenes, **{name: value})).success == 0
    ).all()


def test_what_moves_leaves_its_old_place(one: Scenes, read_as) -> None:
    target = moved(one, 0.4)
    second = torch.arange(MOST) == 1
    copy = {name: torch.where(second, getattr(one, name)[:, :1], getattr(target, name))
            for name in ("shape", "colour", "size", "texture", "x", "y", "radius", "tint", "group")}  # fmt: skip
    assert (score_of(read_as, one, target, target).success == 1).all()
    assert (score_of(read_as, one, target, target._replace(**copy)).success == 0).all()
    small = moved(one, 0.03)  # nothing can be left there
    assert (score_of(read_as, one, small, small).success == 1).all()


@pytest.mark.parametrize("iou, want", [(0.55, 1), (0.45, 0)])
def test_half_of_the_boxes_agree(one: Scenes, iou: float, want: int, read_as) -> None:
    """Squares of side s, apart by d: (s - d) / (s + d)."""
    squares = same_scene(one, shape=1)
    apart = 2 * 0.88 * squares.radius * (1 - iou) / (1 + iou)
    target = moved(squares, 0.4)
    found = target._replace(y=target.y + apart)
    assert (score_of(read_as, squares, target, found).success == want).all()
    near = squares._replace(y=squares.y + apart)  # something where it was
    assert (score_of(read_as, squares, removed(squares), near).success == 1 - want).all()
    assert (score_of(read_as, removed(squares), squares, near).success == want).all()


def test_one_object_found_is_one_object(one: Scenes, read_as) -> None:
    """A like object added beside it, so near that one found would do for either."""
    second = torch.arange(MOST) == 1
    names = ("shape", "colour", "size", "texture", "y", "radius", "tint", "group")
    beside = {name: torch.where(second, getattr(one, name)[:, :1], getattr(one, name)) for name in names}
    target = one._replace(**beside, x=torch.where(second, one.x[:, :1] + 0.03, one.x))
    assert (score_of(read_as, one, target, one).success == 0).all()
    assert (score_of(read_as, one, target, target).success == 1).all()


def test_a_touched_rest_is_seen(scenes: Scenes, read_as) -> None:
    all_changed = same_scene(scenes, colour=(scenes.colour + 1) % 8)
    read_as(all_changed)
    score = edit_score(render(scenes, SIZE), scenes, recoloured(scenes), render(all_changed, SIZE))
    assert (score.success == 1).all() and (score.others == 0).all()
    assert (score.outside_error > 0).float().mean() > 0.9


def test_differences_outside_in_closed_form(scenes: Scenes, read_as) -> None:
    source, target = render(scenes, SIZE), recoloured(scenes)
    read_as(target)
    score = edit_score(source, scenes, target, source + 0.1)
    torch.testing.assert_close(score.outside_error, torch.full((24,), 0.05).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        score.outside_psnr, torch.full((24,), 10 * math.log10(4 / 0.01)).double(), rtol=0, atol=1e-4
    )


def test_masks(scenes: Scenes, read_as) -> None:
    mask = edited_mask(scenes, recoloured(scenes), SIZE)
    touched = coverage(scenes, SIZE)[:, 0] > 0
    assert (mask & touched).sum() == touched.sum() < mask.sum()
    rows, columns = (touched.any(axis).float() for axis in (2, 1))
    for axis, line in ((2, rows), (1, columns)):  # two pixels further either way, where there is room
        start, grown = line.argmax(1), mask.any(axis).float().argmax(1)
        assert torch.equal(grown, (start - 2).clamp(min=0))
    assert not edited_mask(scenes, scenes, SIZE).any()
    other = same_scene(scenes, background=BACKGROUNDS.index("white"))
    assert edited_mask(scenes, other, SIZE).all()
    assert score_of(read_as, scenes, other, other).outside_error.isnan().all()


# ------------------------------------------------------------------------------- null levels


def asked_at_random(scenes: Scenes, kind: str, seed: int) -> Scenes:
    """Edits of a kind, drawn at random for each scene and independent of it."""
    n, draw = len(scenes.x), torch.Generator().manual_seed(seed)
    if kind == "background":  # to one of the three that it is not
        return same_scene(scenes, background=torch.randint(1, 4, (n,), generator=draw))
    if kind == "style":
        return same_scene(scenes, style=torch.randint(1, 3, (n,), generator=draw))
    if kind == "colour":
        offset = torch.randint(1, 8, (n, 1), generator=draw)
        return first(scenes, "colour", (scenes.colour + offset) % 8)
    if kind == "move":  # into one of the corners
        corner = torch.randint(2, (2, n, 1), generator=draw) * 0.6 + 0.2
        return first(first(scenes, "x", corner[0].expand(-1, MOST)), "y", corner[1].expand(-1, MOST))
    which = torch.randint(MOST, (n, 1), generator=draw)
    return same_scene(scenes, group=scenes.group.masked_fill(torch.arange(MOST) == which, -1))


CHANCE = {"background": 1 / 3, "style": 1 / 2, "colour": 1 / 7, "move": 1 / 4, "removal": 1 / 4}


@pytest.mark.parametrize("kind", CHANCE)
def test_chance_is_that_of_edits_that_were_not_asked_for(drawn: Scenes, kind: str, read_as) -> None:
    before = drawn.rows((drawn.counts == (MOST if kind == "removal" else 1)).nonzero()[:300, 0])
    if kind == "move":  # none is where an edit may ask for it
        before = same_scene(before, x=0.5, y=0.5)
    target, other = (asked_at_random(before, kind, seed) for seed in (4, 5))
    assert (score_of(read_as, before, target, target, null=True).success.nan_to_num() == 0).all()
    assert (score_of(read_as, before, target, before, null=True).success.nan_to_num() == 0).all()
    own = score_of(read_as, before, target, other).success
    null = score_of(read_as, before, target, other, null=True).success
    assert null.isnan().float().mean() < 0.02
    for level in (own.mean(), null.nanmean()):
        assert float(level) == pytest.approx(CHANCE[kind], abs=0.08)


@pytest.mark.parametrize("kind", CHANCE)
def test_erasing_all_removes_whatever_is_asked_for_and_makes_no_other_edit(
    drawn: Scenes, kind: str, read_as
) -> None:
    before = same_scene(drawn.rows((drawn.counts == MOST).nonzero()[:50, 0]), style=1)
    target = asked_at_random(before, kind, 4)
    if kind == "style":
        target = same_scene(before, style=2 * (torch.arange(50) % 2))
    nothing = same_scene(before, group=-1, style=0)  # as the parser reads a picture without objects
    for null in (False, True):
        success = score_of(read_as, before, target, nothing, null).success
        assert (success[~success.isnan()] == (kind == "removal")).all()


def test_edits_of_several_kinds_are_asked_where_they_can_be(scenes: Scenes, read_as) -> None:
    """The second object is gone from one scene; the other has none, and changes its background."""
    row = scenes.rows(slice(0, 1))
    row = same_scene(row, group=torch.tensor([0, 1, -1, -1]))
    single = same_scene(row, group=torch.tensor([0, -1, -1, -1]))
    before = Scenes.join([row, single])
    target = Scenes.join([single, same_scene(single, background=2)])
    null = score_of(read_as, before, target, target, null=True)
    assert null.success[0] == 0 and null.success[1].isnan()  # there is nothing to remove in the other
    kept = same_scene(before, background=2)  # not the removal was made but the other's edit
    assert score_of(read_as, before, target, kept, null=True).success[0] == 1
    assert score_of(read_as, before, target, kept).success.tolist() == [0, 1]


def test_a_pair_that_asks_for_nothing_does_not_count(scenes: Scenes, read_as) -> None:
    row = scenes.rows(slice(0, 1))
    coloured = [first(row, "colour", torch.tensor(colour)) for colour in (1, 2, 3)]
    has_it = Scenes.join(coloured[:2]), Scenes.join(coloured[1:])  # the second is what the first asks for
    too_little = Scenes.join(coloured[:1] * 2), Scenes.join([moved(coloured[0], 0.01), coloured[1]])
    for before, target in (has_it, too_little):
        null = score_of(read_as, before, target, target, null=True)
        for name in ("success", "target_psnr"):
            assert getattr(null, name).isnan().tolist() == [False, True]


def test_pictures_are_read_for_the_null_level(scenes: Scenes) -> None:
    few = scenes.rows(slice(0, 6))
    target = recoloured(few)
    assert float(permuted_edits(render(few, SIZE), few, target, render(target, SIZE)).success.nanmean()) < 0.1


def test_no_null_level_without_other_edits(scenes: Scenes, read_as) -> None:
    read_as(scenes)
    row = scenes.rows(slice(0, 1))
    with pytest.raises(ValueError, match="two samples or more"):
        permuted_edits(blank(row), row, recoloured(row), blank(row))
    with pytest.raises(ValueError, match="0 rounds"):
        permuted_edits(blank(scenes), scenes, recoloured(scenes), blank(scenes), rounds=0)
    with pytest.raises(ValueError, match="edits that differ"):
        permuted_edits(blank(scenes), scenes, same_scene(scenes, background=2), blank(scenes))


# ------------------------------------------------------------------------------- curves and errors


def test_hypervolume() -> None:
    points = torch.tensor([[0.5, 0.5]])
    assert hypervolume(points).item() == 0.25
    stairs = torch.tensor([[0.2, 0.9], [0.6, 0.5], [0.9, 0.1], [0.5, 0.4]])  # the last is dominated
    assert hypervolume(stairs).item() == pytest.approx(0.2 * 0.9 + 0.4 * 0.5 + 0.3 * 0.1)
    assert hypervolume(stairs[[2, 0, 3, 1]]).item() == pytest.approx(hypervolume(stairs).item())
    line = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert hypervolume(torch.stack([line, 1 - line], 1)).item() == pytest.approx(0.5, abs=1e-3)
    for wrong in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match="points"):
            hypervolume(torch.tensor([[0.5, wrong]]))


def test_wrong_calls(scenes: Scenes) -> None:
    source = render(scenes, SIZE)
    for function in (edit_score, permuted_edits):
        with pytest.raises(ValueError, match="as many images and scenes"):
            function(source, scenes, scenes, source[:3])
