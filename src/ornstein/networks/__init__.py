"""Networks: functions of a state, a level and a condition. Nothing here knows of diffusion."""

from .attention import CrossAttention, SelfAttention
from .autoencoder import Autoencoder
from .block import MLP, Block, JointBlock
from .blockwise import BlockwiseTransformer, skip_causal
from .cache import KVCache
from .classifier import Classifier
from .code_autoencoder import CodeAutoencoder
from .concatenated import Concatenated
from .embedded import Embedded
from .embedding import Conditioning, LabelEmbedding, LevelEmbedding, TextTokens, TokenEmbedding, sinusoid
from .encoder import Encoder
from .experts import MoE, SwiGLU
from .feature_conditioning import FeatureConditioned
from .joint import JointUNet
from .multi_head import MapHead, MultiHead, PooledHead
from .paired import Paired
from .patches import Blocks
from .potential import Potential
from .shift_branch import ShiftBranch
from .taps import inner_network, tap_names, tapped
from .text import TextImage, TextTransformer
from .transformer import SequenceTransformer, Transformer
from .unet import ResidualBlock, SpatialAttention, UNet
from .vector import ResidualMLP

__all__ = [
    "MLP",
    "Autoencoder",
    "Block",
    "Blocks",
    "BlockwiseTransformer",
    "Classifier",
    "CodeAutoencoder",
    "Concatenated",
    "Conditioning",
    "CrossAttention",
    "Embedded",
    "Encoder",
    "FeatureConditioned",
    "JointBlock",
    "JointUNet",
    "KVCache",
    "LabelEmbedding",
    "LevelEmbedding",
    "MapHead",
    "MoE",
    "MultiHead",
    "Paired",
    "PooledHead",
    "Potential",
    "ResidualBlock",
    "ResidualMLP",
    "SelfAttention",
    "SequenceTransformer",
    "ShiftBranch",
    "SpatialAttention",
    "SwiGLU",
    "TextImage",
    "TextTokens",
    "TextTransformer",
    "TokenEmbedding",
    "Transformer",
    "UNet",
    "inner_network",
    "sinusoid",
    "skip_causal",
    "tap_names",
    "tapped",
]
