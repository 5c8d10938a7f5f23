"""What a row computes: one update and its numbers per method."""

from ornstein.core import Forward, Leafwise, TimeGrid

from .adams import SASolver, SDEDPMSolverPP
from .ancestral import DDIM, DDPM, Ancestral, Stochastic
from .blockwise import OneBlock, block_by_block
from .evodiff import EVODiff
from .evolution import Both, Depths, EvolutionarySearch, TimeSteps
from .flow import Euler, Heun, RungeKutta4
from .gaussian import GaussianExponential, Teleport
from .grids import descended, path_costs, quadratic, shortest
from .interpolant import FreeDiffusion
from .langevin import Langevin, PreconditionedLangevin, predictor_corrector
from .lml import LML
from .moves import Churn, Hold, Renoise, churned
from .mr import MRSampler
from .multistep import DEIS, DPMSolverPP, ExponentialAdams, UniPC
from .recommend import best, recommended, sample, sampler_for
from .singlestep import DPMSolver
from .stochastic import EulerMaruyama, ReverseDiffusion

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "LML",
    "Ancestral",
    "Both",
    "Churn",
    "DPMSolver",
    "DPMSolverPP",
    "Depths",
    "EVODiff",
    "Euler",
    "EulerMaruyama",
    "EvolutionarySearch",
    "ExponentialAdams",
    "Forward",
    "FreeDiffusion",
    "GaussianExponential",
    "Heun",
    "Hold",
    "Langevin",
    "Leafwise",
    "MRSampler",
    "OneBlock",
    "PreconditionedLangevin",
    "Renoise",
    "ReverseDiffusion",
    "RungeKutta4",
    "SASolver",
    "SDEDPMSolverPP",
    "Stochastic",
    "Teleport",
    "TimeGrid",
    "TimeSteps",
    "UniPC",
    "best",
    "block_by_block",
    "churned",
    "descended",
    "path_costs",
    "predictor_corrector",
    "quadratic",
    "recommended",
    "sample",
    "sampler_for",
    "shortest",
]
