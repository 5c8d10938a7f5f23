"""How good a model's samples are: every number with its interval, and beside it the same number of real data.

What a distance between two finite sets means is told by the reference: training samples, as many as were
generated, against the same held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein import metrics
from ornstein.core import Denoiser, Tree
from ornstein.denoisers import Matcher, Reconstructor
from ornstein.metrics import Estimate
from ornstein.metrics.scenes import mean_estimate
from ornstein.objectives import Denoising
from ornstein.training.codec import encoded_split
from ornstein.training.evaluation import HeldOut
from ornstein.training.source import tokenised_split

from .matches import compared

__all__ = ["Measured", "Row", "Seen", "alike", "measure"]

_BATCH = 256  # held-out samples evaluated at a time
_MOST = 1000  # samples measured, unless asked otherwise
_HELD_OUT = "held-out data"  # what some references are of
_TRAINING = 10_000  # training samples among which nearest neighbours are sought


class Row(NamedTuple):
    """One measurement of the samples, and its reference: the same of `reference_of` in their place; `best` is "low",
    "high" or "near 1".
    """

    name: str
    samples: Estimate
    reference: Estimate | None
    best: str
    reference_of: str = "training data"


@dataclass
class Measured:
    """All that was measured of a model.

    Attributes:
        count: samples generated.
        rows: measurements.
        clock: what `edges` are of.
        edges: of the bins of the noise level, from noisy to clean.
        losses: held-out loss in every bin.
        duplicates: samples that equal a training sample; None where that says nothing.
    """

    count: int
    rows: list[Row] = field(default_factory=list)
    clock: str = ""
    edges: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    duplicates: int | None = None

    def row(self, name: str) -> Row | None:
        """The measurement of that name, if it was made."""
        return next((row for row in self.rows if row.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = {
            row.name: {
                "samples": row.samples._asdict(),
                "reference": row.reference._asdict() if row.reference else None,
                **({"reference_of": row.reference_of} if row.reference else {}),
            }
            for row in self.rows
        }
        levels = {"clock": self.clock, "edges": self.edges, "loss": self.losses}
        return {"samples": self.count, "measured": rows, "duplicates": self.duplicates, "held_out": levels}


class Seen(NamedTuple):
    """Samples as they are compared: states (N, ...), class labels (N,) where there are any, and whether these were
    asked for rather than drawn.
    """

    x: Tensor
    labels: Tensor | None
    asked: bool = False

    @classmethod
    def of(cls, x_0: Tree, fields: dict[str, Tensor], asked: bool = False) -> Seen:
        """Of a batch: of a tree state, the image and its label."""
        if isinstance(x_0, dict):
            return cls(x_0["image"], x_0.get("label"))
        return cls(x_0, fields.get("label"), asked)


def measure(
    model: Denoiser, data: Any, draw: Callable[..., Tree], count: int | None = None, seed: int = 0
) -> Measured:
    """Measure a model on held-out data.

    Args:
        model: a denoiser.
        data: the data set that it was trained on.
        draw: (count, condition fields) -> samples, such as a `Draw`.
        count: how many samples; by default as many as are held out, at most 1,000.
        seed: of the training samples chosen as reference.

    Raises:
        ValueError: nothing is held out.
    """
    if len(data.held_out) < 2:
        raise ValueError(f"data: {data.name!r} holds out {len(data.held_out)} samples, at least 2 are needed")
    count = min(len(data.held_out), _MOST) if count is None else count
    if isinstance(model, Reconstructor):
        return _of_reconstructions(model, data, count)
    if isinstance(model, Matcher):
        rows = compared(model.pair, data, count).items()
        return Measured(min(count, len(data.held_out)), [Row(k, *found, "high") for k, found in rows])
    held_out = _spread(data.held_out, max(count, min(len(data.held_out), _MOST)))
    found = Measured(count)
    fields = _wanted(model, data, held_out, count)
    _by_level(found, model, data)
    labels = {"label": torch.tensor(fields["label"])} if "label" in fields else {}
    samples = Seen.of(draw(count, fields), labels, bool(fields))
    if held_out.x.is_floating_point():
        _of_prompts(found, data, samples, held_out, fields)
        _of_states(found, data, samples, held_out, seed)
        _of_conditionals(found, model, data, held_out, draw)
    else:
        _of_sequences(found, data, samples.x, seed)
    return found


def _wanted(model: Denoiser, data: Any, held_out: Seen, count: int) -> dict[str, Any]:
    """Labels or texts as the held-out samples have them, where the model reads them."""
    rows = torch.arange(count) % len(held_out.x)
    if "text" in model.fields and data.held_out.texts is not None:
        texts = [data.held_out.texts[i] for i in _indices(data.held_out, len(held_out.x)).tolist()]
        return {"text": [texts[i] for i in rows.tolist()]}
    if "label" not in model.fields or held_out.labels is None:
        return {}
    return {"label": held_out.labels[rows].tolist()}


def _spread(split: Any, count: int) -> Seen:
    batch = split.batch(_indices(split, count))
    return Seen.of(batch["x_0"], batch["fields"])


def _indices(split: Any, count: int) -> Tensor:
    """`count` rows, or all if there are fewer, evenly spread."""
    count = min(count, len(split))
    return torch.arange(count) * len(split) // count


def _by_level(found: Measured, model: Denoiser, data: Any) -> None:
    accepted, codec = model.fields | model.process.fields, getattr(model.process, "codec", None)
    split = data.held_out if codec is None else encoded_split(data.held_out, codec)
    split = tokenised_split(split, model)
    held = HeldOut(split, Denoising(drop=0.0), model.process, accepted, torch.device("cpu"), _BATCH)
    found.clock, found.edges, found.losses = held.clock, held.edges, held.losses(model)


def _of_states(found: Measured, data: Any, samples: Seen, held_out: Seen, seed: int) -> None:
    train = _spread(data.train, _TRAINING)
    sets = (samples, alike(train, samples, seed), held_out)
    classifier = _classifier(data)
    if classifier is not None:
        features = [s._replace(x=metrics.classifier_features(classifier, s.x)) for s in sets]
        found.rows.append(
            _distance("Fréchet distance (classifier features)", metrics.frechet_distance, *features)
        )
    found.rows.append(_distance("energy distance", metrics.energy_distance, *sets))
    found.rows.append(_distance("sliced Wasserstein", metrics.sliced_wasserstein, *sets))
    if classifier is not None and samples.labels is not None and held_out.labels is not None:
        score = metrics.class_accuracy(classifier, samples.x, samples.labels)
        reference = metrics.class_accuracy(classifier, held_out.x, held_out.labels)
        found.rows.append(Row("class accuracy", score, reference, "high", _HELD_OUT))
    near = metrics.nearest_training_distance(samples.x, train.x, held_out.x)
    # in few dimensions, near is no sign of a copy
    found.duplicates = near.duplicates if train.x[0].numel() >= 16 else None
    found.rows.append(Row("nearest training distance over that of held-out data", near.ratio, None, "near 1"))


_SHOWN = (
    "binding",
    "count",
    "relation",
    "place",
    "size",
    "texture",
    "style",
    "background",
    "success",
    "readable",
)


def _of_prompts(
    found: Measured, data: Any, samples: Seen, held_out: Seen, fields: Mapping[str, Sequence[str]]
) -> None:
    """Whether scenes show what their prompts ask for, beside the pictures that the prompts were written of."""
    if data.name != "scenes" or "text" not in fields:
        return
    texts, real = fields["text"], held_out.x[torch.arange(len(samples.x)) % len(held_out.x)]
    found.rows += _of_scenes(texts, samples.x, real, "true pictures of the prompts")


def _of_scenes(asked: Any, own: Tensor, real: Tensor, name: str) -> list[Row]:
    """What is read in pictures, and in those that are called `name`."""
    found, reference = (metrics.scene_score(asked, seen).estimates() for seen in (own, real))
    return [Row(key, found[key], reference[key], "high", name) for key in _SHOWN if key in found]


def _of_reconstructions(model: Reconstructor, data: Any, count: int) -> Measured:
    """How near a codec's images are to those it was given, and of scenes what is read in either."""
    chosen = _indices(data.held_out, count)
    x = data.held_out.batch(chosen)["x_0"]
    with torch.no_grad():
        y = torch.cat([model(part, 0.0).mean for part in x.split(_BATCH)]).clamp(-1, 1)
    found = Measured(len(x))
    near = {"PSNR of reconstructions (dB)": metrics.psnr, "SSIM of reconstructions": metrics.ssim}
    found.rows = [Row(name, mean_estimate(score(y, x)), None, "high") for name, score in near.items()]
    if data.name == "scenes":
        found.rows += _of_scenes(data.held_out.scenes.rows(chosen), y, x, "the pictures themselves")
    return found


