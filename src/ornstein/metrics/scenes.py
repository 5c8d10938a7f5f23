"""Do pictures of scenes show what their prompts ask for? Binding, counts, relations and attributes, by the parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ornstein.core import select, suggest, tree_map

from ..data.scenes.language import Asked, Kind, place_holds, read_prompt, relation_holds
from ..data.scenes.parse import Parsed, parse
from ..data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    UNSEEN,
    Scenes,
)
from .estimate import Estimate, bootstrap, wilson

__all__ = [
    "Prompts",
    "SceneScore",
    "asked_of",
    "exchanges",
    "mean_estimate",
    "mean_score",
    "names_unseen",
    "on_cpu",
    "permuted_score",
    "reading",
    "scene_score",
]

Prompts = Scenes | Sequence[str | Asked]
Score = TypeVar("Score")
_VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES
}  # fmt: skip
_FINE, _TIE = 1e-2, 1e-4  # weights in the matching of a size or texture, and of standing on the right side
_OPPOSITE = {"right of": "left of", "below": "above"}
MARGIN = 0.05  # of relations and places as they are judged, in sides: half of what captions keep


@dataclass(frozen=True)
class SceneScore:
    """Scores (N,) of each sample, in [0, 1] but for `count_error` and `binding_gap`; NaN where a prompt does not ask.
    They are on the CPU.

    With P the multiset of pairs (colour, shape) asked for and Q that found:

    Attributes:
        pair_recall: |P and Q| / |P|.
        pair_precision: |P and Q| / |Q|, 0 if nothing was found.
        binding: P = Q, whether exactly the right pairs are there.
        colour_recall, shape_recall: the same of colours and of shapes alone.
        binding_gap: min(colour_recall, shape_recall) - pair_recall, what is lost by binding wrongly.
        swap: all colours, all shapes and the number are right but the pairs are not; NaN where a prompt has no two
            objects that differ in both.
        count: the number of objects is right.
        count_error: objects found less those asked for.
        kind_counts: share of the prompt's kinds of which all are there and no more; "a ring and a ring" is one kind.
        relation: all objects of the first kind are on that side of all of the second, which are all there.
        place: all objects of the first kind are there and at their place.
        size, texture: share of objects asked for with one that are there and have it.
        style, background: as asked for.
        success: all that the prompt asks for, and nothing else, is there.
        readable: the parser could read the image. Where it could not, nothing counts as found.
    """

    pair_recall: Tensor
    pair_precision: Tensor
    binding: Tensor
    colour_recall: Tensor
    shape_recall: Tensor
    binding_gap: Tensor
    swap: Tensor
    count: Tensor
    count_error: Tensor
    kind_counts: Tensor
    relation: Tensor
    place: Tensor
    size: Tensor
    texture: Tensor
    style: Tensor
    background: Tensor
    success: Tensor
    readable: Tensor

    def rows(self, index: Tensor) -> SceneScore:
        """The scores of the samples at `index`."""
        return SceneScore(*select(_values(self), index.cpu()))

    def estimate(self, name: str, resamples: int = 500, seed: int = 0) -> Estimate:
        """The mean of one score over the prompts that ask for it, with its 95 % interval: Wilson's where each sample
        succeeds or fails, by the bootstrap otherwise.

        Raises:
            ValueError: no such score, or no prompt asks for it.
        """
        names = [f.name for f in fields(self)]
        if name not in names:
            raise ValueError(suggest(name, names, "score"))
        values = getattr(self, name)
        values = values[~values.isnan()]
        if not len(values):
            raise ValueError(f"{name}: no prompt asks for it")
        return mean_estimate(values, resamples, seed)

    def estimates(self, resamples: int = 500, seed: int = 0) -> dict[str, Estimate]:
        """All means, by name, of what any prompt asks for."""
        asked = [f.name for f in fields(self) if not getattr(self, f.name).isnan().all()]
        return {name: self.estimate(name, resamples, seed) for name in asked}

    def __str__(self) -> str:
        return "\n".join(f"{name}: {estimate}" for name, estimate in self.estimates().items())


def mean_estimate(values: Tensor, resamples: int = 500, seed: int = 0) -> Estimate:
    """The mean of values (N,) with its 95 % interval: Wilson's where all are 0 or 1, by the bootstrap otherwise."""
    values = values.to("cpu", torch.float64)
    if ((values == 0) | (values == 1)).all():
        return wilson(int(values.sum()), len(values))
    if len(values) == 1:
        return Estimate(float(values), float("-inf"), float("inf"), 1)
    return bootstrap(lambda w: w @ values / w.sum(1), (len(values),), resamples, seed, least=float("-inf"))


