"""Images back to scenes: a network proposes objects, the renderer's own formulas decide what they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core import cat, select

from .checks import check_pictures
from .detector import Detector, Proposals, load_detector
from .layers import Layers, layers, painted
from .render import BACKGROUND_RGB, COLOUR_RGB, coverage, palette, render
from .shapes import DISTANCES, SHAPES
from .world import BACKGROUNDS, COLOURS, MOST, RADII, STYLES, TEXTURES, Scenes

__all__ = ["Parsed", "parse"]

ROWS = 64  # images read at a time
FINE = 32  # pixels a side at which hypotheses are compared; multiples of it are refined at full size
AT_ONCE = 16  # objects fitted at a time: what stays in a processor's cache
LIKE = 0.25  # largest distance in RGB of a background's pixel from its colour, with sides of 1
GROUND = 0.2  # least share of an image that its background takes
EXPLAINED = 0.7  # least share of an object's contrast that the best hypothesis explains
STRAY = 0.015  # largest area, in the image's, that may look like neither objects nor background
FAR = 0.15  # distance in RGB from what was read, of the means of 3x3 such pixels, beyond what is usual in the image
FAR_WITHIN = 0.5  # the same where objects are
AGAIN = 0.85  # what explains less is fitted once more
DOUBT = 1.6  # hypotheses within this ratio of the best one's squared error are fitted too
PRIOR = 10.0  # squared errors, in units of the pixels' variance, that a unit of the network's log probability weighs
TRIED = 3  # shapes of an object, by the network's order, and hypotheses that may be fitted
SHARP = 0.05  # share of blur that is not worth its computation
BETWEEN = (RADII[0][1] + RADII[1][0]) / 2  # of small and large
_GROUNDS = palette(BACKGROUND_RGB, BACKGROUNDS)
_PALETTE = palette(COLOUR_RGB, COLOURS)
_REACH = 1.26 * 0.22  # from an object's centre to the side of its window, in sides


class Parsed(NamedTuple):
    """What N images show.

    Attributes:
        scenes: as `draw_scenes` makes them. Objects alike in shape, colour, size and texture are one group; slots are
            in the order of groups, then from left to right; empty ones have group -1.
        fit: (N, K) share of an object's squared contrast with the background that its reading explains, at most 1.
        readable: (N,) whether the image is a scene: a known background, at most four objects, each explained, and
            nothing else. Where it is false the scene is the best guess, which no metric may count as a success.
    """

    scenes: Scenes
    fit: Tensor
    readable: Tensor

    @property
    def confidence(self) -> Tensor:
        """(N,) fit of the worst object; 1 where there is none, 0 where unreadable."""
        worst = self.fit.masked_fill(~self.scenes.present, 1).amin(1)
        return worst.clamp(min=0) * self.readable


class _Objects(NamedTuple):
    """M objects, or hypotheses of them. `blur` is the share, 0 for sharp, of a binomial blur over 3x3 pixels."""

    image: Tensor
    shape: Tensor
    colour: Tensor
    texture: Tensor
    style: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    tint: Tensor
    blur: Tensor

    def rows(self, index: Tensor) -> _Objects:
        chosen: _Objects = select(self, index)
        return chosen


class _Windows(NamedTuple):
    """What is seen around M objects: pixels (M, 3, P, P) in [0, 1], their weights (M, P, P), where they are, (M, P)."""

    pixels: Tensor
    weights: Tensor
    across: Tensor
    down: Tensor
    background: Tensor

    def rows(self, index: Tensor) -> _Windows:
        chosen: _Windows = select(self, index)
        return chosen


def parse(images: Tensor, detector: Detector | None = None) -> Parsed:
    """Read scenes back from images (N, 3, S, S) in [-1, 1].

    The background is the known colour that most pixels are like. A small network proposes places and attributes; least
    squares against the renderer's formulas refine place, radius and tint and choose among shapes, textures, styles and
    colours, the style for a scene as a whole. What is then rendered is compared with the image.

    Args:
        images: of 16 pixels a side or more; made for 32 and 64.
        detector: the network; the shipped one by default.

    Raises:
        TypeError: no tensor of floats.
        ValueError: not square colour images of 16 pixels a side or more, or values as of bytes.

    Warns:
        UserWarning: no value is below 0, as in pictures in [0, 1].
    """
    check_pictures(images)
    detector = detector or load_detector()
    images = images.detach().to("cpu", torch.float32)
    finite, images = images.isfinite().flatten(1).all(1), images.nan_to_num(0.0, 1.0, -1.0)
    with torch.no_grad():
        parts = [_parse(part, detector) for part in images.split(ROWS)] or [_parse(images, detector)]
    joined: Parsed = cat(parts)
    return joined._replace(readable=joined.readable & finite)


def _parse(images: Tensor, detector: Detector) -> Parsed:
    pixels, size = (images + 1) / 2, images.shape[-1]
    background, share = _background(pixels)
    proposals = detector.propose(images)
    found = _first(proposals)
    coarse = size // FINE if size % FINE == 0 else 1
    found, windows = _matched(
        found, F.avg_pool2d(pixels, coarse) if coarse > 1 else pixels, background, proposals
    )
    if coarse > 1:
        windows = _windows(found, pixels, background)
        found = _refined(found._replace(blur=torch.zeros_like(found.blur)), windows, size, 1)
    fit = _fit(found, windows, size)
    kept = fit > EXPLAINED / 2  # what explains nothing is not there
    scenes, fits, crowded = _gathered(found.rows(kept), fit[kept], background, len(images))
    bad = (fits < EXPLAINED) & scenes.present
    readable = (share > GROUND) & ~crowded & ~bad.any(1) & ~_stray(images, scenes)
    return Parsed(scenes, fits, readable)


def _background(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the background (N,) and the share of pixels that are like it."""
    distance = (pixels[:, None] - _GROUNDS[:, :, None, None]).square().sum(2)
    nearest = distance.amin(1, keepdim=True)
    votes = ((distance == nearest) & (distance < LIKE**2)).float().mean((2, 3))
    share, index = votes.max(1)
    return index, share


