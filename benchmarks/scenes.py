"""How fast scenes are rendered and read back, and how often the parser is wrong.

    OMP_NUM_THREADS=1 python -m benchmarks.scenes [--count N] [--seed S] [--codec NAME] [--tables FILE] [--json FILE]

Scenes are drawn from seeds that the parser's network was not trained on. Times are of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ornstein
from ornstein.data.scenes import ATTRIBUTES, Parsed, Scenes, World, captions, draw_scenes, parse, render
from ornstein.metrics import (
    ReadingError,
    SceneScore,
    layout_iou,
    permuted_layout,
    permuted_score,
    position_recall,
    reading_error,
    scene_score,
)

from .timing import machine

PIXELS = (16, 32, 64)
WORLDS = {"apart": World(), "overlapping": World(overlap=True)}
SEED = 10_000_019  # of the scenes, far from those that are trained on
CODEC = "scenes-codec"
Change = Callable[[Tensor, torch.Generator], Tensor]


def blurred(images: Tensor, width: float) -> Tensor:
    """Gaussian blur of a width in pixels."""
    line = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * width**2))
    line = (line / line.sum()).repeat(3, 1)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    across = F.conv2d(padded, line[:, None, None, :], groups=3)
    return F.conv2d(across, line[:, None, :, None], groups=3)


def noisy(images: Tensor, generator: torch.Generator, sigma: float = 0.1) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=generator)


CHANGES: dict[str, Change] = {
    "clean": lambda images, generator: images,
    "noise 0.1": noisy,
    "blur 0.6 px": lambda images, generator: blurred(images, 0.6),
    "both": lambda images, generator: noisy(blurred(images, 0.6), generator),
}


@dataclass
class Reading:
    """One line of the table."""

    pixels: int
    world: str
    change: str
    accuracy: dict[str, float]
    missed: float
    extra: float
    exact: str
    unreadable: str
    offset: float
    per_second: float
    confusion: dict[str, list[list[int]]]


def rendered_per_second(scenes: Scenes, pixels: int) -> float:
    """The best of three runs."""
    return len(scenes.x) / min(seconds(lambda: render(scenes, pixels)) for _ in range(3))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def readings(count: int, seed: int) -> Iterator[Reading]:
    for world_name, world in WORLDS.items():
        scenes = draw_scenes(count, seed, world)
        for pixels in PIXELS:
            images = render(scenes, pixels)
            for name, change in changes(pixels).items():
                yield reading(scenes, change(images, torch.Generator().manual_seed(seed)), world_name, name)


def changes(pixels: int) -> dict[str, Change]:
    """What is done to renders; at 32 pixels also a round trip through the codec."""
    return {**CHANGES, **({"codec": decoded} if pixels == 32 and codec() else {})}


@cache
def codec() -> Any:
    """The codec of 32-pixel scenes: a folder given by --codec, or the zoo's if it has one."""
    try:
        return ornstein.load(CODEC).codec
    except (OSError, ValueError) as error:
        print(f"left out: {CODEC}: {error}")
        return None


