"""What a model is trained on: targets, weightings, regularisers."""

from .bridge import BridgeDenoising
from .denoising import WEIGHTINGS, Denoising
from .fokker_planck import FokkerPlanck, Regularised
from .interpolant import InterpolantMatching
from .multiplicative import MultiplicativeDenoising
from .reconstruction import Reconstruction, perceptual_distance

__all__ = [
    "WEIGHTINGS",
    "BridgeDenoising",
    "Denoising",
    "FokkerPlanck",
    "InterpolantMatching",
    "MultiplicativeDenoising",
    "Reconstruction",
    "Regularised",
    "perceptual_distance",
]
