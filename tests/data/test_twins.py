from __future__ import annotations

import re

import pytest
import torch

from ornstein import denoisers, networks
from ornstein.conditions import TextEncoder, Tokeniser
from ornstein.data.scenes.dataset import SceneSplit
from ornstein.data.scenes.dataset import scenes as load_scenes
from ornstein.data.scenes.language import WORDS, captions
from ornstein.data.scenes.render import extents, render
from ornstein.data.scenes.twins import TwinSplit, twins
from ornstein.data.scenes.world import (
    COLOURS,
    SHAPES,
    TEXTURES,
    UNSEEN,
    Scenes,
    World,
    draw_scenes,
    outline_gap,
)
from ornstein.metrics import scene_score
from ornstein.objectives import TextImageMatching, symmetric_info_nce
from ornstein.training.check import fields_of
from ornstein.training.source import Source, tokenised

N = 600
BOUND = ("colour", "texture", "shape")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw_scenes(N, 3, World(combinations="seen"))


def changed(a, b, name):
    return (getattr(a, name) != getattr(b, name)).reshape(len(a.x), -1).any(1)


def test_places_are_mirrored_or_things_exchanged_and_the_rest_stays(scenes):
    made = twins(scenes)
    for name in ("size", "radius", "tint", "group", "background", "style"):
        assert torch.equal(getattr(made, name), getattr(scenes, name))
    moved, bound = (
        changed(made, scenes, "x") | changed(made, scenes, "y"),
        [changed(made, scenes, k) for k in BOUND],
    )
    assert not (moved & torch.stack(bound).any(0)).any()
    assert not (changed(made, scenes, "x") & changed(made, scenes, "y")).any()
    mirrored = changed(made, scenes, "x")
    torch.testing.assert_close(made.x[mirrored], 1 - scenes.x[mirrored])
    assert min(int(v.sum()) for v in (mirrored, changed(made, scenes, "y"), *bound)) > N / 20


def things(row, names):
    """The attributes of each group, without order."""
    return sorted(
        {
            g: tuple(v) for g, *v in zip(row.group, *(getattr(row, k) for k in names), strict=True) if g >= 0
        }.values()
    )


def test_exchanges_keep_the_words_and_change_who_has_them(scenes):
    made = twins(scenes)
    several = (scenes.group.amax(1) > 0).nonzero().squeeze(1)
    both = [Scenes(*(v[several].tolist() for v in s)) for s in (scenes, made)]
    rows = [[Scenes(*(v[i] for v in s)) for i in range(len(several))] for s in both]
    for a, b in zip(*rows, strict=True):
        assert all(things(a, [k]) == things(b, [k]) for k in BOUND)
    colours = sum(
        things(a, ["colour", "shape"]) != things(b, ["colour", "shape"]) for a, b in zip(*rows, strict=True)
    )
    sizes = sum(
        things(a, ["size", "shape"]) != things(b, ["size", "shape"]) for a, b in zip(*rows, strict=True)
    )
    assert colours > len(several) / 10 and sizes > len(several) / 20


def test_captions_of_exchanged_twins_are_permuted_words(scenes):
    made = twins(scenes)
    said = [[sorted(re.findall(r"\w+", c.text)) for c in captions(s, 5)] for s in (scenes, made)]
    place = changed(made, scenes, "x") | changed(made, scenes, "y")
    counts = [len({row.tolist().count(g) for g in range(int(row.max()) + 1)}) == 1 for row in scenes.group]
    kept = [
        a == b
        for i, (a, b) in enumerate(zip(*said, strict=True))
        if int(scenes.group[i].max()) > 0 and counts[i] and not place[i]
    ]
    assert len(kept) > 50 and sum(kept) > 0.5 * len(
        kept
    )  # unless a texture or size is said of one of them alone


def test_a_world_keeps_its_pairs_and_rows_stay_the_same(scenes):
    made = twins(scenes, world=World(combinations="seen"))
    pairs = {
        (COLOURS[c], SHAPES[s])
        for c, s in zip(made.colour[made.present], made.shape[made.present], strict=True)
    }
    assert not pairs & set(UNSEEN) and len(pairs) == len(COLOURS) * len(SHAPES) - len(UNSEEN)
    free = twins(scenes)
    assert {
        (COLOURS[c], SHAPES[s])
        for c, s in zip(free.colour[free.present], free.shape[free.present], strict=True)
    } & set(UNSEEN)
    order = torch.tensor([599, 3, 0, 41])
    few = twins(scenes.rows(order), ids=order.tolist())
    assert all(torch.equal(a, b) for a, b in zip(few, free.rows(order), strict=True))


