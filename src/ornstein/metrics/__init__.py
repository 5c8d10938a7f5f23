"""How good samples are, each number with its interval."""

from __future__ import annotations

from .accuracy import class_accuracy, classifier_features, predicted_classes
from .classifier import load_classifier, save_classifier, train_classifier
from .distances import energy_distance, frechet_distance, sliced_wasserstein
from .estimate import Estimate, bootstrap, wilson
from .matching import retrieval, told_apart
from .neighbours import MemorisationReport, nearest_training_distance
from .restoration import feature_distance, psnr, ssim
from .scenes import SceneScore, names_unseen, permuted_score, scene_score
from .scenes_bias import BiasReport, attribute_entropy, attribute_shift, bias_report
from .scenes_edits import EditScore, edit_score, edited_mask, hypervolume, permuted_edits
from .scenes_layout import box_iou, layout_iou, permuted_layout, position_recall
from .scenes_reading import ReadingError, reading_error
from .scenes_variety import IdentityScore, diversity, identity_score
from .strings import WordScore, word_score
from .subspace import subspace_distance

__all__ = [
    "BiasReport",
    "EditScore",
    "Estimate",
    "IdentityScore",
    "MemorisationReport",
    "ReadingError",
    "SceneScore",
    "WordScore",
    "attribute_entropy",
    "attribute_shift",
    "bias_report",
    "bootstrap",
    "box_iou",
    "class_accuracy",
    "classifier_features",
    "diversity",
    "edit_score",
    "edited_mask",
    "energy_distance",
    "feature_distance",
    "frechet_distance",
    "hypervolume",
    "identity_score",
    "layout_iou",
    "load_classifier",
    "names_unseen",
    "nearest_training_distance",
    "permuted_edits",
    "permuted_layout",
    "permuted_score",
    "position_recall",
    "predicted_classes",
    "psnr",
    "reading_error",
    "retrieval",
    "save_classifier",
    "scene_score",
    "sliced_wasserstein",
    "ssim",
    "subspace_distance",
    "told_apart",
    "train_classifier",
    "wilson",
    "word_score",
]