def _first(proposals: Proposals) -> _Objects:
    """The network's own reading."""
    n, k = proposals.certainty.nonzero(as_tuple=True)
    logits = proposals.logits
    weight = (proposals.certainty > 0)[..., None]
    style = (logits["style"].log_softmax(-1) * weight).sum(1).argmax(-1)
    shape, colour, texture = (logits[name].argmax(-1)[n, k] for name in ("shape", "colour", "texture"))
    x, y, radius = (getattr(proposals, name)[n, k] for name in ("x", "y", "radius"))
    return _Objects(
        n, shape, colour, texture, style[n], x, y, radius, torch.ones_like(x), torch.zeros_like(x)
    )


def _matched(
    first: _Objects, pixels: Tensor, background: Tensor, proposals: Proposals
) -> tuple[_Objects, _Windows]:
    """Places refined, hypotheses compared, places refined again; those that fit badly once more, from every shape."""
    size = pixels.shape[-1]
    windows = _windows(first, pixels, background)
    if not len(first.x):
        return first, windows
    found = _refined(first, windows, size, 2)
    found = found._replace(blur=_per_image(found.blur, found.image, len(pixels)))
    windows = _windows(found, pixels, background)
    logits = {k: v[proposals.certainty > 0] for k, v in proposals.logits.items()}
    likely = logits["shape"].topk(TRIED).indices
    errors, tints, penalty = _errors(found, windows, size, likely, logits)
    weighed = (errors + penalty).amin((1, 3, 4))
    style = torch.zeros(len(pixels), len(STYLES)).index_add_(0, found.image, weighed).argmin(1)
    found = found._replace(style=style[found.image])
    found = _decided(found, errors, penalty, tints, likely, windows, size)
    bad = (_fit(found, windows, size) < AGAIN).nonzero()[:, 0]
    if len(bad):
        windows = _windows(found, pixels, background)  # now that all places are known
        start = first.rows(bad)._replace(style=found.style[bad], blur=found.blur[bad])
        found = _put(found, bad, _again(start, found.rows(bad), windows.rows(bad), size, _at(logits, bad)))
    return found, windows


