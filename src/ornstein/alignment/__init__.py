"""Search and fine-tuning towards rewards."""

from .search import BestOf

__all__ = ["BestOf"]
