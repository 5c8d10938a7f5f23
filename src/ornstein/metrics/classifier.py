"""The small classifiers behind `class_accuracy` and the Fréchet distance: recipe, files, loading.

The shipped ones, for the digits and for 16x16 Fashion-MNIST, are made anew by

    OMP_NUM_THREADS=1 python -c "from ornstein import data, metrics; \
        metrics.save_classifier(*metrics.train_classifier(data.load('digits')), '.')"
    OMP_NUM_THREADS=1 python -c "from ornstein import data, metrics; fashion = data.load('fashion-mnist'); \
        metrics.save_classifier(*metrics.train_classifier(fashion, epochs=6, batch=128), '.')"
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.spec import suggest
from ..networks.classifier import Classifier
from .accuracy import class_accuracy

__all__ = ["load_classifier", "save_classifier", "train_classifier"]

_SHIPPED = Path(__file__).with_name("classifiers")


def train_classifier(
    dataset: Any,
    width: int = 16,
    epochs: int = 30,
    batch: int = 64,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> tuple[Classifier, dict[str, Any]]:
    """A classifier of a data set's labels, and its card.

    AdamW with a one-cycle learning rate and label smoothing; half of each batch is moved by up to
    half a pixel, turned by up to 10 degrees and scaled by up to 10 %. The held-out split is looked
    at once, at the end. The same seed gives the same weights on one machine with one number of
    threads.

    Args:
        dataset: a labelled `ornstein.data.Dataset` of square images (C, H, H).
        width: of the network.
        epochs: passes over the training split.
        batch: images a step.
        learning_rate: at its peak.
        weight_decay: of AdamW.
        seed: of weights, order and augmentation.

    Returns:
        The classifier in eval mode and a card of JSON data: its arguments, this recipe, and the
        accuracy on the held-out split.

    Raises:
        ValueError: the data set has no labels, no square images or an empty held-out split.
    """
    if not dataset.classes or len(dataset.shape) != 3 or dataset.shape[1] != dataset.shape[2]:
        raise ValueError(f"dataset: expected labelled square images, got {dataset!r}")
    x, labels = dataset.train.x_0, dataset.train.fields["label"]
    arguments = {
        "channels": dataset.shape[0],
        "classes": len(dataset.classes),
        "width": width,
        "size": dataset.shape[1],
    }
    recipe: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(**arguments)
        _fit(classifier, x, labels, **recipe)
    held_out = dataset.held_out
    accuracy = class_accuracy(classifier.eval(), held_out.x_0, held_out.fields["label"])
    return classifier, {
        "name": Path(dataset.name).name,
        "arguments": arguments,
        "recipe": {**recipe, "seed": seed},
        "train": len(x),
        "held_out_accuracy": accuracy._asdict(),
    }


def save_classifier(classifier: Classifier, card: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write NAME.safetensors and NAME.json into a folder, NAME being the card's "name"."""
    from safetensors.torch import save_file

    stem = Path(folder) / card["name"]
    save_file({k: v.contiguous() for k, v in classifier.state_dict().items()}, f"{stem}.safetensors")
    Path(f"{stem}.json").write_text(json.dumps(card, indent=2) + "\n")


def load_classifier(name: str, folder: str | os.PathLike[str] = _SHIPPED) -> Classifier:
    """A classifier in eval mode, without gradients of its weights.

    Args:
        name: "digits" or "fashion-mnist" (images of 16x16) for those that ship, or a name given to
            `save_classifier`.
        folder: where it was saved; by default the package's own.

    Raises:
        ValueError: no such classifier, with the nearest name; or files that do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    known = [file.stem for file in Path(folder).glob("*.json")]
    if name not in known:
        raise ValueError(suggest(name, known, "classifier"))
    try:
        card = json.loads((Path(folder) / f"{name}.json").read_text())
        classifier = Classifier(**card["arguments"])
        classifier.load_state_dict(load_file(Path(folder) / f"{name}.safetensors"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"classifier {name!r} cannot be read: {error}") from error
    return classifier.eval().requires_grad_(False)


def _fit(
    classifier: Classifier,
    x: Tensor,
    labels: Tensor,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=weight_decay)
    batches = [part for _ in range(epochs) for part in torch.randperm(len(x)).split(batch)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, len(batches))
    for index in batches:
        logits = classifier(_moved(x[index]))
        loss = F.cross_entropy(logits, labels[index], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _moved(x: Tensor) -> Tensor:
    """Half of the images, shifted, turned and scaled at random; the others are exact."""
    half = len(x) // 2
    angle, scale = 0.175 * _uniform(half), 1 + 0.1 * _uniform(half)
    shift = _uniform(half, 2) / x.shape[-1]  # half a pixel, where the image spans [-1, 1]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    maps = torch.cat([turn * scale[:, None, None], shift[:, :, None]], dim=2)
    grid = F.affine_grid(maps, list(x[:half].shape), align_corners=False)
    moved = F.grid_sample(x[:half], grid, padding_mode="border", align_corners=False)
    return torch.cat([moved, x[half:]])


def _uniform(*shape: int) -> Tensor:
    return torch.rand(shape) * 2 - 1
