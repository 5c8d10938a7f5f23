"""Whole systems, one file each: leaves, which nothing else imports."""

from . import frame_interpolation, latent_tasks, super_resolution

__all__ = ["frame_interpolation", "latent_tasks", "super_resolution"]