def _of_conditionals(
    found: Measured, model: Denoiser, data: Any, held_out: Seen, draw: Callable[..., Tree]
) -> None:
    """Of a tree of image and label: each given the other, as the held-out samples have it."""
    classifier, labels = _classifier(data), held_out.labels
    if classifier is None or labels is None or not isinstance(model.shape, dict):
        return
    named = draw(len(labels), given={"image": held_out.x})["label"]
    drawn = draw(len(labels), given={"label": labels})["image"]
    reference = metrics.class_accuracy(classifier, held_out.x, labels)
    found.rows += [
        Row(
            "label given the image",
            metrics.wilson(int((named == labels).sum()), len(labels)),
            reference,
            "high",
            _HELD_OUT,
        ),
        Row(
            "image given the label (class accuracy)",
            metrics.class_accuracy(classifier, drawn, labels),
            reference,
            "high",
            _HELD_OUT,
        ),
    ]


def _distance(
    name: str, distance: Callable[..., Estimate], samples: Seen, train: Seen, held_out: Seen
) -> Row:
    """Of samples and of training data from held-out data; resampled within classes where these were asked for."""
    own, reference = (distance(s.x, held_out.x, strata=_strata(s, held_out)) for s in (samples, train))
    return Row(name, own, reference, "low")


