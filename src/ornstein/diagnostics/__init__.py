"""Measurements on a denoiser or a process: what a model knows."""

from .dimension import intrinsic_dimension
from .elbo import elbo
from .features import feature_names, features, pool, pooled_features
from .field import asymmetry, circulation, field_divergence, jacobian, jacobian_svd
from .integrate import reference
from .likelihood import log_likelihood
from .linearised import Linearised, Singular, leading
from .lipschitz import NoiseMap, lipschitz, product_bound
from .path import Path, trajectory
from .probes import Probe, ProbeGrid, head_probe, linear_probe, probe_grid
from .projection import Fourier, Helmholtz, Polynomial, helmholtz
from .quantised import Quantised
from .record import Likelihood
from .residual import fokker_planck_residual
from .routing import mutual_information, routing
from .score import Measured, explained_variance, kinetic_energy
from .similarity import alignment, cka, uniformity
from .tails import concentration_excess, hill_index, subgaussian_scale
from .universality import Universality, gaussian_twin, least_squares, universality

__all__ = [
    "Fourier",
    "Helmholtz",
    "Likelihood",
    "Linearised",
    "Measured",
    "NoiseMap",
    "Path",
    "Polynomial",
    "Probe",
    "ProbeGrid",
    "Quantised",
    "Singular",
    "Universality",
    "alignment",
    "asymmetry",
    "circulation",
    "cka",
    "concentration_excess",
    "elbo",
    "explained_variance",
    "feature_names",
    "features",
    "field_divergence",
    "fokker_planck_residual",
    "gaussian_twin",
    "head_probe",
    "helmholtz",
    "hill_index",
    "intrinsic_dimension",
    "jacobian",
    "jacobian_svd",
    "kinetic_energy",
    "leading",
    "least_squares",
    "linear_probe",
    "lipschitz",
    "log_likelihood",
    "mutual_information",
    "pool",
    "pooled_features",
    "probe_grid",
    "product_bound",
    "reference",
    "routing",
    "subgaussian_scale",
    "trajectory",
    "uniformity",
    "universality",
]
