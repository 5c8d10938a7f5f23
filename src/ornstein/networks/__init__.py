"""Networks: functions of a state, a level and a condition. Nothing here knows of diffusion."""

from .attention import SelfAttention
from .classifier import Classifier
from .embedding import Conditioning, LabelEmbedding, LevelEmbedding, TokenEmbedding, sinusoid
from .joint import JointUNet
from .transformer import MLP, Block, SequenceTransformer
from .unet import ResidualBlock, SpatialAttention, UNet
from .vector import ResidualMLP

__all__ = [
    "MLP",
    "Block",
    "Classifier",
    "Conditioning",
    "JointUNet",
    "LabelEmbedding",
    "LevelEmbedding",
    "ResidualBlock",
    "ResidualMLP",
    "SelfAttention",
    "SequenceTransformer",
    "SpatialAttention",
    "TokenEmbedding",
    "UNet",
    "sinusoid",
]
