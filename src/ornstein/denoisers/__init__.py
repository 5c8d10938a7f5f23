"""Posteriors: parameterised networks, and exact ones."""

from .ambient import ambient
from .analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from .blockwise import Blockwise
from .cascade import Cascade, code_mixture
from .converted import Converted
from .discrete import TableDenoiser
from .gauged import Gauged, GaugeField, ScoreDenoiser
from .gaussian_fit import GaussianFit
from .interpolant import InterpolantDenoiser, InterpolantMixture
from .joint import JointDenoiser
from .layer_skip import LayerSkip
from .low_rank import LowRankMixture
from .matcher import Matcher
from .multi_task import LIKELIHOODS, AggregatedMixture, MultiTask
from .network import PREDICTIONS, NetworkDenoiser
from .potential import PotentialDenoiser
from .product_gaussian import ProductGaussian
from .prompted import Prompted
from .reconstructor import Reconstructor
from .shifted import ShiftedDenoiser

__all__ = [
    "LIKELIHOODS",
    "PREDICTIONS",
    "AggregatedMixture",
    "Blockwise",
    "Cascade",
    "Converted",
    "EmpiricalDenoiser",
    "GaugeField",
    "Gauged",
    "GaussianDenoiser",
    "GaussianFit",
    "InterpolantDenoiser",
    "InterpolantMixture",
    "JointDenoiser",
    "LayerSkip",
    "LowRankMixture",
    "Matcher",
    "MixtureDenoiser",
    "MultiTask",
    "NetworkDenoiser",
    "PotentialDenoiser",
    "ProductGaussian",
    "Prompted",
    "Reconstructor",
    "ScoreDenoiser",
    "ShiftedDenoiser",
    "TableDenoiser",
    "ambient",
    "code_mixture",
]
