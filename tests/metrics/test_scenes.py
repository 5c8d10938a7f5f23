"""Scores of scenes against what combinatorics says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ornstein.data.scenes.language import Asked, Kind, captions
from ornstein.data.scenes.parse import Parsed
from ornstein.data.scenes.world import COLOURS, SHAPES, UNSEEN, Scenes, World, draw_scenes
from ornstein.metrics.scenes import (
    SceneScore,
    asked_of,
    exchanges,
    mean_estimate,
    names_unseen,
    permuted_score,
    scene_score,
)

NAMES = list(SceneScore.__dataclass_fields__)


def two_kinds(n: int = 40) -> Scenes:
    """Scenes of one object each of two kinds that differ in colour and in shape."""
    scenes = draw_scenes(20 * n, 5, World(most=2, groups=2))
    differ = (scenes.colour[:, 0] != scenes.colour[:, 1]) & (scenes.shape[:, 0] != scenes.shape[:, 1])
    return scenes.rows((differ & (scenes.group[:, 1] == 1)).nonzero()[:n, 0])


def swapped(scenes: Scenes, name: str) -> Scenes:
    """The first two objects exchange an attribute."""
    value = getattr(scenes, name).clone()
    value[:, :2] = value[:, :2].flip(1)
    return scenes._replace(**{name: value})


def place(scenes: Scenes, *centres: tuple[float, float]) -> Scenes:
    x, y = scenes.x.clone(), scenes.y.clone()
    for k, (across, down) in enumerate(centres):
        x[:, k], y[:, k] = across, down
    return scenes._replace(x=x, y=y)


def one_scene(*pairs: tuple[str, str]) -> Scenes:
    """A scene of objects (colour, shape), each a group of its own, side by side."""
    row = draw_scenes(1, 0)
    colour, shape, group = (torch.full((1, 4), v) for v in (0, 0, -1))
    for k, (c, s) in enumerate(pairs):
        colour[0, k], shape[0, k], group[0, k] = COLOURS.index(c), SHAPES.index(s), k
    return row._replace(colour=colour, shape=shape, group=group, size=torch.zeros_like(group))


# ------------------------------------------------------------------------------- truths and twins


def test_scenes_show_what_their_captions_say() -> None:
    scenes = draw_scenes(300, 1)
    for prompts in (scenes, captions_of(scenes)):
        score = scene_score(prompts, scenes)
        for name in NAMES:
            values = getattr(score, name)
            want = 0.0 if name in ("binding_gap", "swap", "count_error") else 1.0
            assert (values[~values.isnan()] == want).all(), name
        assert not score.success.isnan().any()


def captions_of(scenes: Scenes) -> list[str]:
    return [caption.text for caption in captions(scenes, 3)]


def test_exchanged_colours_are_a_swap_and_nothing_else() -> None:
    scenes = two_kinds()
    score = scene_score(scenes, swapped(scenes, "colour"))
    for name, want in {"swap": 1, "colour_recall": 1, "shape_recall": 1, "pair_recall": 0, "binding": 0,
                       "binding_gap": 1, "count": 1, "success": 0, "style": 1, "background": 1}.items():  # fmt: skip
        assert (getattr(score, name) == want).all(), name


def test_a_swap_is_not_asked_of_prompts_where_none_can_be() -> None:
    same_colour = one_scene(("red", "circle"), ("red", "square"))
    same_shape = one_scene(("red", "circle"), ("blue", "circle"))
    both = one_scene(("red", "circle"), ("blue", "square"))
    assert [bool(scene_score(s, s).swap.isnan()) for s in (same_colour, same_shape, both)] == [
        True,
        True,
        False,
    ]


def test_multisets_by_hand() -> None:
    found = one_scene(("red", "circle"), ("red", "circle"), ("blue", "square"), ("green", "ring"))
    score = scene_score(["three red circles and a blue square"], found)
    want = {"pair_recall": 3 / 4, "pair_precision": 3 / 4, "colour_recall": 3 / 4, "shape_recall": 3 / 4,
            "binding": 0, "binding_gap": 0, "swap": 0, "count": 1, "count_error": 0, "kind_counts": 1 / 2}  # fmt: skip
    assert {name: float(getattr(score, name)) for name in want} == want


def test_what_is_not_said_matches_anything() -> None:
    found = one_scene(("red", "circle"), ("blue", "square"))
    prompts = ["a thing and a blue thing", "a red thing and a square", "a circle and a green thing"]
    score = scene_score(prompts, Scenes.join([found] * 3))
    assert score.pair_recall.tolist() == [1, 1, 0.5]
    assert score.binding.tolist() == [1, 1, 0]


def test_the_matching_is_the_largest() -> None:
    """Taking the first that fits, the red thing would take the only circle."""
    found = one_scene(("red", "circle"), ("red", "square"))
    assert scene_score(["a red thing and a circle"], found).pair_recall == 1


@pytest.mark.parametrize(
    "relation, centres, want",
    [
        ("left of", [(0.3, 0.5), (0.7, 0.5)], 1),
        ("left of", [(0.7, 0.5), (0.3, 0.5)], 0),
        ("right of", [(0.7, 0.5), (0.3, 0.5)], 1),
        ("above", [(0.5, 0.3), (0.5, 0.7)], 1),
        ("below", [(0.5, 0.3), (0.5, 0.7)], 0),
        ("left of", [(0.48, 0.5), (0.52, 0.5)], 0),  # within the margin
    ],
)
def test_relations(relation: str, centres: list[tuple[float, float]], want: int) -> None:
    found = place(one_scene(("red", "circle"), ("blue", "square")), *centres)
    assert scene_score([f"a red circle {relation} a blue square"], found).relation == want


def test_all_of_a_group_must_be_on_the_side() -> None:
    found = one_scene(("red", "circle"), ("blue", "square"), ("blue", "square"))
    prompt = ["a red circle left of two blue squares"]
    assert scene_score(prompt, place(found, (0.3, 0.5), (0.6, 0.2), (0.8, 0.8))).relation == 1
    assert scene_score(prompt, place(found, (0.3, 0.5), (0.6, 0.2), (0.2, 0.8))).relation == 0
    assert scene_score(prompt, one_scene(("red", "circle"), ("blue", "square"))).relation == 0


def test_of_two_readings_the_one_that_holds_is_taken() -> None:
    found = one_scene(("red", "circle"), ("red", "circle"))
    asked = Asked((Kind(1, "circle"), Kind(1, "circle")), "left of")
    for centres in ([(0.3, 0.5), (0.7, 0.5)], [(0.7, 0.5), (0.3, 0.5)]):
        assert scene_score([asked], place(found, *centres)).relation == 1


def test_places() -> None:
    found = place(one_scene(("red", "circle")), (0.25, 0.25))
    prompts = [
        f"a red circle {where}" for where in ("on the left", "at the bottom", "in the top left corner")
    ]
    score = scene_score(prompts, Scenes.join([found] * 3))
    assert score.place.tolist() == [1, 0, 1]
    assert score.success.tolist() == [1, 0, 1]


def test_what_cannot_be_read_never_succeeds() -> None:
    scenes = draw_scenes(20, 2)
    score = scene_score(captions_of(scenes), Parsed(scenes, scenes.present.float(), torch.zeros(20) > 0))
    for name in NAMES:
        values = getattr(score, name)
        if name not in ("count_error",):
            assert (values[~values.isnan()] == 0).all(), name
    assert (score.count_error == -scenes.counts).all()


# ------------------------------------------------------------------------------- null levels


def test_permuted_prompts_are_as_good_as_chance() -> None:
    """One object of 48 equally frequent pairs: under others' prompts its pair is right in one of 48."""
    pairs = list(itertools.product(range(len(COLOURS)), range(len(SHAPES))))
    scenes = draw_scenes(len(pairs), 0, World(most=1))
    colour, shape = (torch.tensor(v)[:, None].expand(-1, 4) for v in zip(*pairs, strict=True))
    scenes = scenes._replace(colour=colour, shape=shape)
    null = permuted_score(scenes, scenes, rounds=100)
    n = len(pairs)  # nobody keeps the own prompt: n - 1 others, of which 5 share the colour and 7 the shape
    assert float(null.pair_recall.mean()) == 0
    assert float(null.colour_recall.mean()) == pytest.approx(5 / (n - 1), abs=0.02)
    assert float(null.shape_recall.mean()) == pytest.approx(7 / (n - 1), abs=0.02)
    assert float(null.count.mean()) == 1


