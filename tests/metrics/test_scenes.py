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
    mean_score,
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


def test_objects_are_counted_as_words_say() -> None:
    found = [one_scene(*[("blue", "square")] * n, ("red", "ring")) for n in (1, 2, 3)]
    score = scene_score(["two blue squares and a red ring"] * 3, Scenes.join(found))
    assert score.count.tolist() == score.binding.tolist() == score.success.tolist() == [0, 1, 0]
    assert score.count_error.tolist() == [-1, 0, 1] and score.kind_counts.tolist() == [0.5, 1, 0.5]
    assert score.pair_recall.tolist() == [2 / 3, 1, 1] and score.pair_precision.tolist() == [1, 1, 3 / 4]


def test_two_kinds_that_are_alike_are_one() -> None:
    found = Scenes.join([one_scene(*[("red", "ring")] * n) for n in (1, 2, 3)])
    for prompt in ("a ring and a ring", "two rings"):
        score = scene_score([prompt] * 3, found)
        assert score.kind_counts.tolist() == score.success.tolist() == [0, 1, 0]
        assert score.pair_recall.tolist() == [0.5, 1, 1]


@pytest.mark.parametrize("name", ["size", "texture", "style", "background"])
def test_each_attribute_alone_spoils_success_and_nothing_else(name: str) -> None:
    scenes = draw_scenes(40, 7)
    number = {"size": 2, "texture": 3, "style": 3, "background": 4}[name]
    score = scene_score(scenes, scenes._replace(**{name: (getattr(scenes, name) + 1) % number}))
    for other in NAMES:
        values = getattr(score, other)
        want = 0.0 if other in (name, "success", "binding_gap", "swap", "count_error") else 1.0
        assert (values[~values.isnan()] == want).all(), other


@pytest.mark.parametrize(
    "prompt, name", [("a red circle left of a blue square", "relation"), ("a circle at the top", "place")]
)
def test_so_does_where_things_are(prompt: str, name: str) -> None:
    pairs = [("red", "circle"), ("blue", "square")][: 1 + (name == "relation")]
    found = place(one_scene(*pairs), *[(0.7, 0.7), (0.3, 0.3)][: len(pairs)])
    score = scene_score([prompt], found)
    assert (score.binding.item(), getattr(score, name).item(), score.success.item()) == (1, 0, 0)


def test_half_a_size_is_no_success() -> None:
    found = one_scene(("red", "circle"), ("red", "circle"))._replace(size=torch.tensor([[0, 1, 0, 0]]))
    score = scene_score(["two small red circles"], found)
    assert (score.size.item(), score.success.item()) == (0.5, 0)


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


def test_others_are_of_another_kind_and_equally_likely() -> None:
    kinds = "abacabd"
    orders = torch.stack(list(exchanges(kinds, 700)))
    for i, kind in enumerate(kinds):
        drawn = orders[:, i].bincount(minlength=7)
        others = [j for j, other in enumerate(kinds) if other != kind]
        assert int(drawn[others].sum()) == 700  # never one like itself
        assert (drawn[others] - 700 / len(others)).abs().max() < 60
    assert torch.equal(orders, torch.stack(list(exchanges(kinds, 700))))
    assert not torch.equal(orders, torch.stack(list(exchanges(kinds, 700, seed=1))))


SAME_PROMPTS = [
    ("a red circle and a blue square", "a blue square and a red circle"),
    ("a ring and a ring", "two rings"),
    ("a red circle left of a blue square", "a blue square right of a red circle"),
    ("a red circle below a blue square", "a blue square above a red circle"),
    ("a ring, a big ring and a ring", "a large ring and two rings"),
]


@pytest.mark.parametrize("one, same", SAME_PROMPTS)
def test_who_draws_what_is_asked_has_no_level_from_prompts_that_repeat(one: str, same: str) -> None:
    """Four samples ask for one thing and a fifth for another; only their own prompts ask for what is shown."""
    other = "two green crosses"
    pairs = [("red", "circle"), ("blue", "square")] if "red" in one else [("red", "ring")] * one.count("ring")
    centres = [(0.3, 0.7), (0.7, 0.3), (0.5, 0.5)][: len(pairs)]
    shown = place(one_scene(*pairs), *centres)
    if "big" in one or "large" in one:
        shown = shown._replace(size=torch.tensor([[1, 0, 0, 0]]))
    prompts, images = [one, same, one, same, other], Scenes.join([shown] * 5)
    own, null = scene_score(prompts, images), permuted_score(prompts, images, rounds=20)
    assert own.success.tolist() == [1, 1, 1, 1, 0]
    assert null.success.tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="2 samples, 1 different"):
        permuted_score([one, same], images.rows(slice(0, 2)))