def _again(
    first: _Objects, found: _Objects, windows: _Windows, size: int, logits: dict[str, Tensor]
) -> _Objects:
    """Objects fitted from the network's places as each of the shapes, where that is better than what was found."""
    m, kinds = len(first.x), len(SHAPES)
    each = torch.arange(m).repeat_interleave(kinds)
    tried = first.rows(each)._replace(shape=torch.arange(kinds).repeat(m))
    seen = windows.rows(each)
    tried = _refined(tried, seen, size, 4)
    best = _squared(tried, seen, size).reshape(m, kinds).argmin(1) + torch.arange(m) * kinds
    start, likely = tried.rows(best), torch.arange(kinds).expand(m, -1)
    errors, tints, penalty = _errors(start, windows, size, likely, logits)
    other = _decided(start, errors, penalty, tints, likely, windows, size)
    better = _squared(other, windows, size) < _squared(found, windows, size)
    return _put(found, better.nonzero()[:, 0], other.rows(better.nonzero()[:, 0]))


def _put(found: _Objects, index: Tensor, others: _Objects) -> _Objects:
    return _Objects(*(a.index_copy(0, index, b) for a, b in zip(found, others, strict=True)))


def _at(logits: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: values[index] for name, values in logits.items()}


def _per_image(values: Tensor, image: Tensor, n: int) -> Tensor:
    """Each image's mean over its objects, given to each of them."""
    total = torch.zeros(n).index_add_(0, image, values)
    return (total / torch.bincount(image, minlength=n).clamp(min=1))[image]


def _surprise(logits: dict[str, Tensor], likely: Tensor) -> Tensor:
    """Minus the network's log probabilities (M, H, styles, textures, colours) of hypotheses."""
    logp = {name: values.log_softmax(-1) for name, values in logits.items()}
    shape = logp["shape"].gather(1, likely)[:, :, None, None, None]
    style, texture, colour = logp["style"], logp["texture"], logp["colour"]
    return -(
        shape + style[:, None, :, None, None] + texture[:, None, None, :, None] + colour[:, None, None, None]
    )


def _windows(found: _Objects, pixels: Tensor, background: Tensor) -> _Windows:
    """Square windows around objects; pixels that other objects cover, or out of the image, have weight 0."""
    size = pixels.shape[-1]
    side = 2 * math.ceil(_REACH * size) + 2
    corner = [(place * size - side / 2).round().long() for place in (found.x, found.y)]
    column, row = (c[:, None] + torch.arange(side) for c in corner)
    inside = ((column >= 0) & (column < size))[:, None, :] & ((row >= 0) & (row < size))[:, :, None]
    near = (
        found.image[:, None, None],
        row.clamp(0, size - 1)[:, :, None],
        column.clamp(0, size - 1)[:, None],
    )
    weights = (inside & ~_others(found, size)[torch.arange(len(column))[:, None, None], *near[1:]]).float()
    seen = pixels.movedim(1, -1)[near].movedim(-1, 1)
    rgb = _GROUNDS[background][found.image]
    return _Windows(seen, weights, (column + 0.5) / size, (row + 0.5) / size, rgb)


def _others(found: _Objects, size: int) -> Tensor:
    """(M, S, S) pixels that other objects of the same image take part of."""
    at = (torch.arange(size) + 0.5) / size
    dx, dy = at - found.x[:, None], at - found.y[:, None]
    own = (_distance(found.shape, dx, dy, found.radius) < 0.7 / size).int()
    total = torch.zeros(int(found.image.max()) + 1 if len(own) else 0, size, size, dtype=torch.int32)
    total.index_add_(0, found.image, own)
    return total[found.image] > own


