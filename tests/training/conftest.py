"""A small data set and a small network, for trainings of well under a second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import killed


@pytest.fixture
def sequences():
    return killed.sequences()


@pytest.fixture
def train(tmp_path):
    """Train as `killed.train` does, into a folder of its own unless `out` is given."""

    def training(out=None, **options):
        return killed.train(str(out or tmp_path / "run"), **options)

    return training


@pytest.fixture
def denoiser():
    from ornstein import denoisers, networks, processes

    torch.manual_seed(5)
    network = networks.UNet(2, dims=1, width=8, multipliers=(1,), labels=3)
    return denoisers.NetworkDenoiser(network, processes.VariancePreserving(), "noise", shape=(2, 8))
