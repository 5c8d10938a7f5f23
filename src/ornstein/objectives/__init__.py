"""What a model is trained on: targets, couplings, times, weightings, regularisers."""

from .bridge import BridgeDenoising
from .consistency import Consistency
from .contrastive import Contrastive, info_nce
from .coupling import Coupling, Independent, NearestNoise, OptimalAssignment, Sinkhorn
from .denoising import Denoising, Seen
from .evidence import EvidenceBound
from .fokker_planck import FokkerPlanck
from .heads import Heads
from .interpolant import InterpolantMatching
from .matching import TextImageMatching, symmetric_info_nce
from .multiplicative import MultiplicativeDenoising
from .own_condition import OwnCondition
from .perturbed import InputPerturbation, Perturbed
from .reconstruction import Reconstruction, gradient_distance, perceptual_distance
from .refinement import Refinement
from .regularised import Regularised, Term
from .relative import HighFrequency, PairwiseSimilarity
from .representation import RepresentationAlignment
from .symmetry import Symmetry
from .times import (
    ClampedAbove,
    LogitNormal,
    LogNormalSigma,
    PerBlock,
    SharedTime,
    TimeSampler,
    UniformTime,
)
from .weighting import WEIGHTINGS, weight_of

__all__ = [
    "WEIGHTINGS",
    "BridgeDenoising",
    "ClampedAbove",
    "Consistency",
    "Contrastive",
    "Coupling",
    "Denoising",
    "EvidenceBound",
    "FokkerPlanck",
    "Heads",
    "HighFrequency",
    "Independent",
    "InputPerturbation",
    "InterpolantMatching",
    "LogNormalSigma",
    "LogitNormal",
    "MultiplicativeDenoising",
    "NearestNoise",
    "OptimalAssignment",
    "OwnCondition",
    "PairwiseSimilarity",
    "PerBlock",
    "Perturbed",
    "Reconstruction",
    "Refinement",
    "Regularised",
    "RepresentationAlignment",
    "Seen",
    "SharedTime",
    "Sinkhorn",
    "Symmetry",
    "Term",
    "TextImageMatching",
    "TimeSampler",
    "UniformTime",
    "gradient_distance",
    "info_nce",
    "perceptual_distance",
    "symmetric_info_nce",
    "weight_of",
]
