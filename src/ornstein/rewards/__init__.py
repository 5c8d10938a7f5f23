"""Scores of data, and values of states. A reward is a function r(x_0, condition) -> (B,)."""

from .value import PosteriorValue

__all__ = ["PosteriorValue"]
