"""Models of other libraries in and out: pipelines of diffusers as denoisers, denoisers as pipelines of diffusers.

    model = interop.load_diffusers("path/or/owner/name")
    images = orn.sample(guides.ClassifierFree(7.5)(model), 4, text="a red circle")

Needs `pip install 'ornstein[diffusers]'`, which is imported when a model is.
"""

from .codec import LatentCodec
from .denoiser import DiffusersDenoiser
from .export import save_diffusers, to_diffusers, to_pipeline
from .folder import from_diffusers, load_diffusers
from .schedule import Recount, TrainedSteps, pipeline_grid
from .text import TextEncoders

__all__ = [
    "DiffusersDenoiser",
    "LatentCodec",
    "Recount",
    "TextEncoders",
    "TrainedSteps",
    "from_diffusers",
    "load_diffusers",
    "pipeline_grid",
    "save_diffusers",
    "to_diffusers",
    "to_pipeline",
]
