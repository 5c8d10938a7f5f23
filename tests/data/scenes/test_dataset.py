from __future__ import annotations

import pytest
import torch

from ornstein import data
from ornstein.data.scenes import (
    COLOURS,
    CONTROLS,
    SHAPES,
    UNSEEN,
    World,
    captions,
    control_map,
    dataset,
    draw_scenes,
    render,
    scenes,
)


@pytest.fixture(scope="module")
def loaded() -> data.Dataset:
    return data.load("scenes", size=16, count=100, seed=4, control="depth")


def test_the_set_is_the_world_rendered(loaded):
    assert (len(loaded.train), len(loaded.held_out)) == (100, 4) and loaded.shape == (3, 16, 16)
    drawn = draw_scenes(100, 4, World(combinations="seen"))
    assert torch.equal(loaded.train.x_0, render(drawn, 16))
    assert loaded.train.captions == captions(drawn, 4)
    assert loaded.train.texts == [caption.text for caption in loaded.train.captions]
    assert loaded.options == {"size": 16, "count": 100, "seed": 4, "control": "depth"}
    assert loaded.decode(loaded.train.x_0[:2]).shape == (2, 16, 16, 3)


def test_a_batch_is_its_rows(loaded):
    order = torch.tensor([99, 0, 99])
    record = loaded.train.batch(order)
    assert torch.equal(record["x_0"], loaded.train.x_0[order])
    depth = control_map(loaded.train.scenes, "depth", 16)
    assert torch.equal(record["fields"]["image"], depth[order])
    assert list(loaded.train.fields) == ["image"] and len(loaded.train.fields) == 1
    assert torch.equal(loaded.train.fields["image"], depth)
    with pytest.raises(KeyError):
        loaded.train.fields["label"]
    for outside in ([100], [-1], [0, 200]):
        with pytest.raises(IndexError, match=r"\[0, 100\)"):
            loaded.train.batch(torch.tensor(outside))


def test_without_a_control_there_is_no_field():
    plain = scenes(size=8, count=3)
    assert plain.train.batch(torch.arange(2))["fields"] == {} and list(plain.train.fields) == []
    assert len(plain.held_out) == 1


def test_held_out_scenes_are_others(loaded):
    assert torch.equal(loaded.held_out.scenes.x, draw_scenes(4, 4 + 2**20, World(combinations="seen")).x)
    apart = data.load("scenes", size=8, count=2500)
    tints = [{tuple(row) for row in split.scenes.tint.tolist()} for split in (apart.train, apart.held_out)]
    assert [len(t) for t in tints] == [2500, 100] and not tints[0] & tints[1]
    assert len(data.load("scenes", count=100_000).held_out) == 2000


@pytest.mark.parametrize(
    "options",
    [{}, {"most": 1}, {"most": 4, "groups": 4}, {"groups": 1}, {"bias": 0.5}, {"bias": 1.0}, {"overlap": True},
     {"colours": ("purple", "red", "green"), "groups": 4}, {"shapes": ("circle", "diamond")}, {"twins": True}],
    ids=str,
)  # fmt: skip
def test_no_option_brings_back_the_pairs_that_are_left_out(options):
    """Not in what is trained on, nor held out; and the same options with all combinations do have them."""
    hidden = {(COLOURS.index(c), SHAPES.index(s)) for c, s in UNSEEN}
    for combinations, wanted in (("seen", False), ("all", options.get("bias") != 1.0)):
        made = scenes(size=8, count=600, combinations=combinations, **options)
        found = set()
        for split in (made.train, made.held_out):
            drawn = [split.twins, split.split.scenes] if "twins" in options else [split.scenes]
            for row in drawn:
                found |= set(
                    zip(row.colour[row.present].tolist(), row.shape[row.present].tolist(), strict=True)
                )
        assert bool(found & hidden) == wanted


def test_the_field_of_a_whole_split_is_made_in_parts_and_without_images(monkeypatch):
    parts, split = [], scenes(size=8, count=3000, control="edges").train
    monkeypatch.setattr(dataset, "render", None)
    made = dataset.control_map
    monkeypatch.setattr(
        dataset, "control_map", lambda rows, *rest: parts.append(len(rows.x)) or made(rows, *rest)
    )
    assert torch.equal(split.fields["image"], made(split.scenes, "edges", 8))
    assert sum(parts) == 3000 and max(parts) <= 1024


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_can_be_read(control):
    image = scenes(size=8, count=2, control=control).train.batch(torch.arange(2))["fields"]["image"]
    assert image.shape[0] == 2 and image.shape[2:] == (8, 8)


def test_combinations_and_the_rest_of_the_world_are_options():
    seen, unseen = (data.load("scenes", count=400, combinations=c).train.scenes for c in ("seen", "unseen"))
    hidden = {(COLOURS.index(c), SHAPES.index(s)) for c, s in UNSEEN}
    for drawn, inside in ((seen, False), (unseen, True)):
        pairs = set(
            zip(drawn.colour[drawn.present].tolist(), drawn.shape[drawn.present].tolist(), strict=True)
        )
        assert pairs <= hidden if inside else not pairs & hidden
    options = {"most": 2, "groups": 1, "shapes": ["ring"], "colours": ["red"], "sizes": ["small"],
               "textures": ["plain"], "styles": ["flat"], "backgrounds": ["white"],
               "overlap": True, "bias": 0.0}  # fmt: skip
    drawn = data.load("scenes", count=50, **options).train.scenes
    assert (
        int(drawn.counts.max()) == 2
        and bool((drawn.shape == 5).all())
        and bool((drawn.background == 2).all())
    )
    assert set(options) | {"combinations"} == set(World.options())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 4}, "^size: expected an integer of at least 8, got 4$"),
        ({"count": 0}, "^count: expected an integer of at least 1, got 0$"),
        ({"control": "dpeth"}, "depth"), ({"colour": "red"}, "colours"),
        ({"shapes": ("blob",)}, "shapes"), ({"most": 9}, "most"), ({"combinations": "none"}, "combinations"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        data.load("scenes", **options)


def test_a_loader_of_batches_reads_it(loaded):
    batches = data.Batches(loaded.train, 40, seed=0)
    first = next(iter(batches))
    assert first["x_0"].shape == (40, 3, 16, 16)
