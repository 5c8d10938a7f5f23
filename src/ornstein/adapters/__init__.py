"""Small changes of a network: trained beside it, saved without it, scaled per call."""

from .joint_attention import JointAttention
from .low_rank import LowRank, adapt, adapter_state, load_adapter, scaled

__all__ = ["JointAttention", "LowRank", "adapt", "adapter_state", "load_adapter", "scaled"]