def scene_score(prompts: Prompts, found: Tensor | Parsed | Scenes, margin: float = MARGIN) -> SceneScore:
    """How far images show what their prompts ask for, sample by sample.

    What is asked is matched with what is found so that as many objects as possible agree in all that is said of
    their colour and shape, then of size and texture.

    Args:
        prompts: N prompts in the captions' language, as text or read; or scenes, which ask for all their attributes.
        found: images (N, 3, S, S) in [-1, 1], or what the parser read in them, or scenes.
        margin: in sides, by which relations must hold, and by which places may be missed.

    Raises:
        ValueError: prompts that are not understood, or not one image a prompt.
    """
    asked, read = asked_of(prompts), reading(found)
    if len(asked) != len(read.readable):
        raise ValueError(
            f"expected one image a prompt, got {len(read.readable)} images, {len(asked)} prompts"
        )
    scenes = read.scenes
    empty = ~read.readable[:, None] & torch.ones_like(scenes.present)
    scenes = scenes._replace(group=scenes.group.masked_fill(empty, -1))
    columns = {name: getattr(scenes, name).tolist() for name in Scenes._fields}
    rows = [
        _score_one(_meaning(one), _Found.of({k: v[i] for k, v in columns.items()}, readable), margin)
        for i, (one, readable) in enumerate(zip(asked, read.readable.tolist(), strict=True))
    ]
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(fields(SceneScore)))
    return SceneScore(*table.unbind(1))


def permuted_score(
    prompts: Prompts, found: Tensor | Parsed | Scenes, rounds: int = 8, seed: int = 0
) -> SceneScore:
    """The null level: the same images under other samples' prompts, averaged over so many draws of the prompts.

    Each sample takes that of a random one among those whose prompt asks for something else than its own, in whatever
    order or words. Where a score falls no lower than this, a model's images follow no prompt.

    Raises:
        ValueError: fewer than two prompts that differ, or fewer than one round.
    """
    asked, read = asked_of(prompts), reading(found)
    orders = exchanges([_meaning(one) for one in asked], rounds, seed)
    return mean_score([scene_score([asked[i] for i in other.tolist()], read) for other in orders])


