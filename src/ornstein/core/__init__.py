"""The one idea: a step is a distribution. Read in order: tree, space, noise, distribution, condition,
process, posterior, denoiser, grid, solver, sampler (the loop), objective.
"""

from .condition import Condition
from .denoiser import Denoiser, Guide, Guided
from .distribution import Categorical, Distribution, Gaussian, Matrix, Product, Pushforward
from .grid import GridRow, TimeGrid
from .noise import Keyed, Noise, Recorded, Shared
from .objective import Losses, Objective
from .posterior import Posterior, ProductPosterior, average, mix
from .process import AffineProcess, Level, Process, StepNumbers
from .sampler import Sampler, Step, simulate
from .solver import Forward, Leafwise, Row, Solver
from .space import EUCLIDEAN, Space
from .spec import Module, build, suggest
from .tree import (
    Time,
    Tree,
    accumulate,
    align,
    batch_size,
    cat,
    combine,
    leaf_time,
    leaves,
    scaled,
    select,
    sum_event,
    tree_map,
)

__all__ = [
    "EUCLIDEAN",
    "AffineProcess",
    "Categorical",
    "Condition",
    "Denoiser",
    "Distribution",
    "Forward",
    "Gaussian",
    "GridRow",
    "Guide",
    "Guided",
    "Keyed",
    "Leafwise",
    "Level",
    "Losses",
    "Matrix",
    "Module",
    "Noise",
    "Objective",
    "Posterior",
    "Process",
    "Product",
    "ProductPosterior",
    "Pushforward",
    "Recorded",
    "Row",
    "Sampler",
    "Shared",
    "Solver",
    "Space",
    "Step",
    "StepNumbers",
    "Time",
    "TimeGrid",
    "Tree",
    "accumulate",
    "align",
    "average",
    "batch_size",
    "build",
    "cat",
    "combine",
    "leaf_time",
    "leaves",
    "mix",
    "scaled",
    "select",
    "simulate",
    "suggest",
    "sum_event",
    "tree_map",
]
