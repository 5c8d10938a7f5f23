"""Conditioning at inference time: each guide maps a denoiser to a denoiser, and guides nest."""

from .clamp import Clamp
from .classifier_free import ClassifierFree
from .gradient import ClassifierGradient, RewardGradient
from .superposition import Superposition

__all__ = ["Clamp", "ClassifierFree", "ClassifierGradient", "RewardGradient", "Superposition"]
