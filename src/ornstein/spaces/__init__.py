"""Where a state lives: codecs, and processes that run on what they encode."""

from .autoencoder import AutoencoderCodec
from .codec import Codec, LinearCodec, LogCodec
from .encoded import Encoded

__all__ = ["AutoencoderCodec", "Codec", "Encoded", "LinearCodec", "LogCodec"]
