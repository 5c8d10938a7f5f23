"""Data sets: built-in ones, files, folders of images, and those of the Hugging Face hub."""

from __future__ import annotations

from .arrays import array_file
from .batches import Batches
from .dataset import Dataset, Split, TensorSplit
from .digits import digits, digits_joint
from .folder import image_folder
from .hub import hub_dataset
from .load import load
from .words import decode_words, encode_words, words

__all__ = [
    "Batches",
    "Dataset",
    "Split",
    "TensorSplit",
    "array_file",
    "decode_words",
    "digits",
    "digits_joint",
    "encode_words",
    "hub_dataset",
    "image_folder",
    "load",
    "words",
]
