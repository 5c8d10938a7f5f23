"""One denoiser under another schedule: the posterior means, and so the samples, are the same."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Sampler, TimeGrid
from ornstein.denoisers import (
    Converted,
    EmpiricalDenoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
)
from ornstein.guides import ClassifierFree
from ornstein.networks import ResidualMLP
from ornstein.processes import (
    EDM,
    OUVE,
    Absorbing,
    BrownianBridge,
    MeanReverting,
    RectifiedFlow,
    SubVariancePreserving,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP

from ..exact import covariance, mixture, table

N = 5
TARGETS = {
    "vp": VariancePreserving,
    "vp-cosine": lambda: VariancePreserving("cosine"),
    "ve": VarianceExploding,
    "sub-vp": SubVariancePreserving,
    "edm": EDM,
    "trigonometric": Trigonometric,
    "mr": lambda: MeanReverting(sigma_inf=1.0),
    "bridge": BrownianBridge,
}
LEVELS = [-2.0, -1.0, 0.0, 1.0, 2.5]  # half-log-SNR, common to all


def network(process) -> NetworkDenoiser:
    torch.manual_seed(0)
    inner = ResidualMLP(3, width=16, depth=2)
    for weight in inner.parameters():  # its output layer starts at zero
        torch.nn.init.normal_(weight, std=0.3)
    return NetworkDenoiser(inner, process, shape=(3,))


def grid(process) -> TimeGrid:
    return TimeGrid.through([process.time_at(v) for v in LEVELS])


@pytest.fixture(params=TARGETS)
def process(request):
    return TARGETS[request.param]()


@pytest.fixture
def given(process):
    return {"anchor": torch.randn(N, 3)} if process.anchored else {}


@pytest.mark.parametrize("make", [network, lambda p: mixture(p, labels=False)], ids=["network", "mixture"])
@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP(), Ancestral()], ids=repr)
def test_samples_are_the_same_under_the_same_solver_on_matching_grids(process, given, make, solver):
    source = make(RectifiedFlow())
    converted = Converted(source, process)
    start = torch.randn(N, 3)  # of x_0 + (sigma / alpha) z
    flow, here = RectifiedFlow().at(grid(RectifiedFlow())[0].t), process.at(grid(process)[0].t)
    x = here.alpha * start + (here.anchor * given["anchor"] if given else 0.0)
    one = Sampler(solver, grid=grid(RectifiedFlow()))(source, flow.alpha * start, seed=3)
    other = Sampler(solver, grid=grid(process))(converted, x, seed=3, **given)
    ends = [p.at(p.time_at(LEVELS[-1])) for p in (RectifiedFlow(), process)]
    u = other - ends[1].anchor * given["anchor"] if given else other
    torch.testing.assert_close(u / ends[1].alpha, one / ends[0].alpha, rtol=1e-10, atol=1e-10)


def test_an_exact_denoiser_converted_is_the_exact_denoiser_of_the_other_process(process, given):
    condition = Condition(given)
    converted = Converted(mixture(RectifiedFlow(), labels=False), process)
    rebuilt = mixture(process, labels=False)
    x = torch.randn(N, 3)
    for t in (0.1, 0.5, 0.9, torch.linspace(0.1, 0.9, N)):
        one, other = converted(x, t, condition), rebuilt(x, t, condition)
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=1e-12)
        for view in ("noise", "score", "velocity"):
            torch.testing.assert_close(getattr(one, view), getattr(other, view), rtol=1e-9, atol=1e-9)


def test_anchored_sources_and_all_exact_denoisers():
    y = torch.randn(N, 3)
    condition, x = Condition({"anchor": y}), torch.randn(N, 3)
    for make in (
        lambda p: GaussianDenoiser(torch.ones(3), covariance(3), p),
        lambda p: EmpiricalDenoiser(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), p),
        lambda p: MixtureDenoiser([0.5, 0.5], torch.eye(3)[:2], 0.2, p),
    ):
        converted = Converted(make(MeanReverting(sigma_inf=1.0)), BrownianBridge())
        rebuilt = make(BrownianBridge())
        assert converted.fields >= {"anchor"}
        for t in (0.2, 0.7):
            one, other = converted(x, t, condition).mean, rebuilt(x, t, condition).mean
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_beyond_the_sources_levels_its_end_is_asked():
    """A flow has no signal at time 1, VP keeps a little: the state is read as the source's prior, nothing is NaN."""
    truth = mixture(VariancePreserving(), labels=False)
    flow = Converted(truth, RectifiedFlow())
    x = torch.randn(N, 3)
    expected = truth(truth.process.at(1.0).sigma * x, 1.0).mean
    torch.testing.assert_close(flow(x, 1.0).mean, expected)
    torch.testing.assert_close(flow(x, torch.ones(N)).mean, expected)
    torch.testing.assert_close(flow(x, 0.0).mean, x)
    torch.testing.assert_close(flow(x, torch.zeros(N)).mean, x)
    bridge = Converted(truth, BrownianBridge())
    y = Condition({"anchor": x})
    for t in (1.0, torch.ones(N)):
        torch.testing.assert_close(bridge(x, t, y).mean, truth(torch.zeros(N, 3), 1.0).mean)
    found = Sampler(DPMSolverPP(), 12)(flow, 4000, seed=1)
    known = Sampler(DPMSolverPP(), 12)(mixture(RectifiedFlow(), labels=False), 4000, seed=1)
    torch.testing.assert_close(found.mean(0), known.mean(0), rtol=0.05, atol=0.05)


