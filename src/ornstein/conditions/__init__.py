"""What conditions go through before a network reads them: corruption of the data's, perturbation of
embeddings, codes shown by stages, embeddings on a grid.
"""

from .corrupt import CorruptLabels, ShuffleCaptions, corrupted
from .perturb import PerturbEmbedding
from .spherical import slerp, slerp_grid
from .time_masked import MODES, TimeMasked

__all__ = [
    "MODES",
    "CorruptLabels",
    "PerturbEmbedding",
    "ShuffleCaptions",
    "TimeMasked",
    "corrupted",
    "slerp",
    "slerp_grid",
]
