"""Networks: functions of a state, a level and a condition. Nothing here knows of diffusion."""

from .attention import SelfAttention
from .autoencoder import Autoencoder
from .classifier import Classifier
from .concatenated import Concatenated
from .embedding import Conditioning, LabelEmbedding, LevelEmbedding, TokenEmbedding, sinusoid
from .joint import JointUNet
from .paired import Paired
from .potential import Potential
from .transformer import MLP, Block, SequenceTransformer
from .unet import ResidualBlock, SpatialAttention, UNet
from .vector import ResidualMLP

__all__ = [
    "MLP",
    "Autoencoder",
    "Block",
    "Classifier",
    "Concatenated",
    "Conditioning",
    "JointUNet",
    "LabelEmbedding",
    "LevelEmbedding",
    "Paired",
    "Potential",
    "ResidualBlock",
    "ResidualMLP",
    "SelfAttention",
    "SequenceTransformer",
    "SpatialAttention",
    "TokenEmbedding",
    "UNet",
    "sinusoid",
]
