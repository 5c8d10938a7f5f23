"""How near restored images are to the true ones, image by image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.tree import sum_event
from ..networks.classifier import Classifier

__all__ = ["feature_distance", "psnr", "ssim"]

RANGE = 2.0  # of pixels in [-1, 1]


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(RANGE^2 / mean squared error) in decibels, (B,); more is better.

    Equal images have 126.

    Args:
        images: (B, ...) in [-1, 1].
        truth: the same shape.

    Raises:
        ValueError: two shapes.
    """
    _check(images, truth)
    error = sum_event((images - truth) ** 2) / truth[0].numel()
    return 10 * (RANGE**2 / error.clamp(min=1e-12)).log10()


def ssim(images: Tensor, truth: Tensor, window: int = 7, sigma: float = 1.5) -> Tensor:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004), (B,), at most 1; more is better.

        (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2))

    with means, variances and the covariance under a Gaussian window, c_1 = (0.01 RANGE)^2, c_2 = (0.03 RANGE)^2,
    averaged over all windows within the image and over channels.

    Args:
        images: (B, C, H, W) in [-1, 1].
        truth: the same shape.
        window: side of the window in pixels; 11 in the paper, smaller here since images are.
        sigma: width of the Gaussian in pixels.

    Raises:
        ValueError: two shapes, or images smaller than the window.
    """
    _check(images, truth)
    if images.ndim != 4 or min(images.shape[2:]) < window:
        raise ValueError(
            f"ssim: expected images (B, C, H, W) of {window} pixels or more, got {tuple(images.shape)}"
        )
    x, y = (v.flatten(0, 1).unsqueeze(1) for v in (images, truth))
    line = torch.exp(-((torch.arange(window).to(x) - (window - 1) / 2) ** 2) / (2 * sigma**2))
    weights = torch.outer(line, line)[None, None] / line.sum() ** 2
    m_x, m_y, m_xx, m_yy, m_xy = (F.conv2d(v, weights) for v in (x, y, x * x, y * y, x * y))
    c_1, c_2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    likeness = (2 * m_x * m_y + c_1) * (2 * (m_xy - m_x * m_y) + c_2)
    likeness = likeness / ((m_x**2 + m_y**2 + c_1) * (m_xx - m_x**2 + m_yy - m_y**2 + c_2))
    return likeness.flatten(1).mean(1).reshape(len(images), -1).mean(1)


def feature_distance(classifier: Classifier, images: Tensor, truth: Tensor) -> Tensor:
    """Distance of the features of a classifier, over the root of their number, (B,); less is better.

    It stands in for LPIPS (1801.03924), whose weights are not at hand: what it sees is what tells these classes apart.

    Args:
        classifier: trained on images like these, such as `load_classifier("digits")`.
        images: (B, C, H, W) in [-1, 1].
        truth: the same shape.

    Raises:
        ValueError: two shapes.
    """
    _check(images, truth)
    with torch.no_grad():
        ours, theirs = (classifier.features(v.float()) for v in (images, truth))
    return sum_event((ours - theirs) ** 2).sqrt() / math.sqrt(ours.shape[1])


def _check(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape:
        raise ValueError(
            f"images and truth: expected one shape, got {tuple(images.shape)}, {tuple(truth.shape)}"
        )
