"""How two sets of features are alike, and how one set is spread."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["alignment", "cka", "uniformity"]


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment,

        |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)        (columns centred),

    in [0, 1]; 1 for features that differ by a rotation and a factor (Kornblith et al. 2019, arXiv 1905.00414).

    Args:
        x: (N, F), of the same N samples as y.
        y: (N, G).

    Raises:
        ValueError: different N, or one sample, of which nothing is left when centred.
    """
    if len(x) != len(y):
        raise ValueError(f"y: expected the same {len(x)} samples as x, got {len(y)}")
    _several(x)
    a, b = (_centred(v) for v in (x, y))
    if a.shape[1] + b.shape[1] > 2 * len(a):  # the kernels are smaller than the covariances
        kernels = a @ a.T, b @ b.T
        return float((kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm()))
    return float((b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))


def _several(x: Tensor) -> None:
    if len(x) < 2:
        raise ValueError(f"x: expected at least 2 samples (N, F), got {tuple(x.shape)}")


def _centred(x: Tensor) -> Tensor:
    rows = x.flatten(1).double()
    return rows - rows.mean(0)


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """E |f - f'|^2 between unit features (N, F) of two views of the same samples; 0 where views do not matter.

    Wang and Isola, "Understanding Contrastive Representation Learning", 2020 (arXiv 2005.10242).
    """
    return (torch.nn.functional.normalize(x) - torch.nn.functional.normalize(y)).square().sum(1).mean()


def uniformity(x: Tensor, sharpness: float = 2.0) -> Tensor:
    """log E exp(-2 |f - f'|^2) over pairs of different samples, f unit features (N, F): at most 0, lower where they
    spread over the sphere (arXiv 2005.10242).

    Raises:
        ValueError: one sample, which makes no pair.
    """
    _several(x)
    return torch.pdist(torch.nn.functional.normalize(x)).square().mul(-sharpness).exp().mean().log()
