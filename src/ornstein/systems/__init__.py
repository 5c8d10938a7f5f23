"""Whole systems, one file each: leaves, which nothing else imports."""

from . import frame_interpolation, super_resolution

__all__ = ["frame_interpolation", "super_resolution"]
