"""Tests compute in float64 unless they say otherwise, on one thread."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)
SINGLE = ("networks", "training", "metrics", "data", "cli", "zoo", "claim", "interop")


@pytest.fixture(autouse=True)
def double_precision(request):
    single = any(f"/{room}/" in str(request.path) for room in SINGLE)
    torch.set_default_dtype(torch.float32 if single else torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
