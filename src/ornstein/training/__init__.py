"""Training: fit, averages of weights, checkpoints, run folders."""

from .average import Average
from .checkpoints import Checkpoints
from .codec import encoded, fit_codec
from .fit import fit
from .run import Run

__all__ = ["Average", "Checkpoints", "Run", "encoded", "fit", "fit_codec"]
