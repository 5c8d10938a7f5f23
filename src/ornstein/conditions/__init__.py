"""What conditions go through before a network reads them: words as tokens, corruption of the data's, perturbation of
embeddings, codes shown by stages, embeddings on a grid.
"""

from .corrupt import CorruptLabels, ShuffleCaptions, corrupted
from .minilm import MiniLM
from .perturb import PerturbEmbedding
from .spherical import slerp, slerp_grid
from .text import Spans, TextEncoder, Tokeniser
from .time_masked import MODES, TimeMasked
from .whitened import Whitened

__all__ = [
    "MODES",
    "CorruptLabels",
    "MiniLM",
    "PerturbEmbedding",
    "ShuffleCaptions",
    "Spans",
    "TextEncoder",
    "TimeMasked",
    "Tokeniser",
    "Whitened",
    "corrupted",
    "slerp",
    "slerp_grid",
]
