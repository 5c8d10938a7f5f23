"""What a row computes: one update and its numbers per method."""

from ornstein.core import Forward, Leafwise, TimeGrid

from .ancestral import DDIM, DDPM, Ancestral, Stochastic
from .flow import Euler, Heun
from .moves import Hold, Renoise
from .multistep import DPMSolverPP
from .recommend import recommended, sample

__all__ = [
    "DDIM",
    "DDPM",
    "Ancestral",
    "DPMSolverPP",
    "Euler",
    "Forward",
    "Heun",
    "Hold",
    "Leafwise",
    "Renoise",
    "Stochastic",
    "TimeGrid",
    "recommended",
    "sample",
]
