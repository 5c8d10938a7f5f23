"""Where a state lives: codecs, and processes that run on what they encode."""

from .aggregate import Aggregate, Planes
from .autoencoder import AutoencoderCodec
from .codec import Codec, LinearCodec, LogCodec
from .encoded import Encoded
from .log_radius import LogRadiusCodec
from .tiling import Tiling, decode_tiled

__all__ = [
    "Aggregate",
    "AutoencoderCodec",
    "Codec",
    "Encoded",
    "LinearCodec",
    "LogCodec",
    "LogRadiusCodec",
    "Planes",
    "Tiling",
    "decode_tiled",
]
