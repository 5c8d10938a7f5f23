"""Multiplicative noise is additive noise in the logarithm: the exact checks of 2510.02730's family file.

(a) is in test_presets.py, (e) and (f) are in tests/spaces/test_codecs.py.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ornstein.core import Keyed, Sampler, simulate
from ornstein.denoisers import GaussianDenoiser, ambient
from ornstein.processes import GeometricBrownian, VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Renoise
from ornstein.spaces import Encoded, LogCodec

GROWTH, VOLATILITY = 0.4, 1.5
PROCESS = Encoded(GeometricBrownian(VOLATILITY, GROWTH), LogCodec())
MEAN, VARIANCE = torch.tensor([0.3, -0.8], dtype=torch.float64), 0.25


def truth() -> GaussianDenoiser:
    """Of log-normal data."""
    return GaussianDenoiser(MEAN, VARIANCE, PROCESS)


def test_targets_in_x_and_in_the_logarithm_differ_by_one():
    """(b): x grad log p(x_t | x_0) = -1 - (log x_t - log x_0 - (mu - v^2 / 2) t) / (v^2 t), so with a network's output
    shifted by 1 the two losses are the same number.
    """
    x_0, t = torch.rand(6, 2) + 0.5, 0.37
    law = PROCESS.marginal(x_0.log(), t)
    log_x = law.sample(Keyed(0, 6))
    in_the_logarithm = -law.noise_of(log_x) / law.scale
    x = log_x.exp().requires_grad_()
    log_p = torch.distributions.LogNormal(law.mean, law.scale).log_prob(x).sum()
    (score,) = torch.autograd.grad(log_p, x)
    drift = (GROWTH - 0.5 * VOLATILITY**2) * t
    paper = -1 - (log_x - x_0.log() - drift) / (VOLATILITY**2 * t)
    torch.testing.assert_close(x.detach() * score, paper)
    torch.testing.assert_close(in_the_logarithm - 1, paper)
    output = torch.randn(6, 2)
    losses = ((output - 1 - paper) ** 2).sum(1), ((output - in_the_logarithm) ** 2).sum(1)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_the_score_of_log_normal_data(t):
    """(c): log X_t is normal at every time, and X s(X) + 1 is the score of the logarithm."""
    x = (torch.rand(5, 2) + 0.2).requires_grad_()
    mean = MEAN + (GROWTH - 0.5 * VOLATILITY**2) * t
    law = torch.distributions.LogNormal(mean, math.sqrt(VARIANCE + VOLATILITY**2 * t))
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    known = truth()(x.detach().log(), t).score
    torch.testing.assert_close(known, x.detach() * score + 1)
    torch.testing.assert_close(PROCESS.codec.encoded_score(x.detach(), score), known)


@pytest.mark.parametrize("solver", [Ancestral("posterior"), Ancestral(), DPMSolverPP(), DDIM()], ids=repr)
def test_samples_have_the_moments_of_the_logarithm(solver):
    steps = 5 if getattr(solver, "variance", "") == "posterior" else 100
    n = 20_000
    model = truth()
    start = model.process.marginal(MEAN.expand(n, 2), 1.0).mean
    start = start + math.sqrt(VARIANCE + VOLATILITY**2) * torch.randn(n, 2)
    x = Sampler(solver, steps)(model, start, seed=1)
    assert bool((x > 0).all())
    torch.testing.assert_close(x.log().mean(0), MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(x.log().var(0), torch.full((2,), VARIANCE), rtol=0.08, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("solver", [Ancestral(), DDIM(), Renoise()], ids=repr)
def test_no_step_size_changes_a_sign(solver, steps):
    """(e)."""
    assert bool((Sampler(solver, steps)(truth(), 500, seed=0) > 0).all())


def test_the_ambient_step_agrees_as_steps_shrink_with_strong_order_one_half():
    """(d), with one Brownian path: its factor is the first order of the exponential's."""
    n, finest, model = 1000, 512, truth()
    dw = torch.randn(finest, n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dw = dw * math.sqrt(0.8 / finest)
    start = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).exp()
    sde = ambient(model)

    def error(steps: int) -> float:
        h, x, log_x = 0.8 / steps, start, start.log()
        for i, w in enumerate(dw.reshape(steps, -1, n, 2).sum(1)):
            law = sde.kernel(x, i * h, (i + 1) * h)
            x = law.transform(w / math.sqrt(h))
            score = model(log_x, 1 - i * h).score
            drift = VOLATILITY**2 * score - (GROWTH - 0.5 * VOLATILITY**2)
            log_x = log_x + drift * h + VOLATILITY * w
        return float((x / log_x.exp() - 1).abs().median())

    errors = [error(k) for k in (8, 32, 128, 512)]
    orders = [math.log(a / b, 4) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(0.5, abs=0.12) and errors[-1] < 0.2


def test_coarse_ambient_steps_change_signs():
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).exp()
    path = simulate(ambient(truth()), x, [0.0, 0.2, 0.4, 0.6, 0.8])
    assert 0.05 < float((path[-1] < 0).double().mean()) < 0.6
    with pytest.raises(ValueError, match="ambient: expected a denoiser of GeometricBrownian, got Variance"):
        ambient(GaussianDenoiser(MEAN, VARIANCE, VariancePreserving()))
