"""Search and fine-tuning towards rewards."""

from .boundary import Boundary, search_boundary, shared_start
from .search import BestOf

__all__ = ["BestOf", "Boundary", "search_boundary", "shared_start"]