def _distance(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Signed distances (M, H, W) at offsets (M, W) across and (M, H) down."""
    out = dx.new_empty(len(dx), dy.shape[1], dx.shape[1])
    for number, name in enumerate(SHAPES):
        rows = (shape == number).nonzero()[:, 0]
        if len(rows):
            out[rows] = DISTANCES[name](dx[rows][:, None], dy[rows][:, :, None], radius[rows][:, None, None])
    return out


def _model(found: _Objects, windows: _Windows, size: int) -> Tensor:
    """The windows (M, 3, P, P) as the renderer would paint them, blurred as the objects are."""
    return _blurred(_sharp(found, windows, size), found.blur)


def _sharp(found: _Objects, windows: _Windows, size: int) -> Tensor:
    dx, dy = windows.across - found.x[:, None], windows.down - found.y[:, None]
    distance = _distance(found.shape, dx, dy, found.radius)
    radius, texture, style = (v[:, None, None] for v in (found.radius, found.texture, found.style))
    made = layers(distance, dx[:, None], dy[:, :, None], radius, texture, style, size)
    return painted(made, _PALETTE[found.colour] * found.tint[:, None], windows.background)


def _blurred(maps: Tensor, blur: Tensor) -> Tensor:
    """Maps (M, ..., H, W) with each object's share of blur, where that is enough to see."""
    if not (blur > SHARP).any():
        return maps
    return torch.lerp(maps, _soft(maps), (blur * (blur > SHARP)).reshape(-1, *[1] * (maps.ndim - 1)))


def _soft(maps: Tensor) -> Tensor:
    """Maps (..., H, W) blurred by (1, 2, 1) / 4 along both; edges as if the outermost pixels went on."""
    for axis in (-1, -2):
        ends = maps.narrow(axis, 0, 1), maps.narrow(axis, -1, 1)
        wide = torch.cat([ends[0], maps, ends[1]], axis)
        n = maps.shape[axis]
        maps = (wide.narrow(axis, 0, n) + wide.narrow(axis, 2, n) + 2 * maps) / 4
    return maps


def _refined(found: _Objects, windows: _Windows, size: int, steps: int) -> _Objects:
    """Gauss-Newton steps on place, radius, tint and blur, with derivatives by differences."""
    parts = torch.arange(len(found.x)).split(AT_ONCE)
    return (
        cat([_stepped(found.rows(i), windows.rows(i), size, steps) for i in parts]) if len(found.x) else found
    )


def _stepped(found: _Objects, windows: _Windows, size: int, steps: int) -> _Objects:
    unit = torch.tensor([0.1 / size, 0.1 / size, 0.1 / size, 0.03, 1.0])
    most = torch.tensor([1 / size, 1 / size, 0.8 / size, 0.15, 0.8])
    directions = torch.diag(unit)[:4]
    for _ in range(steps):
        moved = cat([found] + [_moved(found, row) for row in directions])
        sharp = _sharp(moved, cat([windows] * 5), size)
        made = _blurred(sharp, moved.blur).reshape(5, *windows.pixels.shape)
        softer = _soft(sharp[: len(found.x)]) - sharp[: len(found.x)]
        weights = windows.weights[:, None]
        slopes = (torch.cat([made[1:] - made[0], softer[None]]) * weights).flatten(2).movedim(0, 1)
        rest = ((windows.pixels - made[0]) * weights).flatten(1)
        normal = slopes @ slopes.mT
        normal = normal + torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-6)
        change = torch.linalg.solve(normal, (slopes @ rest[..., None]))[..., 0] * unit
        found = _moved(found, change.clamp(-most, most))
    return found


def _moved(found: _Objects, change: Tensor) -> _Objects:
    dx, dy, dr, dt, db = change.expand(len(found.x), 5).unbind(1)
    return found._replace(
        x=found.x + dx, y=found.y + dy, radius=(found.radius + dr).clamp(0.09, 0.24),
        tint=(found.tint + dt).clamp(0.8, 1.2), blur=(found.blur + db).clamp(0, 1.2),
    )  # fmt: skip