def test_nobody_keeps_the_own_place() -> None:
    orders = list(exchanges(7, 50))
    assert all(
        (order != torch.arange(7)).all() and sorted(order.tolist()) == list(range(7)) for order in orders
    )
    assert len({tuple(order.tolist()) for order in orders}) > 30
    counts = torch.stack(list(exchanges(3, 400)))[:, 0].bincount(minlength=3)
    assert counts[0] == 0 and abs(int(counts[1]) - 200) < 60


# ------------------------------------------------------------------------------- invariances


def test_the_order_of_objects_and_of_samples_does_not_matter() -> None:
    scenes, found = draw_scenes(60, 4), draw_scenes(60, 5)
    prompts = captions_of(scenes)
    base = scene_score(prompts, found)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    flipped = Scenes(*(v.flip(1) if v.ndim == 2 else v for v in found))
    shuffled = scene_score([prompts[i] for i in order], found.rows(order))
    for name in NAMES:
        same = getattr(scene_score(prompts, flipped), name)
        torch.testing.assert_close(same, getattr(base, name), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(
            getattr(shuffled, name), getattr(base, name)[order], rtol=0, atol=0, equal_nan=True
        )


def test_unseen_pairs_are_found_in_prompts() -> None:
    prompts = [f"a {colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    assert int(names_unseen(prompts).sum()) == len(UNSEEN)
    assert names_unseen(draw_scenes(50, 0, World(combinations="unseen"))).all()
    assert not names_unseen(draw_scenes(50, 0, World(combinations="seen"))).any()


# ------------------------------------------------------------------------------- estimates, errors


def test_estimates() -> None:
    score = scene_score(["a red circle", "a red square"], Scenes.join([one_scene(("red", "circle"))] * 2))
    assert score.estimate("pair_recall").value == 0.5
    assert "relation" not in score.estimates() and score.estimates()["colour_recall"].value == 1
    with pytest.raises(ValueError, match="no prompt asks"):
        score.estimate("relation")
    with pytest.raises(ValueError, match="Did you mean 'relation'"):
        score.estimate("relatoin")
    values = torch.tensor([0.25, 0.75, 0.5, 0.5])
    found = mean_estimate(values)
    assert found.value == 0.5
    half = 1.96 * float(values.std(correction=0)) / math.sqrt(len(values))
    assert found.high - found.value == pytest.approx(half, rel=0.25)


def test_wrong_calls() -> None:
    scenes = draw_scenes(3)
    with pytest.raises(ValueError, match="3 images, 2 prompts"):
        scene_score(["a red circle"] * 2, scenes)
    with pytest.raises(ValueError, match="single string"):
        scene_score("a red circle", scenes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not understood"):
        scene_score(["a red elephant"] * 3, scenes)
    with pytest.raises(ValueError, match="two prompts"):
        permuted_score(["a red circle"], scenes.rows(slice(0, 1)))


def test_a_place_is_asked_of_all_objects_of_the_kind() -> None:
    scenes = draw_scenes(400, 3, World(most=2, groups=1))
    two = scenes.rows(scenes.counts == 2).rows(slice(0, 1))
    for x, expected in ((0.3, 1.0), (0.7, 0.0)):
        moved = two._replace(x=torch.tensor([[0.2, x, 0.5, 0.5]]), y=torch.tensor([[0.3, 0.7, 0.5, 0.5]]))
        asked = asked_of(moved)[0]._replace(place="left")
        assert scene_score([asked], moved).place.tolist() == [expected]