def exchanges(kinds: Sequence[Hashable], rounds: int, seed: int = 0) -> Iterator[Tensor]:
    """Numbers (N,) of other samples, for each one drawn at random among all whose kind is not its own.

    Raises:
        ValueError: fewer than two kinds, or fewer than one round.
    """
    number = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    if len(number) < 2 or rounds < 1:
        raise ValueError(
            f"a null level: expected two samples or more that ask for different things and a round or more, got "
            f"{len(kinds)} samples, {len(number)} different, and {rounds} rounds"
        )
    labels = torch.tensor([number[kind] for kind in kinds])
    order, sizes = labels.argsort(stable=True), labels.bincount()
    first, own = (
        (sizes.cumsum(0) - sizes)[labels],
        sizes[labels],
    )  # where those of its kind stand in the order
    generator = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        place = (
            torch.rand(len(labels), generator=generator, dtype=torch.float64) * (len(labels) - own)
        ).long()
        yield order[place + own * (place >= first)]


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of scores of the same samples, of each sample over those where it is not NaN."""
    columns = zip(*map(_values, scores), strict=True)
    return type(scores[0])(*(torch.stack(parts).nanmean(0) for parts in columns))


def _values(score: Any) -> tuple[Tensor, ...]:
    return tuple(getattr(score, f.name) for f in fields(score))


def asked_of(prompts: Prompts) -> list[Asked]:
    """What prompts ask for, one by one; of scenes, all attributes of each group, the style and the background."""
    if isinstance(prompts, Scenes):
        columns = {name: getattr(prompts, name).tolist() for name in Scenes._fields}
        return [_asked_of_row({k: v[i] for k, v in columns.items()}) for i in range(len(prompts.x))]
    if isinstance(prompts, str):
        raise ValueError(f"prompts: expected a sequence of prompts, got the single string {prompts!r}")
    return [read_prompt(p) if isinstance(p, str) else p for p in prompts]


def names_unseen(prompts: Prompts) -> Tensor:
    """(N,) whether a prompt names one of the pairs of colour and shape in `UNSEEN`, which a training set leaves out.

    Scores of these rows, `score.rows(names_unseen(prompts))`, beside those of the others measure how a model composes
    what it has never seen together.
    """
    asked = [any((k.colour, k.shape) in UNSEEN for k in one.kinds) for one in asked_of(prompts)]
    return torch.tensor(asked, dtype=torch.bool)


def reading(found: Tensor | Parsed | Scenes) -> Parsed:
    """What the parser reads in images (N, 3, S, S), on the CPU; scenes are taken to be read without error."""
    if isinstance(found, Tensor):
        return parse(found)
    read: Parsed | Scenes = on_cpu(found)
    if isinstance(read, Parsed):
        return read
    return Parsed(read, read.present.float(), torch.ones(len(read.x), dtype=torch.bool))


def on_cpu(tree: Any) -> Any:
    """Images, scenes or readings on the CPU, where the parser and the matchings run, without gradient."""
    return tree_map(lambda x: x.detach().cpu(), tree)


def _meaning(asked: Asked) -> Asked:
    """One form of all prompts that ask for the same: like kinds are counted together, those that no relation orders
    are sorted, and a relation goes to the right or down.
    """
    related, others = (asked.kinds[:2], asked.kinds[2:]) if asked.relation else ((), asked.kinds)
    relation = asked.relation
    if relation in _OPPOSITE:
        related, relation = related[::-1], _OPPOSITE[relation]
    numbers: Counter[Kind] = Counter()
    for kind in others:
        numbers[kind._replace(number=0)] += kind.number
    counted = sorted((kind._replace(number=n) for kind, n in numbers.items()), key=str)
    return asked._replace(kinds=(*related, *counted), relation=relation)


def _asked_of_row(row: dict[str, list[int]]) -> Asked:
    kinds = []
    for group in range(max(row["group"]) + 1):
        first = row["group"].index(group)
        said = {name: values[row[name][first]] for name, values in _VALUES.items()}
        kinds.append(Kind(row["group"].count(group), **said))
    style, background = STYLES[row["style"]], BACKGROUNDS[row["background"]]  # type: ignore[call-overload]
    return Asked(tuple(kinds), None, None, style, background)


class _Found(NamedTuple):
    """One image as read: objects as names of attributes with their centres."""

    objects: list[dict[str, str]]
    centres: list[tuple[float, float]]
    style: str
    background: str
    readable: bool

    @classmethod
    def of(cls, row: dict, readable: bool) -> _Found:  # type: ignore[type-arg]
        slots = [i for i, g in enumerate(row["group"]) if g >= 0]
        objects = [{name: values[row[name][i]] for name, values in _VALUES.items()} for i in slots]
        centres = [(row["x"][i], row["y"][i]) for i in slots]
        return cls(objects, centres, STYLES[row["style"]], BACKGROUNDS[row["background"]], readable)


def _score_one(asked: Asked, found: _Found, margin: float) -> tuple[float, ...]:
    """The scores in the order of `SceneScore`."""
    wanted = [(k, kind) for k, kind in enumerate(asked.kinds) for _ in range(kind.number)]
    partner = _matching(asked, wanted, found)
    both, p, q = len(partner), len(wanted), len(found.objects)
    marginals = [_marginal(name, wanted, found) for name in ("colour", "shape")]
    recall, exact = both / max(p, 1), both == p == q and found.readable
    known = [m for m in marginals if m == m]
    gap = min(known) - recall if known else float("nan")
    right = all(m == 1 for m in known) and p == q and found.readable
    swap = float(right and not exact) if _can_swap(asked) else float("nan")
    kinds = [_counted(k, kind, wanted, partner, found) for k, kind in enumerate(asked.kinds)]
    fine = [_fine(name, wanted, partner, found) for name in ("size", "texture")]
    whole = [_whole(said, seen, found) for said, seen in
             ((asked.style, found.style), (asked.background, found.background))]  # fmt: skip
    where = [_relation(asked, wanted, partner, found, margin), _place(asked, wanted, partner, found, margin)]
    success = exact and all(v == 1 or v != v for v in (*where, *fine, *whole))
    return (
        recall, both / q if q else 0.0, exact, *marginals, gap, swap, p == q and found.readable, q - p,
        sum(kinds) / max(len(kinds), 1), *where, *fine, *whole, success, found.readable,
    )  # fmt: skip


def _agrees(kind: Kind, thing: dict[str, str], names: Sequence[str] = ("colour", "shape")) -> bool:
    """Whether an object is as said, in those of the attributes that are said."""
    return all(getattr(kind, name) in (None, thing[name]) for name in names)


def _counted(
    k: int, kind: Kind, wanted: list[tuple[int, Kind]], partner: dict[int, int], found: _Found
) -> bool:
    """Whether all of a kind are there and no further object, which is no other kind's, is like them."""
    mine = [a for a, (number, _) in enumerate(wanted) if number == k]
    left = [thing for b, thing in enumerate(found.objects) if b not in partner.values()]
    return all(a in partner for a in mine) and not any(_agrees(kind, thing) for thing in left)


