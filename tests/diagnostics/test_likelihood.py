"""Likelihoods of the probability flow against densities that are known."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from tests.exact import AFFINE, gaussian, mixture, table

from ornstein import solvers
from ornstein.core import Condition, Keyed
from ornstein.denoisers import GaussianDenoiser, MixtureDenoiser
from ornstein.diagnostics import Quantised, log_likelihood, reference
from ornstein.guides import ClassifierFree
from ornstein.processes import Absorbing, MeanReverting, RectifiedFlow, VarianceExploding, VariancePreserving

TIGHT = {"rtol": 1e-7, "atol": 1e-7}


def data(denoiser, n: int = 6) -> torch.Tensor:
    return denoiser.sample_data(n, torch.Generator().manual_seed(0))


def at_time_1(denoiser):
    """The exact law at time 1, so that nothing but the flow is tested."""
    return lambda x: denoiser.log_density(x, 1.0)


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("make", [gaussian, mixture])
def test_the_flow_gives_the_density(name, make):
    if name == "vp-cosine" and make is gaussian:
        pytest.skip("the inverse of its clock is slow; once is enough")
    denoiser = make(AFFINE[name]())
    x = data(denoiser)
    # at time 1 a process without signal cannot be asked for its data's density by the analytic denoiser
    prior = None if name == "flow" else at_time_1(denoiser)
    found = log_likelihood(denoiser, x, prior=prior, **TIGHT)
    assert (found.nats - denoiser.log_density(x, 0.0)).abs().max() < 5e-6
    assert bool((found.standard_error == 0).all())
    bits = -found.nats / (3 * math.log(2))
    assert torch.allclose(found.bits_per_dim, bits) and found.dim == 3
    assert torch.allclose(sum(found.parts.values()), found.nats)


def test_bits_per_dim_of_a_mixture_in_the_plane_are_exact():
    truth = MixtureDenoiser([0.6, 0.4], [[1.0, 0.5], [-1.0, 0.0]], 0.05, VariancePreserving())
    x = data(truth, 32)
    found = log_likelihood(truth, x)
    want = -truth.log_density(x, 0.0) / (2 * math.log(2))
    assert abs(float(found.bits_per_dim.mean() - want.mean())) < 1e-3


def test_what_is_below_the_level_is_accounted_for():
    truth = mixture(RectifiedFlow())
    x = data(truth)
    errors, parts = [], []
    for level in (0.04, 0.02):
        found = log_likelihood(truth, x, level=level, rtol=1e-9, atol=1e-9)
        errors.append(float((found.nats - truth.log_density(x, 0.0)).abs().max()))
        parts.append(float(found.parts["remainder"].abs().max()))
    assert errors[1] < errors[0] / 8  # of fourth order in the level, while the remainder is of second
    assert parts[1] == pytest.approx(parts[0] / 4, rel=0.1)
    assert errors[0] < parts[0] / 3


@pytest.mark.parametrize("solver", [solvers.Heun(), solvers.DPMSolverPP(order=2)], ids=repr)
def test_our_own_solvers_integrate_the_log_determinant_at_their_order(solver):
    truth = mixture(VariancePreserving())
    x = data(truth)
    errors = []
    for steps in (100, 200):
        found = log_likelihood(truth, x, prior=at_time_1(truth), solver=solver, steps=steps)
        errors.append(float((found.nats - truth.log_density(x, 0.0)).abs().max()))
        assert found.evaluations <= 2 * steps + 2
    assert errors[1] < errors[0] / 3.2


def test_a_solver_does_the_same_whatever_the_process():
    values = []
    for process in (VariancePreserving(), VarianceExploding(0.01, 151.7), RectifiedFlow()):
        truth = mixture(process)
        prior = (lambda x: torch.zeros(len(x))) if isinstance(process, RectifiedFlow) else at_time_1(truth)
        values.append(log_likelihood(truth, data(truth), prior=prior, solver=solvers.Heun(), steps=100).nats)
    assert (values[0] - values[1]).abs().max() < 5e-3


def test_signs_are_exact_for_diagonal_linear_drift_and_normal_probes_are_unbiased():
    truth = GaussianDenoiser(torch.zeros(4), torch.tensor([0.1, 0.5, 1.0, 2.0]).diag(), VariancePreserving())
    x = data(truth)
    exact = log_likelihood(truth, x, **TIGHT).nats
    signs = log_likelihood(truth, x, "hutchinson", probes=3, **TIGHT)
    normal = log_likelihood(truth, x, "skilling", probes=200, **TIGHT)
    assert (signs.nats - exact).abs().max() < 1e-5 and signs.standard_error.max() < 1e-5
    assert normal.standard_error.min() > 1e-3
    assert ((normal.nats - exact) / normal.standard_error).abs().max() < 4


@pytest.mark.parametrize("estimator", ["hutchinson", "skilling"])
def test_estimates_are_unbiased_and_know_their_error(estimator):
    truth = mixture(VariancePreserving())
    x = data(truth, 8)
    found = log_likelihood(truth, x, estimator, probes=100, prior=at_time_1(truth))
    z = (found.nats - truth.log_density(x, 0.0)) / found.standard_error
    assert z.abs().max() < 4 and 0.3 < z.square().mean().sqrt() < 2


def test_probes_belong_to_their_rows():
    truth = mixture(VariancePreserving())
    x = data(truth, 5)
    both = log_likelihood(truth, x, "hutchinson", probes=2, seed=3, **TIGHT)
    some = log_likelihood(truth, x[:2], "hutchinson", probes=2, seed=3, **TIGHT)
    other = log_likelihood(truth, x[:2], "hutchinson", probes=2, seed=4, **TIGHT)
    assert (both.nats[:2] - some.nats).abs().max() < 1e-5
    assert (other.nats - some.nats).abs().min() > 1e-4
    assert bool(torch.isnan(log_likelihood(truth, x, "hutchinson").standard_error).all())


def test_rotations_leave_the_likelihood_and_scalings_shift_it():
    process = VariancePreserving()
    truth = mixture(process)
    x = data(truth)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    weights, means = truth.log_weights.exp(), truth.means
    covariances = (truth.vectors * truth.values.unsqueeze(1)) @ truth.vectors.mT
    turned = MixtureDenoiser(weights, means @ turn.T, turn @ covariances @ turn.T, process)
    grown = MixtureDenoiser(weights, 2 * means, 4 * covariances, process)
    base = log_likelihood(truth, x, prior=at_time_1(truth), **TIGHT).nats
    same = log_likelihood(turned, x @ turn.T, prior=at_time_1(turned), **TIGHT).nats
    shifted = log_likelihood(grown, 2 * x, prior=at_time_1(grown), **TIGHT).nats
    assert (base - same).abs().max() < 1e-5
    assert (base - shifted - 3 * math.log(2)).abs().max() < 1e-5


def test_conditions_and_guides_are_fields_like_any_other():
    truth = mixture(VariancePreserving())
    x = data(truth)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    condition = Condition({"label": labels})
    found = log_likelihood(
        truth, x, label=labels, prior=lambda y: truth.log_density(y, 1.0, condition), **TIGHT
    )
    assert (found.nats - truth.log_density(x, 0.0, condition)).abs().max() < 1e-4
    guided = log_likelihood(ClassifierFree(1.0)(truth), x, label=labels)
    plain = log_likelihood(truth, x, label=labels)
    assert (guided.nats - plain.nats).abs().max() < 1e-6
    stronger = log_likelihood(ClassifierFree(2.0)(truth), x, label=labels)
    assert bool(torch.isfinite(stronger.nats).all()) and (stronger.nats - plain.nats).abs().max() > 0.1


def test_an_anchor_moves_the_flow_and_not_the_density():
    truth = mixture(MeanReverting())
    x, y = data(truth, 3), torch.linspace(-1, 1, 9).reshape(3, 3)
    condition = Condition({"anchor": y})
    known = {"prior": lambda x: truth.log_density(x, 1.0, condition)}
    found = log_likelihood(truth, x, anchor=y, **known)
    assert (found.nats - truth.log_density(x, 0.0, condition)).abs().max() < 1e-3
    with pytest.raises(ValueError, match="needs its other end"):
        log_likelihood(truth, x)


def test_a_velocity_has_a_flow_too():
    truth = mixture(RectifiedFlow())
    x = data(truth)
    want = log_likelihood(truth, x).nats
    truth.estimates = "velocity"
    assert torch.equal(log_likelihood(truth, x).nats, want)


def test_quantised_data_have_a_bound_with_its_error():
    lattice = Quantised(9, -1.0, 1.0)
    truth = GaussianDenoiser(torch.zeros(2), 0.3, VariancePreserving())
    x = lattice.low + lattice.width * torch.tensor([[4, 4], [2, 5], [7, 3]]).double()
    assert lattice.width == 0.25
    many = x.repeat_interleave(150, 0)  # rows of their own noise
    found = log_likelihood(truth, many, quantised=lattice, draws=2)
    nats, error = found.nats.reshape(3, -1), found.standard_error.reshape(3, -1)
    normal = torch.distributions.Normal(0.0, 0.3**0.5)
    cells = (normal.cdf(x + 0.125) - normal.cdf(x - 0.125)).log().sum(1)
    # E log p(x + u) of a Gaussian cell by hand: the mean of u^2 is width^2 / 12
    bound = normal.log_prob(x).sum(1) - 2 * (0.25**2 / 12) / 0.6 + 2 * math.log(0.25)
    spread = error.square().mean(1).sqrt() / 150**0.5  # what the rows' own errors say of their mean
    assert ((nats.mean(1) - bound) / spread).abs().max() < 4 and spread.max() < 0.02
    assert bool((bound < cells).all())
    assert torch.allclose(found.parts["volume"], torch.full((450,), 2 * math.log(0.25)))
    assert bool(torch.isnan(log_likelihood(truth, x, quantised=lattice).standard_error).all())


def test_a_codec_adds_its_volume():
    from ornstein.spaces import LogCodec

    truth = GaussianDenoiser(torch.zeros(2), 0.3, VariancePreserving())
    x = data(truth).exp()
    want = torch.distributions.LogNormal(0.0, 0.3**0.5).log_prob(x).sum(1)
    found = log_likelihood(truth, x, codec=LogCodec(), **TIGHT)
    assert (found.nats - want).abs().max() < 1e-3


def test_the_trace_in_parts_is_the_trace():
    truth = mixture(VariancePreserving())
    x = data(truth, 2)
    whole = log_likelihood(truth, x, solver=solvers.Heun(), steps=20).nats
    parts = log_likelihood(truth, x, solver=solvers.Heun(), steps=20, chunk=2).nats
    assert torch.allclose(whole, parts, rtol=0, atol=1e-12)


# --- the reference


@pytest.mark.parametrize("name", ["vp-linear", "ve", "flow"])
def test_the_reference_is_the_closed_form_map_of_a_gaussian(name):
    truth = gaussian(AFFINE[name]())
    process = truth.process
    x_1 = process.prior(torch.zeros(4, 3)).sample(Keyed(0, 4))
    middle = process.time_at(0.3)
    assert (reference(truth, x_1, 1.0, 0.0) - truth.flow(x_1, 1.0, 0.0)).abs().max() < 1e-8
    down = reference(truth, x_1, 1.0, middle)
    assert (down - truth.flow(x_1, 1.0, middle)).abs().max() < 1e-7
    assert torch.equal(reference(truth, x_1, 1.0, 1.0), x_1)


@pytest.mark.parametrize("name", ["vp-linear", "flow"])
def test_there_and_back(name):
    truth = mixture(AFFINE[name]())
    first = truth.process.time_at(4.0)
    x = truth.process.marginal(data(truth), first).sample(Keyed(0, 6))
    back = reference(truth, reference(truth, x, first, 1.0, 1e-10), 1.0, first, 1e-10)
    assert (back - x).abs().max() < 1e-6


def test_the_density_along_the_flow_solves_the_continuity_equation():
    """log p_s(x_s) = log p_t(x_t) - log |det|: the log-determinant by differences of the map itself."""
    truth = mixture(VariancePreserving())
    t, s = 0.7, 0.3
    x = truth.process.marginal(data(truth, 1), t).sample(Keyed(0, 1))
    steps = 1e-4 * torch.cat([torch.eye(3), -torch.eye(3)])
    moved = reference(truth, x + steps, t, s, 1e-11)
    jacobian = (moved[:3] - moved[3:]) / 2e-4
    x_s = reference(truth, x, t, s, 1e-11)
    change = truth.log_density(x, t) - truth.log_density(x_s, s)
    assert float((change - torch.linalg.slogdet(jacobian)[1]).abs()) < 1e-6


# --- refusals


def test_what_cannot_be_asked_is_refused():
    truth = mixture(VariancePreserving())
    x = data(truth)
    with pytest.raises(ValueError, match="Did you mean 'hutchinson'"):
        log_likelihood(truth, x, "hutchinsons")
    with pytest.raises(ValueError, match=r"elbo bounds the likelihood"):
        log_likelihood(table(Absorbing(3)), torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="draws noise"):
        log_likelihood(truth, x, solver=solvers.Ancestral())
    with pytest.raises(ValueError, match="draws: expected 1"):
        log_likelihood(truth, x, draws=3)
    with pytest.raises(ValueError, match="9 values from -1"):
        log_likelihood(truth, x, quantised=Quantised(9))
    with pytest.raises(ValueError, match="level"):
        log_likelihood(truth, x, level=1e6)
    with pytest.raises(ValueError, match="probes"):
        log_likelihood(truth, x, "skilling", probes=0)
    with pytest.raises(ValueError, match="no finite numbers on the way up"):
        log_likelihood(mixture(RectifiedFlow()), x, solver=solvers.DDIM(), steps=5)
    with pytest.raises(ValueError, match="cannot start"):
        reference(truth, x, 0.0, 0.0)
    with pytest.raises(ValueError, match="levels"):
        Quantised(1)


def test_without_torchdiffeq_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    truth = mixture(VariancePreserving())
    with pytest.raises(ImportError, match="pip install"):
        log_likelihood(truth, data(truth))
