"""What a model is trained on: targets, weightings, regularisers."""

from .denoising import WEIGHTINGS, Denoising

__all__ = ["WEIGHTINGS", "Denoising"]
