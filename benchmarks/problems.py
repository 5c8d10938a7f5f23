"""Exact problems with real data behind them: mixtures of Gaussians fitted to data that anyone can have.

A mixture's posterior mean is known exactly, so the error of a sampler is its own and no network's. The solvers of
this library were tuned on other mixtures (of MNIST, Kuzushiji-MNIST, faces, CIFAR-10 patches), not on these.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ornstein import data
from ornstein.denoisers import MixtureDenoiser
from ornstein.processes import VarianceExploding

__all__ = ["HIGH", "LOW", "PROBLEMS", "mixture", "windows"]

HIGH, LOW = 80.0, 0.002  # sigma / alpha where everyone starts, and where those stop who do not go to 0

Rows = tuple[np.ndarray, Any]  # (N, D), and a class for each row or a number of clusters


def digits() -> Rows:
    """8x8 scans in [-1, 1], one Gaussian a class."""
    train = data.load("digits").train
    return train.x_0.flatten(1).double().numpy(), train.fields["label"].numpy()


def fashion() -> Rows:
    """8x8 patches of Fashion-MNIST at 28x28."""
    images = data.load("fashion-mnist", size=28).train.batch(torch.arange(4000))["x_0"]
    return _patches(images.permute(0, 2, 3, 1).double().numpy(), 8, 8000), 10


def photographs() -> Rows:
    """6x6 colour patches of the two photographs that ship with scikit-learn."""
    from sklearn.datasets import load_sample_images

    images = np.stack([image[:427, :640] for image in load_sample_images().images])
    return _patches(images / 127.5 - 1, 6, 8000), 8


def cells() -> Rows:
    """30 measures of cell nuclei (Wisconsin breast cancer), standardised, one Gaussian a diagnosis."""
    from sklearn.datasets import load_breast_cancer

    rows, labels = load_breast_cancer(return_X_y=True)
    return (rows - rows.mean(0)) / rows.std(0), labels


def wine() -> Rows:
    """13 measures of Italian wines, standardised, one Gaussian a cultivar."""
    from sklearn.datasets import load_wine

    rows, labels = load_wine(return_X_y=True)
    return (rows - rows.mean(0)) / rows.std(0), labels


def windows(path: Path) -> Rows:
    """12 hours of all channels of a table of series, such as ETTh1.csv or ETTh1.csv.gz, standardised."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    _, *lines = csv.reader(raw.decode().splitlines())
    table = np.array([[float(v) for v in line[1:]] for line in lines])
    table = (table - table.mean(0)) / table.std(0)
    return np.stack([table[i : i + 12].ravel() for i in range(0, len(table) - 12, 4)]), 8


PROBLEMS: dict[str, Callable[[], Rows]] = {
    "digits": digits,
    "fashion": fashion,
    "photographs": photographs,
    "cells": cells,
    "wine": wine,
}


def mixture(rows: np.ndarray, groups: Any, floor: float = 1e-3) -> MixtureDenoiser:
    """One Gaussian a group, its covariance widened by `floor` of its mean variance so that none is singular."""
    if isinstance(groups, int):
        from sklearn.cluster import KMeans

        groups = KMeans(groups, n_init=2, random_state=0).fit_predict(rows)
    parts = [rows[groups == g] for g in np.unique(groups)]
    covariances = [np.cov(part.T) for part in parts]
    widened = [c + floor * np.trace(c) / len(c) * np.eye(len(c)) for c in covariances]
    means, weights = np.stack([part.mean(0) for part in parts]), [len(part) / len(rows) for part in parts]
    as_tensor: Callable[[Any], Tensor] = lambda v: torch.from_numpy(np.asarray(v))  # noqa: E731
    return MixtureDenoiser(
        weights, as_tensor(means), as_tensor(np.stack(widened)), VarianceExploding(LOW, HIGH)
    )


def _patches(images: np.ndarray, size: int, count: int) -> np.ndarray:
    """Squares at random places, flattened."""
    generator = np.random.default_rng(0)
    n, height, width, _ = images.shape
    places = (generator.integers(limit, size=count) for limit in (n, height - size + 1, width - size + 1))
    return np.stack([images[i, a : a + size, b : b + size].ravel() for i, a, b in zip(*places, strict=True)])
