"""Scenes in words: captions in several phrasings that know which word speaks of which object, and prompts read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise, permutations
from typing import NamedTuple

from .world import ATTRIBUTES, BACKGROUNDS, COLOURS, MOST, SHAPES, SIZES, STYLES, TEXTURES, Scenes, draws

__all__ = [
    "PLACES",
    "RELATIONS",
    "WORDS",
    "Asked",
    "Caption",
    "Kind",
    "Span",
    "captions",
    "place_holds",
    "read_prompt",
    "relation_holds",
]

RELATIONS = ("left of", "right of", "above", "below")
PLACES = ("left", "right", "top", "bottom", "middle", "top left", "top right", "bottom left", "bottom right")
MARGIN = 0.1  # by which the centres of two kinds must differ, all of one from all of the other, in sides
SIDE = 0.36  # what is "on the left" has its centre left of this; the other places follow from it
_NUMBERS = ("", "one", "two", "three", "four")
_MORE = ("five", "six", "seven", "eight", "nine", "ten")  # read so as to say why there are not so many
_VARIANT = {"small": "little", "large": "big"}  # what captions say at times
_SYNONYMS = {"little": "small", "tiny": "small", "big": "large", "spotted": "dotted", "gray": "grey"}
_PHRASES = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of"),
            "above": ("above", "over"), "below": ("below", "under")}  # fmt: skip
_THINGS = ("thing", "object", "shape")
_WHERE = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
          "middle": "in the middle"}  # fmt: skip
_USED = ("a", "an", "the", "picture", "of", "there", "is", "are", "and", "with", "on", "at", "in", "to", "background",
         "corner", "side", "left", "right", "above", "over", "below", "under", "top", "bottom", "middle")  # fmt: skip


class Kind(NamedTuple):
    """Like objects, as words name them: `number` of them; what is not said is None."""

    number: int
    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None


class Asked(NamedTuple):
    """What a prompt asks for.

    Attributes:
        kinds: of objects, in the order of their names in the prompt.
        relation: of the first kind to the second, one of `RELATIONS`, or None.
        place: of the only kind, one of `PLACES`, or None.
        style, background: as in `STYLES`, `BACKGROUNDS`, or None where nothing is said.
    """

    kinds: tuple[Kind, ...]
    relation: str | None = None
    place: str | None = None
    style: str | None = None
    background: str | None = None


class Span(NamedTuple):
    """Characters `start` to `stop` of a caption say `what` ("colour", "shape", "count", "relation", ...) of the objects
    in the slots `objects`; of none where they speak of the whole picture.
    """

    start: int
    stop: int
    what: str
    objects: tuple[int, ...]


class Caption(NamedTuple):
    """A caption, which of its words speak of which objects, and what it asks for."""

    text: str
    spans: tuple[Span, ...]
    asked: Asked


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


WORDS: tuple[str, ...] = tuple(
    sorted(
        {*_USED, *_NUMBERS[1:], *COLOURS, *SIZES, *TEXTURES, *STYLES, *BACKGROUNDS, *_SYNONYMS}
        | {form for noun in (*SHAPES, *_THINGS) for form in (noun, _plural(noun))}
    )
)
"""All words that captions use or that prompts may: a vocabulary for a tokeniser."""


# ------------------------------------------------------------------------------------- writing


def captions(scenes: Scenes, seed: int = 0, ids: Iterable[int] | None = None) -> list[Caption]:
    """A caption for each scene, true of it. It names every kind of object; size, style, background, place and relation
    are said at times, colour, shape and a texture that is not plain nearly always.

    Args:
        scenes: N scenes.
        seed: of the phrasings.
        ids: numbers of the scenes, so that one's caption is the same in any batch; 0, 1, ... by default.
    """
    u = draws("captions", 32, len(scenes.x), seed, ids).tolist()
    return [_written(row, iter(drawn)) for row, drawn in zip(SceneRow.of(scenes), u, strict=True)]


class SceneRow(NamedTuple):
    """One scene, slot by slot."""

    group: list[int]
    shape: list[int]
    colour: list[int]
    size: list[int]
    texture: list[int]
    x: list[float]
    y: list[float]
    style: int
    background: int

    @classmethod
    def of(cls, scenes: Scenes) -> list[SceneRow]:
        """Those of N scenes."""
        return [
            cls(*row) for row in zip(*(getattr(scenes, name).tolist() for name in cls._fields), strict=True)
        ]

    def kinds(self) -> list[tuple[int, ...]]:
        """The slots of each group."""
        return [tuple(i for i, g in enumerate(self.group) if g == k) for k in range(max(self.group) + 1)]

    def places(self, objects: tuple[int, ...]) -> list[tuple[float, float]]:
        """Their centres."""
        return [(self.x[i], self.y[i]) for i in objects]


class Writer:
    """Text that grows, with the spans of what it says."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[Span] = []

    def add(self, words: str, what: str | None = None, objects: tuple[int, ...] = ()) -> None:
        start = len(self.text) + bool(self.text and words not in (",",))
        self.text += words if start == len(self.text) else " " + words
        if what is not None:
            self.spans.append(Span(start, len(self.text), what, objects))


