"""Forward laws and general dynamics."""

from .affine import (
    EDM,
    GeometricBrownian,
    RectifiedFlow,
    SubVariancePreserving,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)
from .aggregated import Aggregated, Shifted
from .bridge import BrownianBridge, ConsecutiveBridge
from .discrete import Absorbing, DiscreteProcess, UniformNoise
from .interpolant import Interpolant
from .kinetic import KineticOptimal, data_separation, kinetic_energy
from .laws import GaussianMixture, Points
from .product import ProductProcess
from .reverting import OUVE, MeanReverting
from .sde import SDE
from .tabulated import Tabulated

__all__ = [
    "EDM",
    "OUVE",
    "SDE",
    "Absorbing",
    "Aggregated",
    "BrownianBridge",
    "ConsecutiveBridge",
    "DiscreteProcess",
    "GaussianMixture",
    "GeometricBrownian",
    "Interpolant",
    "KineticOptimal",
    "MeanReverting",
    "Points",
    "ProductProcess",
    "RectifiedFlow",
    "Shifted",
    "SubVariancePreserving",
    "Tabulated",
    "Trigonometric",
    "UniformNoise",
    "VarianceExploding",
    "VariancePreserving",
    "data_separation",
    "kinetic_energy",
]
