"""The logarithm of a radius as a codec."""

from __future__ import annotations

import pytest
import torch

from ornstein.diagnostics import hill_index
from ornstein.spaces import LogRadiusCodec


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3)])
def test_there_and_back(shape):
    codec = LogRadiusCodec(1.7)
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 8, 6).reshape(
        -1, *[1] * len(shape)
    )
    assert torch.allclose(codec.decode(codec.encode(x)), x, rtol=1e-8)
    assert torch.equal(codec.encode(torch.zeros(1, *shape)), torch.zeros(1, *shape))


def test_the_volume_is_that_of_the_jacobian():
    codec = LogRadiusCodec(0.6)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 3
    full = torch.func.vmap(torch.func.jacrev(lambda v: codec.encode(v[None])[0]))(x)
    assert torch.allclose(codec.log_abs_det(x), torch.linalg.slogdet(full)[1], rtol=1e-10)
    assert bool(torch.isfinite(codec.log_abs_det(torch.zeros(1, 3))).all())


def test_a_heavy_tail_becomes_a_light_one():
    n, nu = 400_000, 3.0
    radius = ((torch.arange(n) + 0.5) / n) ** (-1 / nu)
    coded = LogRadiusCodec().encode(radius[:, None])[:, 0]
    assert hill_index(radius) == pytest.approx(nu, rel=0.01)
    assert hill_index(coded) > 2.5 * nu
    gap = coded.quantile(0.9999) - coded.quantile(0.999)  # exponential of rate nu
    assert float(gap) == pytest.approx(torch.tensor(10.0).log().item() / nu, rel=0.01)


def test_a_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale"):
        LogRadiusCodec(0.0)