def _errors(
    found: _Objects, windows: _Windows, size: int, likely: Tensor, logits: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Least squared errors (M, H, styles, textures, colours) of hypotheses at the objects' places, their tints, and
    what the network's doubts add to the errors.

    A model is affine in its tint as long as no colour saturates.

    Args:
        found: places and radii.
        windows: what is seen there.
        size: pixels of the image's side.
        likely: shapes (M, H) to try.
        logits: the network's, by name (M, number of values).
    """
    parts = []
    for index in torch.arange(len(found.x)).split(AT_ONCE):
        parts.append(_errors_of(found.rows(index), windows.rows(index), size, likely[index]))
    errors, tints = (torch.cat(v) for v in zip(*parts, strict=True))
    variance = errors.flatten(1).amin(1) / (3 * windows.weights.sum((1, 2))).clamp(min=1)
    return errors, tints, PRIOR * variance[:, None, None, None, None] * _surprise(logits, likely)


def _errors_of(found: _Objects, windows: _Windows, size: int, likely: Tensor) -> tuple[Tensor, Tensor]:
    weights, behind = windows.weights.flatten(1)[:, None, None, None, None], windows.background
    made = _all_layers(found, windows, size, likely)
    inside = made.cover * (1 - made.inked)
    ink = (behind.mean(1) < 0.4).float()[:, None, None, None, None, None]
    target = windows.pixels.flatten(2)[:, None, None, None]
    ground = behind[:, None, None, None, :, None]
    fixed = ground * (1 - made.cover) + made.cover * made.inked * ink + inside * made.light * made.shade
    free = inside * made.gain * made.shade
    side = (windows.pixels.shape[-1],) * 2
    fixed, free = (_blurred(v.unflatten(-1, side), found.blur).flatten(-2) for v in (fixed, free))
    rest, free = (target - fixed) * weights, free * weights
    linear = (rest * free).sum(-1) @ _PALETTE.T
    square = free.square().sum((-2, -1))[..., None] * _PALETTE.square().sum(1)
    tint = (linear / square.clamp(min=1e-6)).clamp(0.88, 1.12)
    return rest.square().sum((-2, -1))[..., None] - 2 * tint * linear + tint**2 * square, tint


def _all_layers(found: _Objects, windows: _Windows, size: int, likely: Tensor) -> Layers:
    """Layers (M, H, styles, textures, 1, P * P), with sizes of 1 where an axis does not matter."""
    dx, dy = windows.across - found.x[:, None], windows.down - found.y[:, None]
    h = likely.shape[1]
    wide = [v.repeat_interleave(h, 0) for v in (dx, dy, found.radius)]
    side = dx.shape[1]
    distance = _distance(likely.flatten(), *wide).reshape(len(dx), h, 1, 1, side, side)
    texture, style = (
        torch.arange(len(TEXTURES))[:, None, None],
        torch.arange(len(STYLES))[:, None, None, None],
    )
    radius = found.radius[:, None, None, None, None, None]
    dx, dy = dx[:, None, None, None, None, :], dy[:, None, None, None, :, None]
    made = layers(distance, dx, dy, radius, texture, style, size)
    return Layers(*(v.flatten(-2).unsqueeze(-2) for v in made))


def _decided(
    found: _Objects,
    errors: Tensor,
    penalty: Tensor,
    tints: Tensor,
    likely: Tensor,
    windows: _Windows,
    size: int,
) -> _Objects:
    """The best hypotheses of each object are fitted as far as they are in doubt; the least weighed error decides.

    Args:
        found: M objects with their scenes' styles.
        errors, penalty, tints: (M, H, styles, textures, colours) of hypotheses.
        likely: the shapes (M, H).
        windows: what is seen there.
        size: pixels of the image's side.
    """
    rows = torch.arange(len(errors))
    errors, penalty, tints = (v[rows, :, found.style] for v in (errors, penalty, tints))
    weighed, index = (errors + penalty).flatten(1).topk(TRIED, largest=False)
    doubted = weighed < DOUBT * weighed[:, :1] + 0.02
    doubted[:, 0] = True
    row, rank = doubted.nonzero(as_tuple=True)
    number = index[row, rank]
    tried = found.rows(row)._replace(
        shape=likely[row, number // (len(COLOURS) * len(TEXTURES))],
        texture=number // len(COLOURS) % len(TEXTURES), colour=number % len(COLOURS),
        tint=tints.flatten(1)[row, number],
    )  # fmt: skip
    seen = windows.rows(row)
    fitted = _refined(tried, seen, size, 2)
    cost = torch.full(weighed.shape, torch.inf)
    cost[row, rank] = _squared(fitted, seen, size) + penalty.flatten(1)[row, number]
    best = cost.argmin(1)
    return fitted.rows((doubted.flatten().cumsum(0) - 1)[torch.arange(len(best)) * TRIED + best])


def _squared(found: _Objects, windows: _Windows, size: int) -> Tensor:
    rest = (windows.pixels - _model(found, windows, size)).square().sum(1)
    return (rest * windows.weights).sum((1, 2))


def _fit(found: _Objects, windows: _Windows, size: int) -> Tensor:
    """(M,) 1 - squared error / squared contrast, over the pixels that the object takes part of."""
    made = _model(found, windows, size)
    contrast = (made - windows.background[:, :, None, None]).square().sum(1)
    weights = windows.weights * (contrast > 1e-4)
    error = ((windows.pixels - made).square().sum(1) * weights).sum((1, 2))
    return 1 - error / (contrast * weights).sum((1, 2)).clamp(min=1e-6)


def _gathered(found: _Objects, fit: Tensor, background: Tensor, n: int) -> tuple[Scenes, Tensor, Tensor]:
    """Scenes of the objects, four at most of an image, the fits by slot, and which images had more."""
    size = (found.radius > BETWEEN).long()
    kind = ((found.shape * len(COLOURS) + found.colour) * 2 + size) * len(TEXTURES) + found.texture
    kinds = len(SHAPES) * len(COLOURS) * 2 * len(TEXTURES)
    order = torch.argsort((found.image * kinds + kind).double() + found.x.clamp(0, 0.999).double())
    image = found.image[order]
    counts = torch.bincount(image, minlength=n)
    slot = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image]
    kept = slot < MOST
    order, image, slot = order[kept], image[kept], slot[kept]

    def slots(values: Tensor, empty: float) -> Tensor:
        out = torch.full((n, MOST), empty).to(values.dtype)
        out[image, slot] = values[order]
        return out

    kind_of = slots(kind, -1)
    new = torch.ones_like(kind_of, dtype=torch.bool)
    new[:, 1:] = kind_of[:, 1:] != kind_of[:, :-1]
    group = (new.long().cumsum(1) - 1).masked_fill(kind_of < 0, -1)
    style = torch.zeros(n, dtype=torch.long)
    style[found.image] = found.style
    scenes = Scenes(
        slots(found.shape, 0), slots(found.colour, 0), slots(size, 0), slots(found.texture, 0),
        slots(found.x, 0.5), slots(found.y, 0.5), slots(found.radius, RADII[0][0]), slots(found.tint, 1), group,
        background, style,
    )  # fmt: skip
    return scenes, slots(fit, 0), counts > MOST


def _stray(images: Tensor, scenes: Scenes) -> Tensor:
    """Whether pixels are left that look like neither the objects nor the background."""
    size = images.shape[-1]
    rest = (images - render(scenes, size)) / 2
    width = max(2, size // 16) // 2 * 2 + 1
    smooth = F.avg_pool2d(rest, width, 1, width // 2).square().sum(1).sqrt()
    usual = smooth.flatten(1).median(1).values[:, None, None]
    within = (coverage(scenes, size) > 0).any(1)
    return (smooth > usual + torch.where(within, FAR_WITHIN, FAR)).float().mean((1, 2)) > STRAY
