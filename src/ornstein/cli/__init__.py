"""The command line: `ornstein train`, `sample`, `evaluate`, `info`, `demo`, `papers`, `reproduce`."""

from . import card, demo, evaluate, evidence, info, sample, train  # noqa: F401  commands register themselves
from .application import app

__all__ = ["app"]