def test_labels_and_guidance_pass_through_in_one_call():
    source = mixture(RectifiedFlow())
    converted = Converted(source, VariancePreserving())
    both = Condition.make(N, {"label": [0, 1, 1, 0, 1]}, {"label"})
    x = torch.randn(N, 3)
    many = converted.many(x, 0.5, [both, both.null()])
    for found, condition in zip(many, (both, both.null()), strict=True):
        assert torch.equal(found.mean, converted(x, 0.5, condition).mean)
        assert found.process is converted.process
    guided = ClassifierFree(2.0)(converted)
    assert bool(torch.isfinite(Sampler(DDIM(), 4)(guided, N, label=1)).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Converted(table(Absorbing(3)), RectifiedFlow()), "denoiser's process: expected an affine"),
        (lambda: Converted(mixture(RectifiedFlow()), Absorbing(3)), "process: expected an affine process"),
        (lambda: Converted(ClassifierFree(2.0)(mixture(RectifiedFlow())), EDM()), "guide the converted one"),
        (lambda: Converted(mixture(OUVE()), EDM()), "EDM starts at more noise than OUVE ever has"),
    ],
)
def test_what_cannot_be_converted_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_log_det_of_the_gaussian_flow_is_the_jacobians():
    for process, given in ((VariancePreserving(), None), (OUVE(), Condition({"anchor": torch.ones(1, 3)}))):
        truth = GaussianDenoiser(torch.ones(3), covariance(3), process)
        x = torch.randn(1, 3)
        jacobian = torch.autograd.functional.jacobian(lambda v: truth.flow(v, 0.8, 0.1, given), x)  # noqa: B023
        torch.testing.assert_close(torch.linalg.slogdet(jacobian[0, :, 0])[1], truth.log_det(0.8, 0.1)[0])
        ahead = truth.log_density(x, 0.8, given)
        back = truth.log_density(truth.flow(x, 0.8, 0.1, given), 0.1, given)
        torch.testing.assert_close(back, ahead - truth.log_det(0.8, 0.1))
        rows = truth.log_det(torch.tensor([0.8, 0.5]), 0.1)
        torch.testing.assert_close(rows[0], truth.log_det(0.8, 0.1)[0])


def test_the_gaussian_flow_composes_and_knows_the_anchor():
    """principles (f), under a process with an anchor: the flow follows the velocity."""
    y = torch.randn(N, 3)
    given = Condition({"anchor": y})
    truth = GaussianDenoiser(torch.ones(3), covariance(3), OUVE())
    x = torch.randn(N, 3)
    there = truth.flow(truth.flow(x, 0.9, 0.5, given), 0.5, 0.2, given)
    torch.testing.assert_close(there, truth.flow(x, 0.9, 0.2, given))
    ahead, behind = (truth.flow(x, 0.4, 0.4 + d, given) for d in (1e-6, -1e-6))
    torch.testing.assert_close(truth(x, 0.4, given).velocity, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)
