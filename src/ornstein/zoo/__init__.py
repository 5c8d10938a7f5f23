"""Small trained models that ship with the package, each with its card and the recipe that made it.

A model is a folder: config.json, model.safetensors, README.md (for people) and card.json (for programs: the
data it was trained on, the command, and the numbers measured).
"""

from .registry import card, data_of, data_options_of, folder_of, guidance_of, load, models, recipe, recipes

__all__ = [
    "card", "data_of", "data_options_of", "folder_of", "guidance_of", "load", "models", "recipe", "recipes",
]  # fmt: skip
