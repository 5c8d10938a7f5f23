"""Data sets: built-in ones, files, folders of images, and those of the Hugging Face hub."""

from __future__ import annotations

from .arrays import array_file
from .batches import Batches
from .corruptions import CORRUPTIONS, Corruption
from .dataset import Dataset, Split, TensorSplit
from .degraded import LowResolution, Masked, Noisy, degraded, enlarged, super_resolution
from .digits import digits, digits_joint
from .fashion import fashion_mnist
from .folder import image_folder
from .frames import frames
from .hub import hub_dataset
from .land import LAND, LandMaps, land, land_maps, land_patches
from .load import load
from .words import decode_words, encode_words, words

__all__ = [
    "CORRUPTIONS",
    "LAND",
    "Batches",
    "Corruption",
    "Dataset",
    "LandMaps",
    "LowResolution",
    "Masked",
    "Noisy",
    "Split",
    "TensorSplit",
    "array_file",
    "decode_words",
    "degraded",
    "digits",
    "digits_joint",
    "encode_words",
    "enlarged",
    "fashion_mnist",
    "frames",
    "hub_dataset",
    "image_folder",
    "land",
    "land_maps",
    "land_patches",
    "load",
    "super_resolution",
    "words",
]