def _written(row: SceneRow, draw: Iterator[float]) -> Caption:
    out, slots = Writer(), row.kinds()
    if next(draw) < 0.5:
        slots.reverse()
    style = _opening(out, row, len(slots[0]), draw)
    opened = bool(out.text)
    relation = _relation(row, slots, next(draw)) if len(slots) == 2 and next(draw) < 0.75 else None
    kinds = []
    for k, objects in enumerate(slots):
        if k:
            _link(out, relation if k == 1 else None, slots, k, next(draw), not opened)
        kinds.append(noun_phrase(out, row, objects, draw))
    place = _said_place(out, row, slots, next(draw))
    background = _ground(out, row, next(draw))
    return Caption(out.text, tuple(out.spans), Asked(tuple(kinds), relation, place, style, background))


def _opening(out: Writer, row: SceneRow, count: int, draw: Iterator[float]) -> str | None:
    name = STYLES[row.style]
    if next(draw) < (0.3 if name == "flat" else 0.85):
        out.add(_article(name))
        out.add(name, "style")
        out.add("picture of")
        return name
    if (chance := next(draw)) < 0.15:
        out.add("a picture of")
    elif chance < 0.25:
        out.add("there is" if count == 1 else "there are")
    return None


def noun_phrase(out: Writer, row: SceneRow, objects: tuple[int, ...], draw: Iterator[float]) -> Kind:
    """Name like objects, with five draws."""
    first, several = objects[0], len(objects) > 1
    chance = next(draw)
    size, texture, shape = SIZES[row.size[first]], TEXTURES[row.texture[first]], SHAPES[row.shape[first]]
    said = {"size": size} if chance < 0.5 else {}
    said_colour = next(draw) < 0.95
    if next(draw) < (0.08 if texture == "plain" else 0.9):
        said["texture"] = texture
    if said_colour:
        said["colour"] = COLOURS[row.colour[first]]
    adjectives = [
        (_VARIANT[word] if what == "size" and chance < 0.1 else word, what) for what, word in said.items()
    ]
    said_shape = next(draw) < 0.96
    noun = shape if said_shape else _THINGS[int(next(draw) * len(_THINGS))]
    words = [*adjectives, (_plural(noun) if several else noun, "shape" if said_shape else None)]
    out.add(_NUMBERS[len(objects)] if several else _article(words[0][0]), "count", objects)
    for word, what in words:
        out.add(word, what, objects if what else ())
    return Kind(len(objects), shape if said_shape else None, **said)


def _link(
    out: Writer, relation: str | None, slots: list[tuple[int, ...]], k: int, chance: float, verb: bool
) -> None:
    if relation is None:
        out.add("and" if k == len(slots) - 1 else ",")
        return
    if chance < 0.2 and verb:
        out.add("is" if len(slots[0]) == 1 else "are")
    words = _PHRASES[relation][chance * 10 % 1 < 0.4]
    out.add(words, "relation", slots[0] + slots[1])


def _relation(row: SceneRow, slots: list[tuple[int, ...]], chance: float) -> str | None:
    first, second = map(row.places, slots)
    held = [r for r in RELATIONS if relation_holds(r, first, second)]
    return held[int(chance * len(held))] if held else None


def relation_holds(
    relation: str, first: list[tuple[float, float]], second: list[tuple[float, float]], margin: float = MARGIN
) -> bool:
    """Whether all centres (x, y) of the first are on that side of all of the second, by a margin in sides."""
    axis = 0 if relation in ("left of", "right of") else 1
    low, high = (first, second) if relation in ("left of", "above") else (second, first)
    return max(p[axis] for p in low) + margin < min(p[axis] for p in high)


