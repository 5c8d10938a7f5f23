"""The 1,797 handwritten digits of scikit-learn: 8x8 scans in 17 grey levels.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository (1998), its test part, as shipped by scikit-learn.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ..core.tree import Tree
from .dataset import Dataset, TensorSplit
from .image import to_bytes
from .partition import digests, held_out_mask

__all__ = ["digits", "digits_joint"]

_HELD_OUT = 297  # leaves 1,500 scans to train on
_CLASSES = tuple("0123456789")


def digits() -> Dataset:
    """8x8 digits (1, 8, 8) in [-1, 1] with field "label"; 1,500 to train on, 297 held out."""
    (images, labels), (held_images, held_labels) = _parts()
    return Dataset(
        "digits",
        TensorSplit(images, {"label": labels}),
        TensorSplit(held_images, {"label": held_labels}),
        shape=(1, 8, 8),
        classes=_CLASSES,
        decode=to_bytes,
    )


def digits_joint() -> Dataset:
    """The same scans with the label in the state: {"image": (1, 8, 8), "label": id in 0..9}."""
    train, held_out = (TensorSplit({"image": x, "label": y}) for x, y in _parts())
    return Dataset(
        "digits-joint",
        train,
        held_out,
        shape={"image": (1, 8, 8), "label": ()},
        classes=_CLASSES,
        categories={"image": None, "label": len(_CLASSES)},
        decode=_decode_joint,
    )


@functools.cache
def _parts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    keys = digests(scan.tobytes() for scan in scans.astype(np.uint8))
    held = torch.from_numpy(held_out_mask(keys, _HELD_OUT / len(scans), labels))
    x = torch.from_numpy(scans).float().reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.from_numpy(labels).long()
    return (x[~held], y[~held]), (x[held], y[held])


def _decode_joint(x: Tree) -> Tree:
    return {"image": to_bytes(x["image"]), "label": x["label"].cpu().numpy()}
