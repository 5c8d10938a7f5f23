"""Kinetic-optimal paths (Shaul et al. 2023, 2306.06626): the schedule whose marginals move least.

With s = alpha / sigma and the data centred and scaled to E|x_0|^2 = d, the data enter through one function,

    separation(s) = E|E[x_0 | x_t]|^2 / d,   in [0, 1], rising,

and the kinetic energy E|v_t(x_t)|^2 / d of the marginal velocity is

    alpha'^2 + sigma'^2 - (1 - separation(s)) sigma^2 s'^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ornstein.core import AffineProcess

from .tabulated import Tabulated

__all__ = ["KineticOptimal", "data_separation", "kinetic_energy"]

ANGLES = 4001  # over which the metric is integrated
NODES = 513  # of the schedule's table


def data_separation(x: Tensor, levels: Sequence[float], draws: int = 1024, seed: int = 0) -> list[float]:
    """separation(s) of the points `x`, by Monte Carlo over x_t = s x_0 + z and the exact posterior mean.

    x is centred and scaled to unit mean square first. The points are the law itself, not a sample of one.

    Args:
        x: (N, ...).
        levels: values of s = alpha / sigma, > 0.
        draws: states per level; the same x_0 and z for all levels.
        seed: of the draws.

    Returns:
        One number a level, made monotone (running maximum) and held within [0, 1].
    """
    points = x.flatten(1).double()
    points = points - points.mean(0)
    points = points / points.square().mean().sqrt()
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(len(points), (draws,), generator=generator)
    z = torch.randn(draws, points.shape[1], generator=generator, dtype=torch.float64)
    found = [_posterior_power(points, which, z.to(points.device), float(s)) for s in levels]
    return np.clip(np.maximum.accumulate(found), 0.0, 1.0).tolist()


def _posterior_power(points: Tensor, which: Tensor, z: Tensor, s: float) -> float:
    """E|E[x_0 | x_t]|^2 / d = E<x_0, E[x_0 | x_t]> / E|x_0|^2, both over the draws: so it is 1 where D = x_0.

    Divided by d it would miss 1 by the draws' luck, and 1 - separation counts (1 + s^2)-fold.
    """
    x_t = s * points[which] + z
    weights = (s * (x_t @ points.T) - 0.5 * s**2 * points.square().sum(1)).softmax(1)
    return float((points[which] * (weights @ points)).sum() / points[which].square().sum())


def kinetic_energy(process: AffineProcess, levels: Sequence[float], separation: Sequence[float]) -> float:
    """int_0^1 E|v_t(x_t)|^2 dt / d of centred data with unit mean square, by Gauss-Legendre quadrature.

    Args:
        process: without an anchor.
        levels: s = alpha / sigma, rising.
        separation: at the levels.
    """
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = torch.from_numpy(0.5 * (nodes + 1))
    level, slope = process.at(t), process.slope(t)
    s = level.alpha / level.sigma
    turn = (slope.alpha * level.sigma - level.alpha * slope.sigma) / level.sigma  # sigma s'
    lost = torch.from_numpy(_doubt_at(s.detach().numpy(), levels, separation)) / (1 + s**2)
    energy = slope.alpha**2 + slope.sigma**2 - lost * turn**2
    return float(0.5 * (torch.from_numpy(weights) * energy).sum())


def _doubt_at(s: np.ndarray, levels: Sequence[float], separation: Sequence[float]) -> np.ndarray:
    """(1 - separation)(1 + s^2): the error of E[x_0 | x_t] over that of the best linear guess, so at most 1.

    It is 1 for Gaussian data and 0 where the posterior is sharp; between the levels it is linear in log s, and
    constant beyond them.
    """
    x, y = np.asarray(levels, dtype=float), np.asarray(separation, dtype=float)
    if len(x) != len(y) or len(x) < 2 or not bool((np.diff(x, prepend=0.0) > 0).all()):
        raise ValueError(f"levels: expected rising numbers > 0, one a separation; got {len(x)} and {len(y)}")
    if not bool(((y >= 0) & (y <= 1) & (np.diff(y, prepend=0.0) >= 0)).all()):
        raise ValueError("separation: expected numbers in [0, 1] that never fall")
    doubt = ((1 - y) * (1 + x**2)).clip(0.0, 1.0)
    return np.asarray(np.interp(np.log(s.clip(x[0], x[-1])), np.log(x), doubt))


class KineticOptimal(Tabulated):
    """The path of least kinetic energy for data with this separation function.

    In polar form alpha = r sin(theta), sigma = r cos(theta), the energy is r'^2 + r^2 theta'^2 G(theta)^2 with
    G^2 = separation (1 + s^2) - s^2, s = tan(theta). With phi = int_0^theta G that is the flat metric in (r, phi), so
    the best path is the chord from angle 0 (noise) to `angle` = phi(pi/2) (data) at constant speed, and its
    energy 4 sin^2(angle / 2). separation = 1 gives the straight lines of `RectifiedFlow`, Gaussian data
    (separation = s^2 / (1 + s^2)) those of `Trigonometric`.

    Args:
        levels: s = alpha / sigma at which the separation is known, rising.
        separation: there, as `data_separation` gives it.
        scale: root-mean-square of the data's entries; sigma ends at it.
        least: floor of G, in (0, 1). G vanishes at the noise end of all data (as s there), where the exact path sets
            off at infinite speed; no angle turns faster than 1 / least times its share of the chord. The default costs
            half a hundredth of the energy on digits.

    Raises:
        ValueError: numbers that do not keep to the above.
    """

    def __init__(
        self,
        levels: Sequence[float],
        separation: Sequence[float],
        scale: float = 1.0,
        least: float = 0.2,
    ) -> None:
        if not 0 < least < 1:
            raise ValueError(f"least: expected between 0 and 1, got {least}")
        theta = np.linspace(0, math.pi / 2, ANGLES)
        doubt = _doubt_at(np.tan(theta), levels, separation)
        metric = np.sqrt((1 - doubt).clip(least**2))  # G
        phi = np.concatenate([[0.0], np.cumsum(0.5 * (metric[1:] + metric[:-1]) * np.diff(theta))])
        time, alpha, sigma = _chord(theta, phi)
        super().__init__(alpha.tolist(), (scale * sigma).tolist(), time.tolist())
        self.angle, self.scale = float(phi[-1]), float(scale)

    @property
    def energy(self) -> float:
        """4 sin^2(angle / 2): the kinetic energy along this path, were G never below its floor; at most so."""
        return 4 * math.sin(0.5 * self.angle) ** 2


def _chord(theta: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times rising from 0 (data) to 1 (noise), with alpha and sigma, at angles spread over the chord and over theta."""
    end = phi[-1]
    chord = np.linspace(0, 1, NODES)
    even = np.interp(_angle(chord, end), phi, theta)
    angles = np.unique(np.concatenate([even, theta[:: ANGLES // NODES], theta[-1:]]))
    at = np.interp(angles, theta, phi)
    radius = math.cos(0.5 * end) / np.cos(at - 0.5 * end)
    share = np.sin(at) * radius / math.sin(end)  # of the chord, from noise to data
    keep = np.concatenate([[True], np.diff(share) > 1e-9])
    keep[-2:] = [share[-2] < 1 - 1e-9, True]
    alpha, sigma = radius * np.sin(angles), radius * np.cos(angles)
    share[0], share[-1], alpha[0], sigma[-1] = 0.0, 1.0, 0.0, 0.0
    return 1 - share[keep][::-1], alpha[keep][::-1], sigma[keep][::-1]


def _angle(share: np.ndarray, end: float) -> np.ndarray:
    """Polar angle of the point at `share` of the chord."""
    return np.arctan2(share * math.sin(end), 1 - share + share * math.cos(end))