def place_holds(place: str, x: float, y: float, margin: float = 0.0) -> bool:
    """Whether a centre is at that place of the picture; with a margin the place's borders are that much wider."""
    side = SIDE + margin
    held = {
        "left": x < side, "right": x > 1 - side, "top": y < side, "bottom": y > 1 - side,
        "middle": SIDE - margin < x < 1 - SIDE + margin and SIDE - margin < y < 1 - SIDE + margin,
    }  # fmt: skip
    return all(held[word] for word in place.split())


def prompt_holds(asked: Asked, row: SceneRow) -> bool:
    """Whether a scene shows what is asked and nothing else: its objects can be shared out among the kinds so that all
    that is said of these is true, whatever its groups are. Relations need no margin.
    """
    if asked.style not in (None, STYLES[row.style]) or asked.background not in (
        None,
        BACKGROUNDS[row.background],
    ):
        return False
    slots = [i for i, group in enumerate(row.group) if group >= 0]
    if sum(kind.number for kind in asked.kinds) != len(slots):
        return False
    return any(_shared_out(asked, row, iter(order)) for order in permutations(slots))


def _shared_out(asked: Asked, row: SceneRow, order: Iterator[int]) -> bool:
    """Whether all that is asked is true where the kinds take their objects in this order."""
    shares = [[next(order) for _ in range(kind.number)] for kind in asked.kinds]
    alike = all(_is_of(kind, row, i) for kind, share in zip(asked.kinds, shares, strict=True) for i in share)
    if not alike:
        return False
    centres = [row.places(tuple(share)) for share in shares]
    related = asked.relation is None or relation_holds(asked.relation, centres[0], centres[1], 0.0)
    return related and (asked.place is None or all(place_holds(asked.place, *c) for c in centres[0]))


def _is_of(kind: Kind, row: SceneRow, slot: int) -> bool:
    """Whether an object has all that is said of a kind."""
    return all(
        getattr(kind, what) in (None, ATTRIBUTES[what][getattr(row, what)[slot]])
        for what in ("shape", "colour", "size", "texture")
    )


def _said_place(out: Writer, row: SceneRow, slots: list[tuple[int, ...]], chance: float) -> str | None:
    if len(slots) != 1 or len(slots[0]) != 1 or chance > 0.4:
        return None
    place = true_place(*row.places(slots[0])[0], corner=chance < 0.25)
    if place is not None:
        out.add(said_where(place), "place", slots[0])
    return place


def true_place(x: float, y: float, corner: bool) -> str | None:
    """A place that holds of a centre, if any does; a corner rather than its sides where that is asked for."""
    held = [place for place in PLACES if place_holds(place, x, y)]
    return held[-1 if corner else 0] if held else None


def said_where(place: str) -> str:
    """The words for a place, e.g. "on the left"."""
    return _WHERE.get(place) or f"in the {place} corner"


def _ground(out: Writer, row: SceneRow, chance: float) -> str | None:
    if chance >= 0.3:
        return None
    background = BACKGROUNDS[row.background]
    out.add("on a")
    out.add(background, "background")
    out.add("background")
    return background


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


# ------------------------------------------------------------------------------------- reading


