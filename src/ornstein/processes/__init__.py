"""Forward laws and general dynamics."""

from .affine import RectifiedFlow, VarianceExploding, VariancePreserving
from .discrete import Absorbing, DiscreteProcess, UniformNoise
from .product import ProductProcess
from .sde import SDE
from .tabulated import Tabulated

__all__ = [
    "SDE",
    "Absorbing",
    "DiscreteProcess",
    "ProductProcess",
    "RectifiedFlow",
    "Tabulated",
    "UniformNoise",
    "VarianceExploding",
    "VariancePreserving",
]