@torch.no_grad()
def decoded(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cat([codec().decode(codec().encode(part)) for part in images.split(100)])


def reading(scenes: Scenes, images: Tensor, world: str, change: str) -> Reading:
    """Read one set of images."""
    start = time.process_time()
    read = parse(images)
    spent = time.process_time() - start
    error = reading_error(scenes, read)
    return Reading(
        images.shape[-1], world, change, {name: error.accuracy(name).value for name in ATTRIBUTES},
        error.missed / error.objects, error.extra / error.objects, interval(error.exact_rate),
        interval(error.unreadable_rate), offset(error), len(images) / spent,
        {name: table.tolist() for name, table in error.confusion.items()},
    )  # fmt: skip


def offset(error: ReadingError) -> float:
    """The 95th percentile of the distances of centres, in sides."""
    return float(error.offset.quantile(0.95)) if len(error.offset) else float("nan")


def interval(estimate: Any) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def refused(count: int, seed: int) -> dict[str, float]:
    """Share of images that are no scenes, or broken ones, which the parser takes for scenes, at 32 pixels."""
    generator = torch.Generator().manual_seed(seed)
    images = render(draw_scenes(count, seed), 32)
    other, noise = images.roll(1, 0), torch.randn(count, 3, 6, 6, generator=generator)
    halves = torch.cat([images[..., :16], other[..., 16:]], -1)
    bar = images.clone()
    bar[:, :, 12:17, 8:26] = torch.tensor([0.3, -0.2, 0.6])[:, None, None]
    kinds = {
        "renders": images,
        "renders with noise 0.3": noisy(images, generator, 0.3),
        "renders with noise 0.5": noisy(images, generator, 0.5),
        "means of two renders": (images + other) / 2,
        "left half of one, right half of another": halves,
        "renders with a violet bar across": bar,
        "smooth noise": F.interpolate(noise, (32, 32), mode="bicubic").clamp(-1, 1),
        "white noise": torch.randn(images.shape, generator=generator),
    }
    return {name: share(parse(shown)) for name, shown in kinds.items()}


def share(read: Parsed) -> float:
    return float(read.readable.float().mean())


def floors(count: int, seed: int) -> dict[str, dict[str, float]]:
    """Each score of true images of their captions, as read, of the same after the codec, and under others' captions."""
    scenes = draw_scenes(count, seed)
    prompts = [caption.asked for caption in captions(scenes, seed)]
    images = render(scenes, 32)
    sets = {"renders": parse(images)}
    if codec():
        sets["after the codec"] = parse(decoded(images, torch.Generator()))
    table = {name: means(scene_score(prompts, read)) for name, read in sets.items()}
    table["other captions"] = means(permuted_score(prompts, sets["renders"]))
    for measure in (layout_iou, position_recall):
        for name, read in sets.items():
            table[name][measure.__name__] = float(measure(scenes, read).mean())
        null = permuted_layout(measure, scenes, sets["renders"])
        table["other captions"][measure.__name__] = float(null.mean())
    return table


def means(score: SceneScore) -> dict[str, float]:
    return {f.name: float(getattr(score, f.name).nanmean()) for f in fields(score)}


def floor_table(levels: dict[str, dict[str, float]]) -> list[str]:
    head = ["score", *levels]
    rows = [[name, *(f"{level[name]:.4f}" for level in levels.values())] for name in levels["renders"]]
    return [
        "\n### What each score is of true images, and of any\n",
        line(head),
        "|---" * len(head) + "|",
        *map(line, rows),
    ]


def speed_table(speeds: dict[int, float]) -> list[str]:
    head = ["pixels a side", *map(str, speeds)]
    row = ["images a second", *(f"{speed:,.0f}" for speed in speeds.values())]
    return ["### Renderer\n", line(head), "|---" * len(head) + "|", line(row)]


def reading_table(found: list[Reading], world: str) -> list[str]:
    head = [
        "pixels",
        "images",
        *ATTRIBUTES,
        "missed",
        "extra",
        "all right",
        "refused",
        "offset, pixels",
        "a second",
    ]
    rows = [
        [str(r.pixels), r.change, *(f"{100 * r.accuracy[name]:.1f}" for name in ATTRIBUTES),
         f"{100 * r.missed:.1f}", f"{100 * r.extra:.1f}", r.exact, r.unreadable, f"{r.offset * r.pixels:.2f}",
         f"{r.per_second:.0f}"]
        for r in found if r.world == world
    ]  # fmt: skip
    title = f"\n### Parser, {world} objects\n\nIn per cent; of objects, and of images where that says more.\n"
    return [title, line(head), "|---" * len(head) + "|", *map(line, rows)]


def confusion_table(found: list[Reading], name: str, pixels: int, world: str) -> list[str]:
    """Truth by rows, all conditions together."""
    total = sum(torch.tensor(r.confusion[name]) for r in found if (r.pixels, r.world) == (pixels, world))
    head = [f"{name}: there, read as", *ATTRIBUTES[name]]
    rows = [[value, *map(str, row)] for value, row in zip(ATTRIBUTES[name], total.tolist(), strict=True)]  # type: ignore[union-attr]
    return ["", line(head), "|---" * len(head) + "|", *map(line, rows)]


def refusal_table(shares: dict[str, float]) -> list[str]:
    rows = [line([name, f"{100 * value:.1f}"]) for name, value in shares.items()]
    return ["\n### What the parser takes for a scene\n", line(["images", "per cent"]), "|---|---|", *rows]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The renderer of scenes, and the parser's errors.")
    parser.add_argument("--count", type=int, default=1000, help="scenes of each world (default 1000)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the scenes")
    parser.add_argument("--codec", default=CODEC, help="name or folder of a codec of 32-pixel scenes")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--tables", type=Path, help="write the tables to this Markdown file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    global CODEC
    options = arguments()
    CODEC = options.codec
    about = machine(("torch",))
    print(about)
    scenes = draw_scenes(options.count, options.seed)
    speeds = {pixels: rendered_per_second(scenes, pixels) for pixels in PIXELS}
    found = list(readings(options.count, options.seed))
    shares = refused(min(options.count, 500), options.seed)
    levels = floors(options.count, options.seed)
    lines = speed_table(speeds)
    for world in WORLDS:
        lines += reading_table(found, world)
    lines += [
        "\n### Confusion at 16 pixels, objects apart\n\nAll four conditions together; at 32 and 64 pixels see above."
    ]
    for name in ATTRIBUTES:
        lines += confusion_table(found, name, 16, "apart")
    lines += refusal_table(shares) + floor_table(levels)
    print(*lines, sep="\n")
    if options.tables:
        options.tables.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.json:
        record = {
            **about,
            "renders": speeds,
            "readings": [asdict(r) for r in found],
            "readable": shares,
            "floors": levels,
        }
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
