"""Conditioning at inference time: each guide maps a denoiser to a denoiser, and guides nest."""

from .adaptive import AdaptiveGuidance
from .clamp import Clamp
from .classifier_free import ClassifierFree
from .gradient import ClassifierGradient, RewardGradient
from .joint_separate import JointSeparate
from .linear_adaptive import (
    GuidanceTrajectories,
    LinearAdaptiveGuidance,
    fit_linear_guidance,
    linear_guidance_residuals,
    record_guidance,
)
from .policy import GuidancePolicy, PolicySearch, search_policy
from .superposition import Superposition
from .tiled import Tiled

__all__ = [
    "AdaptiveGuidance",
    "Clamp",
    "ClassifierFree",
    "ClassifierGradient",
    "GuidancePolicy",
    "GuidanceTrajectories",
    "JointSeparate",
    "LinearAdaptiveGuidance",
    "PolicySearch",
    "RewardGradient",
    "Superposition",
    "Tiled",
    "fit_linear_guidance",
    "linear_guidance_residuals",
    "record_guidance",
    "search_policy",
]