def _strata(samples: Seen, held_out: Seen) -> tuple[Tensor, Tensor] | None:
    if not samples.asked or samples.labels is None or held_out.labels is None:
        return None
    return samples.labels, held_out.labels


def alike(train: Seen, samples: Seen, seed: int) -> Seen:
    """As many training samples as there are generated ones, of the same classes."""
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))
    if train.labels is None or samples.labels is None:
        rows = order[torch.arange(len(samples.x)) % len(order)]
        return Seen(train.x[rows], None)
    rows = torch.empty(len(samples.x), dtype=torch.long)
    for label in samples.labels.unique():
        wanted, members = samples.labels == label, order[train.labels[order] == label]
        pool = members if len(members) else order
        rows[wanted] = pool[torch.arange(int(wanted.sum())) % len(pool)]
    return Seen(train.x[rows], train.labels[rows], samples.asked)


def _classifier(data: Any) -> Any:
    """The shipped classifier of these data, None where there is none for images of their size."""
    try:
        classifier = metrics.load_classifier(str(data.name).removesuffix("-joint"))
    except ValueError:
        return None
    shape = data.shape["image"] if isinstance(data.shape, dict) else data.shape
    return classifier if tuple(shape) == classifier.shape else None


def _of_sequences(found: Measured, data: Any, ids: Tensor, seed: int) -> None:
    train, held_out = (data.decode(split.x_0) for split in (data.train, data.held_out))
    if not isinstance(train, list):
        raise ValueError(f"data: no measure for discrete data that are not words, got {data.name!r}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: len(ids)].tolist()
    own, reference = (
        metrics.word_score(words, train, held_out) for words in (data.decode(ids), [train[i] for i in order])
    )
    found.rows += [
        Row("words of the list", own.valid, reference.valid, "high"),
        Row("words never trained on", own.novel, reference.novel, "high"),
        Row(f"{own.order}-gram distance to held-out words", own.divergence, reference.divergence, "low"),
    ]