@pytest.mark.parametrize("one, same", SAME_PROMPTS)
def test_prompts_that_ask_for_the_same_score_the_same(one: str, same: str) -> None:
    found = draw_scenes(60, 6, World(shapes=("ring", "circle"), colours=("red", "blue")))
    scores = [scene_score([prompt] * 60, found) for prompt in (one, same)]
    for name in NAMES:
        first, second = (getattr(score, name) for score in scores)
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "one, other",
    [
        ("a red circle left of a blue square", "a blue square left of a red circle"),
        ("a red circle left of a blue square", "a red circle above a blue square"),
        ("a red circle left of a blue square", "a red circle and a blue square"),
        ("two rings", "three rings"),
        ("a ring", "a thing"),
        ("a ring on the left", "a ring on the right"),
        ("a ring on a grey background", "a ring"),
        ("a flat picture of a ring", "a ring"),
    ],
)
def test_prompts_that_ask_for_something_else_are_others(one: str, other: str) -> None:
    assert permuted_score([one, other], draw_scenes(2)).readable.tolist() == [1, 1]


def test_means_of_scores() -> None:
    blank = scene_score(["a red circle", "a red circle"], draw_scenes(2))
    scores = [
        SceneScore(*(torch.tensor(v) for _ in NAMES))
        for v in ([1.0, math.nan], [0.0, math.nan], [math.nan, 1.0])
    ]
    assert all(getattr(mean_score(scores), name).tolist() == [0.5, 1] for name in NAMES)
    assert isinstance(mean_score([blank]), SceneScore)


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
    with pytest.raises(ValueError, match="two samples or more"):
        permuted_score(["a red circle"], scenes.rows(slice(0, 1)))
    with pytest.raises(ValueError, match="0 rounds"):
        permuted_score(["a red circle", "a ring", "a square"], scenes, rounds=0)


def test_a_place_is_asked_of_all_objects_of_the_kind() -> None:
    scenes = draw_scenes(400, 3, World(most=2, groups=1))
    two = scenes.rows(scenes.counts == 2).rows(slice(0, 1))
    for x, expected in ((0.3, 1.0), (0.7, 0.0)):
        moved = two._replace(x=torch.tensor([[0.2, x, 0.5, 0.5]]), y=torch.tensor([[0.3, 0.7, 0.5, 0.5]]))
        asked = asked_of(moved)[0]._replace(place="left")
        assert scene_score([asked], moved).place.tolist() == [expected]


@pytest.mark.parametrize("sizes", [[0, 1, 0, 0], [1, 0, 0, 0]])
@pytest.mark.parametrize("name, words", [("size", ("small", "large")), ("texture", ("plain", "striped"))])
def test_of_like_objects_the_one_that_is_as_said_is_meant(
    name: str, words: tuple[str, str], sizes: list[int]
) -> None:
    """The order in which objects are found does not decide."""
    found = one_scene(("red", "ring"), ("red", "ring"))._replace(**{name: torch.tensor([sizes])})
    score = scene_score([f"a {words[0]} ring and a {words[1]} ring"], found)
    assert (getattr(score, name).item(), score.success.item()) == (1, 1)


@pytest.mark.parametrize("distance, want", [(0.049, 0), (0.051, 1)])
def test_the_margin_of_relations_and_places(distance: float, want: int) -> None:
    """Least distance of centres, and how far a place may be missed."""
    found = place(one_scene(("red", "circle"), ("blue", "square")), (0.4, 0.5), (0.4 + distance, 0.5))
    assert scene_score(["a red circle left of a blue square"], found).relation == want
    alone = place(one_scene(("red", "circle")), (0.36 + distance, 0.5))
    assert scene_score(["a circle on the left"], alone).place == 1 - want
