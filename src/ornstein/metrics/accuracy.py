"""Do conditional samples show what was asked for?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..networks.classifier import Classifier
from .estimate import Estimate, wilson

__all__ = ["class_accuracy", "classifier_features", "predicted_classes"]

_BATCH = 512


def class_accuracy(classifier: nn.Module, x: Tensor, labels: Tensor) -> Estimate:
    """Share of samples that a classifier puts in the class asked for, with Wilson's interval.

    Args:
        classifier: from images (N, C, H, W) to logits (N, K).
        x: samples (N, C, H, W) in [-1, 1].
        labels: the classes asked for (N,).

    Raises:
        ValueError: not one label a sample.
    """
    if labels.shape != (len(x),):
        raise ValueError(f"labels: expected shape ({len(x)},), got {tuple(labels.shape)}")
    hits = predicted_classes(classifier, x) == labels.to("cpu")
    return wilson(int(hits.sum()), len(x))


def predicted_classes(classifier: nn.Module, x: Tensor) -> Tensor:
    """The class (N,) with the largest logit for each sample (N, C, H, W)."""
    return _in_batches(classifier, classifier, x).argmax(1)


def classifier_features(classifier: Classifier, x: Tensor) -> Tensor:
    """Features (N, D) of a classifier's last layer but one, e.g. for `frechet_distance`."""
    return _in_batches(classifier, classifier.features, x)


def _in_batches(classifier: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function of all samples in eval mode, on the classifier's device, back on the CPU."""
    if not len(x):
        raise ValueError("x: expected at least one sample, got none")
    device = next(classifier.parameters()).device
    training = classifier.training
    classifier.eval()
    try:
        with torch.no_grad():
            return torch.cat([function(part.to(device)).cpu() for part in x.split(_BATCH)])
    finally:
        classifier.train(training)
