"""Conditioning at inference time: each guide maps a denoiser to a denoiser, and guides nest."""

from .adaptive import AdaptiveGuidance
from .clamp import Clamp
from .classifier_free import ClassifierFree
from .gradient import ClassifierGradient, RewardGradient
from .linear_adaptive import (
    GuidanceTrajectories,
    LinearAdaptiveGuidance,
    fit_linear_guidance,
    linear_guidance_residuals,
    record_guidance,
)
from .policy import GuidancePolicy, PolicySearch, search_policy
from .superposition import Superposition

__all__ = [
    "AdaptiveGuidance",
    "Clamp",
    "ClassifierFree",
    "ClassifierGradient",
    "GuidancePolicy",
    "GuidanceTrajectories",
    "LinearAdaptiveGuidance",
    "PolicySearch",
    "RewardGradient",
    "Superposition",
    "fit_linear_guidance",
    "linear_guidance_residuals",
    "record_guidance",
    "search_policy",
]
