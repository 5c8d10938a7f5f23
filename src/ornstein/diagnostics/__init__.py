"""Measurements on a denoiser or a process: what a model knows."""

from .elbo import elbo
from .integrate import reference
from .likelihood import log_likelihood
from .path import Path, trajectory
from .quantised import Quantised
from .record import Likelihood
from .residual import fokker_planck_residual
from .score import Measured, explained_variance, kinetic_energy

__all__ = [
    "Likelihood",
    "Measured",
    "Path",
    "Quantised",
    "elbo",
    "explained_variance",
    "fokker_planck_residual",
    "kinetic_energy",
    "log_likelihood",
    "reference",
    "trajectory",
]
