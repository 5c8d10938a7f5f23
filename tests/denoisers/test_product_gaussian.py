"""A Gaussian pair with a time for each leaf: marginals, conditionals and every path between them (UniCon)."""

from __future__ import annotations

import itertools

import pytest
import torch

from ornstein.core import Condition, Product, Sampler, Solver, TimeGrid
from ornstein.denoisers import GaussianDenoiser, ProductGaussian
from ornstein.guides import JointSeparate
from ornstein.processes import ProductProcess, RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM, DPMSolverPP, Heun, RungeKutta4

from ..exact import covariance

C = covariance(4, 3)
MEAN = {
    "x": torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64),
    "y": torch.tensor([1.5], dtype=torch.float64),
}
CLEAN = torch.tensor([[2.5]], dtype=torch.float64)


def pair(x=None, y=None) -> ProductGaussian:
    return ProductGaussian(
        MEAN, C, ProductProcess({"x": x or VariancePreserving(), "y": y or RectifiedFlow()})
    )


def conditional(y: torch.Tensor, noise: float = 0.0, alpha: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of x given alpha y + noise z."""
    gain = alpha * C[:3, 3:] / (alpha**2 * C[3, 3] + noise**2)
    mean = MEAN["x"] + ((y - alpha * MEAN["y"]) @ gain.T)
    return mean, C[:3, :3] - alpha * gain @ C[3:, :3]


def state(n: int = 5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {"x": torch.randn(n, 3, generator=g), "y": torch.randn(n, 1, generator=g)}


def test_the_posterior_mean_is_tweedies():
    truth, x, t = pair(), state(), {"x": 0.4, "y": 0.7}
    posterior = truth(x, t)
    for leaf in ("x", "y"):
        moved = {**x, leaf: x[leaf].clone().requires_grad_()}
        (score,) = torch.autograd.grad(truth.log_density(moved, t).sum(), moved[leaf])
        torch.testing.assert_close(posterior[leaf].score, score, rtol=1e-9, atol=1e-10)


def test_rows_may_have_times_of_their_own():
    truth, x = pair(), state(3)
    t = {"x": torch.tensor([0.2, 0.5, 0.9]), "y": torch.tensor([0.0, 0.5, 1.0])}
    together = truth(x, t)
    for i in range(3):
        alone = truth({k: v[i : i + 1] for k, v in x.items()}, {k: float(v[i]) for k, v in t.items()})
        torch.testing.assert_close(together.mean["x"][i : i + 1], alone.mean["x"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together["x"].variance[i], alone["x"].variance[0], rtol=1e-9, atol=1e-12)


def test_a_leaf_without_signal_is_left_out_and_a_clean_one_conditioned_on():
    truth, x = pair(), state()
    process = truth.process.parts["x"]
    marginal = GaussianDenoiser(MEAN["x"], C[:3, :3], process)(x["x"], 0.4)
    left_out = truth(x, {"x": 0.4, "y": 1.0})["x"]
    torch.testing.assert_close(left_out.mean, marginal.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(left_out.variance, marginal.variance, rtol=1e-10, atol=1e-10)
    clean = truth(x, {"x": 0.4, "y": 0.0})["x"]
    for i in range(len(x["x"])):
        mean, cov = conditional(x["y"][i : i + 1])
        exact = GaussianDenoiser(mean[0], cov, process)(x["x"][i : i + 1], 0.4)
        torch.testing.assert_close(clean.mean[i : i + 1], exact.mean, rtol=1e-10, atol=1e-10)
    # the limit of a large noise is that of no signal
    loud = pair(y=VarianceExploding(0.01, 1e7))(x, {"x": 0.4, "y": 1.0})["x"]
    torch.testing.assert_close(loud.mean, marginal.mean, rtol=1e-9, atol=1e-9)


def flow_matrix(grid: TimeGrid, solver: Solver | None = None) -> torch.Tensor:
    """The linear part of the run along a grid of unequal times, (4, 4): rows are images of basis vectors."""
    points = torch.cat([torch.eye(4), torch.zeros(1, 4)])
    out = Sampler(solver or DPMSolverPP(2), grid=grid)(pair_vp(), {"x": points[:, :3], "y": points[:, 3:]})
    flat = torch.cat([out["x"], out["y"]], 1)
    return flat[:4] - flat[4]


def pair_vp() -> ProductGaussian:
    return pair(y=VariancePreserving("cosine"))


def legs(*corners: tuple[float, float], steps: int) -> TimeGrid:
    """Straight lines between pairs of times (t_x, t_y)."""
    grid = TimeGrid()
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        along = [i / steps for i in range(steps)]
        leaf = {
            k: TimeGrid.through([*(a + (b - a) * u for u in along), b]) if a != b else a
            for k, a, b in (("x", ax, bx), ("y", ay, by))
        }
        grid = grid + TimeGrid.product(**leaf)
    return grid


PATHS = {
    "joint": [(1.0, 1.0), (0.02, 0.02)],
    "x then y": [(1.0, 1.0), (0.02, 1.0), (0.02, 0.02)],
    "y then x": [(1.0, 1.0), (1.0, 0.02), (0.02, 0.02)],
    "crooked": [(1.0, 1.0), (0.3, 0.8), (0.02, 0.02)],
}


@pytest.mark.parametrize("solver", [Heun(), RungeKutta4()], ids=["heun", "rk4"])
@pytest.mark.parametrize("corners", PATHS.values(), ids=PATHS)
def test_a_waiting_leaf_takes_as_many_rows_as_one_that_moves(corners, solver):
    """Else the rows of x then y are as many in all, but those of different steps meet."""
    several = flow_matrix(legs(*corners, steps=60), solver)
    torch.testing.assert_close(several, flow_matrix(legs(*corners, steps=400)), rtol=0, atol=4e-3)


@pytest.mark.parametrize("corners", PATHS.values(), ids=PATHS)
def test_every_path_of_two_times_leads_to_the_same_law(corners):
    """With a history for each stream a second-order solver stays one: twice the steps, a fourth of the error."""
    truth = pair_vp()
    before, after = (
        truth._state(state(1), dict(zip("xy", at, strict=True)), None)[1][0]
        for at in (corners[0], corners[-1])
    )
    errors = []
    for steps in (75, 150):
        matrix = flow_matrix(legs(*corners, steps=steps))
        errors.append(float((matrix.T @ before @ matrix - after).abs().max()))
    assert errors[1] < 2e-3
    assert errors[0] > 3.2 * errors[1]


def test_paths_differ_as_maps_and_agree_as_laws():
    """The flow is not conservative over the two times: it is the law that does not depend on the path."""
    one, two = (flow_matrix(legs(*PATHS[k], steps=60)) for k in ("x then y", "y then x"))
    assert (one - two).abs().max() > 0.05


def law_of_x(held: torch.Tensor, t_y: float, noise: float, alpha: float) -> None:
    """Run x down with y held at t_y, from its exact law at time 1, and compare the law it ends with."""
    times = [0.01 + 0.99 * (1 - i / 120) ** 2 for i in range(121)]
    first, last = (VariancePreserving().at(t) for t in (times[0], times[-1]))
    mean, cov = conditional(held, noise, alpha)
    points = torch.cat([torch.eye(3), torch.zeros(1, 3), first.alpha * mean])
    grid = TimeGrid.product(x=TimeGrid.through(times), y=t_y)
    end = Sampler(DPMSolverPP(2), grid=grid)(pair(), {"x": points, "y": held.expand(5, 1)}, seed=0)["x"]
    matrix = end[:3] - end[3]
    before, after = (v.alpha**2 * cov + v.sigma**2 * torch.eye(3) for v in (first, last))
    torch.testing.assert_close(end[4:], last.alpha * mean, atol=3e-4, rtol=0)
    torch.testing.assert_close(matrix.T @ before @ matrix, after, atol=3e-4, rtol=0)


def test_holding_y_clean_samples_x_given_y():
    law_of_x(CLEAN, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("t_y", [0.3, 0.7])
def test_coarse_control_samples_x_given_noisy_y(t_y):
    level = RectifiedFlow().at(t_y)
    law_of_x(CLEAN, t_y, level.sigma, level.alpha)


def test_joint_less_separate_is_the_conditional_score_less_the_marginal_one():
    truth, x, t = pair(), state(), {"x": 0.4, "y": 0.0}
    apart = Condition({"joint": torch.zeros(5)})
    difference = truth(x, t)["x"].score - truth(x, t, apart)["x"].score
    process = truth.process.parts["x"]
    marginal = GaussianDenoiser(MEAN["x"], C[:3, :3], process)(x["x"], 0.4).score
    for i in range(5):
        mean, cov = conditional(x["y"][i : i + 1])
        given = GaussianDenoiser(mean[0], cov, process)(x["x"][i : i + 1], 0.4).score
        torch.testing.assert_close(difference[i : i + 1], given - marginal[i : i + 1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 2.5])
def test_the_guide_is_classifier_free_guidance_with_the_other_stream_as_condition(scale):
    truth, x, t = pair(), state(), {"x": 0.4, "y": 0.0}
    guided = JointSeparate(scale)(truth)(x, t)
    apart = Condition({"joint": torch.zeros(5)})
    expected = scale * truth(x, t).mean["x"] + (1 - scale) * truth(x, t, apart).mean["x"]
    torch.testing.assert_close(guided.mean["x"], expected, rtol=1e-12, atol=1e-12)
    assert guided.evaluations == 2
    torch.testing.assert_close(JointSeparate(0.0)(truth)(x, t).mean["x"], truth(x, t, apart).mean["x"])
    assert torch.equal(JointSeparate(1.0)(truth)(x, t).mean["x"], truth(x, t).mean["x"])
    with pytest.raises(ValueError, match="does not read the field 'joint'"):
        JointSeparate(2.0)(GaussianDenoiser(MEAN["x"], C[:3, :3], VariancePreserving()))
    with pytest.raises(ValueError, match="finite"):
        JointSeparate(float("nan"))


def test_streams_kept_apart_are_two_samplers():
    truth, n = pair(x=RectifiedFlow()), 4
    out = Sampler(DDIM(), 8)(JointSeparate(0.0)(truth), n, seed=3)
    prior = truth.process.prior(truth.like(n))
    assert isinstance(prior, Product)
    alone = GaussianDenoiser(MEAN["x"], C[:3, :3], RectifiedFlow())
    start = Sampler(DDIM(), 8).steps(JointSeparate(0.0)(truth), n, seed=3)
    first = next(iter(start)).next["x"]
    torch.testing.assert_close(out["x"], Sampler(DDIM(), 8)(alone, first), rtol=1e-9, atol=1e-9)


def test_sizes_that_do_not_fit_are_refused():
    process = ProductProcess({"x": RectifiedFlow(), "y": RectifiedFlow()})
    with pytest.raises(ValueError, match="expected the leaves"):
        ProductGaussian({"x": MEAN["x"]}, C, process)
    with pytest.raises(ValueError, match=r"covariance: expected \(4, 4\)"):
        ProductGaussian(MEAN, C[:3, :3], process)


def test_rows_that_do_not_say_how_joint_they_are_are_joint():
    truth, x, t = pair(), state(), {"x": 0.4, "y": 0.2}
    unsaid = torch.tensor([True, False, True, False, True])
    apart = Condition({"joint": torch.zeros(5)})
    found = truth(x, t, apart.dropped(unsaid)).mean["x"]
    expected = [truth(x, t, v).mean["x"] for v in (None, apart)]
    torch.testing.assert_close(found, torch.where(unsaid[:, None], *expected))
    assert not torch.allclose(*expected, atol=1e-3)
