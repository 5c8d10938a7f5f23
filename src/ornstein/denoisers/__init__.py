"""Posteriors: parameterised networks, and exact ones."""

from .analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from .discrete import TableDenoiser
from .joint import JointDenoiser
from .network import PREDICTIONS, NetworkDenoiser

__all__ = [
    "PREDICTIONS",
    "EmpiricalDenoiser",
    "GaussianDenoiser",
    "JointDenoiser",
    "MixtureDenoiser",
    "NetworkDenoiser",
    "TableDenoiser",
]