def _matching(asked: Asked, wanted: list[tuple[int, Kind]], found: _Found) -> dict[int, int]:
    """Which object found, by number, is which one asked for: as many as agree in colour and shape."""
    value = torch.zeros(len(wanted), len(found.objects), dtype=torch.float64)
    for a, (k, kind) in enumerate(wanted):
        for b, thing in enumerate(found.objects):
            if _agrees(kind, thing):
                fine = sum(_agrees(kind, thing, (name,)) for name in ("size", "texture"))
                value[a, b] = 1 + _FINE * fine + _TIE * _side(asked.relation, k, found.centres[b])
    pairs = zip(*linear_sum_assignment(value.numpy(), maximize=True), strict=True)
    return {int(a): int(b) for a, b in pairs if value[a, b] > 0}


def _side(relation: str | None, kind: int, centre: tuple[float, float]) -> float:
    """How far a centre is on the side where the first or second kind of a relation belongs, so that of two readings
    the one that fulfils the prompt is taken.
    """
    if relation is None or kind > 1:
        return 0.0
    along = centre[0] if relation in ("left of", "right of") else centre[1]
    low = (kind == 0) == (relation in ("left of", "above"))
    return 1 - along if low else along


def _marginal(name: str, wanted: list[tuple[int, Kind]], found: _Found) -> float:
    """Recall of one attribute's multiset; NaN where nothing is said of it."""
    said = [value for _, kind in wanted if (value := getattr(kind, name)) is not None]
    seen = [thing[name] for thing in found.objects]
    both = sum(min(said.count(v), seen.count(v)) for v in set(said))
    return both / len(said) if said else float("nan")


def _can_swap(asked: Asked) -> bool:
    """Whether two kinds differ in both colour and shape."""
    pairs = [(k.colour, k.shape) for k in asked.kinds if k.colour and k.shape]
    return any(a[0] != b[0] and a[1] != b[1] for a in pairs for b in pairs)


def _fine(name: str, wanted: list[tuple[int, Kind]], partner: dict[int, int], found: _Found) -> float:
    said = [(a, value) for a, (_, kind) in enumerate(wanted) if (value := getattr(kind, name)) is not None]
    hits = sum(a in partner and found.objects[partner[a]][name] == value for a, value in said)
    return hits / len(said) if said else float("nan")


def _whole(said: str | None, seen: str, found: _Found) -> float:
    return float("nan") if said is None else float(said == seen and found.readable)


def _relation(
    asked: Asked, wanted: list[tuple[int, Kind]], partner: dict[int, int], found: _Found, margin: float
) -> float:
    if asked.relation is None:
        return float("nan")
    both = [[a for a, (k, _) in enumerate(wanted) if k == kind] for kind in (0, 1)]
    if not all(a in partner for side in both for a in side):
        return 0.0
    first, second = ([found.centres[partner[a]] for a in side] for side in both)
    return float(relation_holds(asked.relation, first, second, margin))


def _place(
    asked: Asked, wanted: list[tuple[int, Kind]], partner: dict[int, int], found: _Found, margin: float
) -> float:
    if asked.place is None:
        return float("nan")
    own = [a for a, (kind, _) in enumerate(wanted) if kind == 0]
    return float(
        all(a in partner and place_holds(asked.place, *found.centres[partner[a]], margin) for a in own)
    )
