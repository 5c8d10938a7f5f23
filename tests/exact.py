"""Exact problems that many tests share."""

from __future__ import annotations

import torch

from ornstein.denoisers import GaussianDenoiser, JointDenoiser, MixtureDenoiser, TableDenoiser
from ornstein.processes import (
    Absorbing,
    RectifiedFlow,
    UniformNoise,
    VarianceExploding,
    VariancePreserving,
)

AFFINE = {
    "vp-linear": lambda: VariancePreserving(),
    "vp-cosine": lambda: VariancePreserving("cosine"),
    "ve": lambda: VarianceExploding(0.01, 50.0),
    "flow": lambda: RectifiedFlow(),
}
DISCRETE = {"absorbing": Absorbing, "uniform": UniformNoise}

TABLE = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 2, 2], [0, 2, 1], [1, 0, 0]])
TABLE_WEIGHTS = torch.tensor([0.1, 0.3, 0.25, 0.2, 0.15])


def covariance(d: int, seed: int = 0) -> torch.Tensor:
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def gaussian(process, d: int = 3) -> GaussianDenoiser:
    return GaussianDenoiser(torch.linspace(-1.0, 1.5, d, dtype=torch.float64), covariance(d), process)


def mixture(process, labels: bool = True) -> MixtureDenoiser:
    means = torch.tensor([[0.0, 1.0, 2.0], [2.0, -1.0, 0.5], [-1.5, -1.0, 0.0]], dtype=torch.float64)
    covariances = torch.stack([covariance(3, k) * 0.3 for k in range(3)])
    return MixtureDenoiser([0.5, 0.3, 0.2], means, covariances, process, labels=[0, 1, 1] if labels else None)


def table(process) -> TableDenoiser:
    return TableDenoiser(TABLE, TABLE_WEIGHTS, process)


def joint(affine, discrete) -> JointDenoiser:
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    weights = [0.25, 0.5, 0.25]
    return JointDenoiser(
        {
            "image": MixtureDenoiser(weights, means, 0.3, affine),
            "label": TableDenoiser([0, 1, 1], weights, discrete),
        }
    )


class Learned(VariancePreserving):
    """A schedule with a parameter: times are raised to a learned power."""

    def __init__(self):
        super().__init__()
        self.pace = torch.nn.Parameter(torch.tensor(1.0))

    def schedule(self, t):
        return super().schedule(t**self.pace)
