"""Posteriors: parameterised networks, and exact ones."""

from .ambient import ambient
from .analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from .converted import Converted
from .discrete import TableDenoiser
from .gaussian_fit import GaussianFit
from .interpolant import InterpolantDenoiser, InterpolantMixture
from .joint import JointDenoiser
from .layer_skip import LayerSkip
from .network import PREDICTIONS, NetworkDenoiser
from .potential import PotentialDenoiser
from .reconstructor import Reconstructor

__all__ = [
    "PREDICTIONS",
    "Converted",
    "EmpiricalDenoiser",
    "GaussianDenoiser",
    "GaussianFit",
    "InterpolantDenoiser",
    "InterpolantMixture",
    "JointDenoiser",
    "LayerSkip",
    "MixtureDenoiser",
    "NetworkDenoiser",
    "PotentialDenoiser",
    "Reconstructor",
    "TableDenoiser",
    "ambient",
]
