"""How good samples are, each number with its interval."""

from __future__ import annotations

from .accuracy import class_accuracy, classifier_features, predicted_classes
from .classifier import load_classifier, save_classifier, train_classifier
from .distances import energy_distance, frechet_distance, sliced_wasserstein
from .estimate import Estimate, bootstrap, wilson
from .neighbours import MemorisationReport, nearest_training_distance
from .restoration import feature_distance, psnr, ssim
from .strings import WordScore, word_score
from .subspace import subspace_distance

__all__ = [
    "Estimate",
    "MemorisationReport",
    "WordScore",
    "bootstrap",
    "class_accuracy",
    "classifier_features",
    "energy_distance",
    "feature_distance",
    "frechet_distance",
    "load_classifier",
    "nearest_training_distance",
    "predicted_classes",
    "psnr",
    "save_classifier",
    "sliced_wasserstein",
    "ssim",
    "subspace_distance",
    "train_classifier",
    "wilson",
    "word_score",
]
