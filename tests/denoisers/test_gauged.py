"""A field added to a denoiser, which else stays what it was."""

from __future__ import annotations

import pytest
import torch

from ornstein import Sampler
from ornstein.denoisers import Gauged, GaugeField
from ornstein.guides import Clamp
from ornstein.processes import VariancePreserving
from ornstein.solvers import DDIM, Ancestral

from ..exact import gaussian


def turned(denoiser, truth, weight=1.0):
    turns = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.0, -2.0, 0.0]], dtype=truth.means.dtype)
    return Gauged(denoiser, GaugeField(truth, turns), weight)


@pytest.mark.parametrize("solver", [DDIM(), Ancestral()], ids=repr)
def test_what_a_guide_inside_does_to_draws_is_done(solver):
    truth = gaussian(VariancePreserving())
    known = torch.tensor([True, False, False])
    model = turned(Clamp(known, torch.full((3,), 0.7))(truth), truth)
    x = Sampler(solver, 6)(model, 4, seed=0)
    assert torch.allclose(x[:, 0], torch.full((4,), 0.7, dtype=x.dtype), rtol=0, atol=0)
    assert (x[:, 1:] - 0.7).abs().min() > 1e-6