def _either(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_NOUNS = {form: noun for noun in (*SHAPES, *_THINGS) for form in (noun, _plural(noun))}
_ADJECTIVES = {word: (what, word) for what in ("colour", "size", "texture") for word in ATTRIBUTES[what]}
_ADJECTIVES |= {word: _ADJECTIVES[meant] for word, meant in _SYNONYMS.items() if meant in _ADJECTIVES}
_COUNTS = {"a": 1, "an": 1, "the": 1, **{w: i for i, w in enumerate((*_NUMBERS, *_MORE)) if w}}
_KIND = re.compile(
    rf"\b(?:({_either(_COUNTS)})\s+)?((?:(?:{_either(_ADJECTIVES)})\s+)*)({_either(_NOUNS)})\b"
)
_RELATED = re.compile(
    rf"^\s*(?:(?:is|are)\s+)?({_either(p for forms in _PHRASES.values() for p in forms)})\s*$"
)
_OPENING = re.compile(
    rf"^\s*(?:there (?:is|are)\b|(?:an?|the)\s+(?:({_either(STYLES)})\s+)?picture of\b)", re.I
)
_GROUND = re.compile(rf"\bon an?\s+({_either([*BACKGROUNDS, 'gray'])})\s+background\b")
_PLACED = re.compile(
    r"\b(?:on the (left|right)(?: side)?|at the (top|bottom)|in the (middle)"
    r"|in the ((?:top|bottom) (?:left|right)) corner)\s*$"
)


def read_prompt(text: str) -> Asked:
    """What a prompt in the captions' language asks for.

    Adjectives may stand in any order, with synonyms (big, little, tiny, spotted, over, under, gray); kinds are joined
    by "and", "with", commas or, the first two, a relation.

    Raises:
        ValueError: words that are not understood, by name; two adjectives of a kind that contradict each other; a
            plural without a number, or a noun that does not agree with its number; more than four objects in all; a
            place where several kinds are named.
    """
    rest = " ".join(text.lower().strip().rstrip(".").split())
    style, rest = _taken(_OPENING, rest)
    background, rest = _taken(_GROUND, rest)
    place, rest = _taken(_PLACED, rest)
    matches = list(_KIND.finditer(rest))
    pieces = [rest[a.end() : b.start()] for a, b in pairwise(matches)]
    ends = [rest[: matches[0].start()], rest[matches[-1].end() :]] if matches else [rest]
    relation = _read_relation(pieces[0]) if pieces else None
    _refuse_rest(text, [*ends, *(pieces[1:] if relation else pieces)])
    if not matches:
        raise ValueError(f"prompt {text!r}: names no object; known are {', '.join(SHAPES)}")
    if place and len(matches) > 1:
        raise ValueError(f"prompt {text!r}: the place {place!r} can be said of one kind of objects only")
    kinds = tuple(_read_kind(text, match) for match in matches)
    if (asked := sum(kind.number for kind in kinds)) > MOST:
        raise ValueError(f"prompt {text!r}: asks for {asked} objects; a picture holds one to four")
    return Asked(kinds, relation, place, style, _SYNONYMS.get(background or "", background))


def _taken(pattern: re.Pattern[str], text: str) -> tuple[str | None, str]:
    """The word that a pattern finds, if any, and the text without what it matched."""
    found = pattern.search(text)
    if found is None:
        return None, text
    return next(filter(None, found.groups()), None), text[: found.start()] + text[found.end() :]


def _refuse_rest(text: str, pieces: list[str]) -> None:
    words = [
        word for piece in pieces for word in re.findall(r"[^\s,]+", piece) if word not in ("and", "with")
    ]
    strange = [word for word in words if word not in WORDS] or words
    if strange:
        raise ValueError(
            f"prompt {text!r}: not understood: {', '.join(map(repr, strange))}; prompts read like "
            "'a large striped red circle left of two blue squares on a black background'"
        )


def _read_relation(words: str) -> str | None:
    found = _RELATED.match(words)
    return next(r for r, forms in _PHRASES.items() if found.group(1) in forms) if found else None


def _read_kind(text: str, match: re.Match[str]) -> Kind:
    count, adjectives, noun = match.groups()
    said: dict[str, str] = {}
    for what, word in (_ADJECTIVES[word] for word in adjectives.split()):
        if said.setdefault(what, word) != word:
            raise ValueError(f"prompt {text!r}: {said[what]!r} and {word!r} cannot both be the {what}")
    _check_number(text, count, noun)
    return Kind(_COUNTS[count or "a"], None if _NOUNS[noun] in _THINGS else _NOUNS[noun], **said)


def _check_number(text: str, count: str | None, noun: str) -> None:
    """Refuse numbers that no picture holds, and nouns that do not agree with theirs."""
    single, several = _NOUNS[noun], noun != _NOUNS[noun]
    if several and count in (None, "the"):
        raise ValueError(f"prompt {text!r}: say how many {noun}, two to four")
    if count in _MORE:
        raise ValueError(f"prompt {text!r}: {count!r} is more than a picture holds; expected one to four")
    if several != (_COUNTS[count or "a"] > 1):
        number = f"expected {single!r}" if several else f"expected {_plural(single)!r}"
        raise ValueError(f"prompt {text!r}: {noun!r} does not agree with {count!r}; {number}")