def test_what_a_world_leaves_out_is_mirrored_instead(scenes):
    """By a scene that has it, and textures that it lacks."""
    for kind in (World(combinations="seen"), World(textures=("plain", "dotted"))):
        drawn = draw_scenes(N, 3, kind)
        free, made = twins(drawn), twins(drawn, world=kind)
        other = torch.stack([changed(free, made, name) for name in Scenes._fields]).any(0)
        assert 10 < int(other.sum()) < N / 3
        torch.testing.assert_close(made.x[other], 1 - drawn.x[other])
        for name in set(Scenes._fields) - {"x"}:
            assert torch.equal(getattr(made, name)[other], getattr(drawn, name)[other])
        assert set(made.texture[made.present].tolist()) <= {TEXTURES.index(name) for name in kind.textures}


@pytest.mark.parametrize("overlap", [False, True])
def test_twins_lie_in_the_picture_and_keep_their_distance(overlap):
    kind = World(sizes=("large",), shapes=("circle", "cross", "triangle", "diamond"), overlap=overlap)
    drawn = draw_scenes(N, 5, kind)
    made = twins(drawn, world=kind)
    box = extents(made)[made.present]
    assert float(box.min()) >= 0 and float(box.max()) <= 1
    gap = outline_gap(torch.stack([made.x, made.y], 1), made.shape, made.radius, made.present)
    assert overlap or float(gap.min()) > 0.03 - 1e-5
    assert int(changed(made, drawn, "shape").sum()) > N / 20  # and shapes are exchanged all the same


def test_a_split_gives_twins_with_both_texts():
    made = load_scenes(size=16, count=40, twins=True).train
    split = SceneSplit(40, 0, 16, World(combinations="seen"))
    assert isinstance(made, TwinSplit) and len(made) == 40 and made.texts == split.texts
    index = torch.tensor([3, 39, 0])
    record, others = made.batch(index), made.twins
    assert torch.equal(record["x_0"], split.batch(index)["x_0"])
    assert torch.equal(record["fields"]["twin_image"], render(others.rows(index), 16))
    assert made.twin_texts == [c.text for c in captions(others, split.seed)] != made.texts


@pytest.mark.parametrize("seed", [0, 9])
def test_twins_of_a_split_are_drawn_by_its_seed_or_are_the_scenes(seed):
    made = load_scenes(size=16, count=200, seed=seed, twins=True).train
    scenes, others = made.split.scenes, made.twins
    drawn = twins(scenes, seed, made.split.world)
    own = torch.stack([~changed(others, scenes, name) for name in Scenes._fields]).all(0)
    assert 0 < int(own.sum()) < 50
    assert all(torch.equal(a[~own], b[~own]) for a, b in zip(others, drawn, strict=True))


def test_texts_that_differ_are_false_of_the_others_picture():
    made = load_scenes(size=16, count=N, twins=True).train
    differ = torch.tensor([a != b for a, b in zip(made.texts, made.twin_texts, strict=True)])
    own, other = made.split.scenes.rows(differ), made.twins.rows(differ)
    said = [
        [text for text, kept in zip(texts, differ, strict=True) if kept]
        for texts in (made.texts, made.twin_texts)
    ]
    assert scene_score(said[0], own).success.all() and scene_score(said[1], other).success.all()
    assert not scene_score(said[1], own).success.any() and not scene_score(said[0], other).success.any()
    assert int(differ.sum()) > N / 2
    free = captions(twins(made.split.scenes, world=made.split.world))
    assert sum(c.text != text for c, text in zip(free, made.texts, strict=True)) > int(differ.sum()) + N / 50


def test_training_reads_both_texts_and_both_images():
    tokeniser = Tokeniser((*WORDS, ",", "."), 32)
    tower = networks.TextTransformer(tokeniser.size, 32, width=8, depth=1, heads=2)
    pair = networks.TextImage(TextEncoder(tokeniser, tower), networks.Encoder(3, 8, width=8, levels=2))
    model = denoisers.Matcher(pair)
    data = tokenised(load_scenes(size=16, count=40, twins=True), model)
    source = Source(data, 6, 0, fields_of(model, TextImageMatching()))
    given = next(source.given(0, 1))
    rows = source.order.indices(0)
    condition, split = given.batch["condition"], load_scenes(size=16, count=40, twins=True).train
    assert tokeniser.decode(condition["text"]) == [split.texts[i].replace(",", " ,") for i in rows]
    assert tokeniser.decode(condition["twin_text"]) == [split.twin_texts[i].replace(",", " ,") for i in rows]
    images = torch.cat([given.batch["x_0"], split.batch(rows)["fields"]["twin_image"]])
    ids = torch.cat([condition["text"], condition["twin_text"]])
    with torch.no_grad():
        loss = TextImageMatching()(model, given.batch, given.noise).total
        same = (ids[:, None] == ids).all(-1)
        torch.testing.assert_close(loss, symmetric_info_nce(pair(images, ids), same))
