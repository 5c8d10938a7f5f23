"""Tabulated: exact at its nodes, and close to the law it was tabulated from everywhere else."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.processes.tabulated import Tabulated

NODES = torch.linspace(0, 1, 1001, dtype=torch.float64)
INSIDE = torch.linspace(0.002, 0.9999, 3001, dtype=torch.float64)
LINEAR = VariancePreserving()


def tabulated(process) -> Tabulated:
    alpha, _, sigma = process.schedule(NODES)
    return Tabulated(alpha.tolist(), sigma.tolist())


def preserving() -> Tabulated:
    return Tabulated(LINEAR.schedule(NODES)[0].tolist())


@pytest.mark.parametrize("process", [LINEAR, VarianceExploding(), RectifiedFlow()])
def test_the_nodes_are_met_exactly(process) -> None:
    alpha, _, sigma = process.schedule(NODES)
    found = tabulated(process).schedule(NODES)
    assert torch.equal(found[0], alpha)
    torch.testing.assert_close(found[2], sigma, rtol=1e-15, atol=0)
    assert tabulated(process).at(0.0).sigma == 0


def test_variance_is_preserved_where_sigma_is_left_out() -> None:
    alpha, _, sigma = preserving().schedule(INSIDE)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-15, atol=0)


@pytest.mark.parametrize("process", [LINEAR, VarianceExploding(), RectifiedFlow()])
def test_between_the_nodes_it_is_the_law_it_was_made_from(process) -> None:
    made = tabulated(process)
    torch.testing.assert_close(made.half_log_snr(INSIDE), process.half_log_snr(INSIDE), rtol=0, atol=3e-3)
    for ours, exact in zip(
        made.drift_and_diffusion(INSIDE), process.drift_and_diffusion(INSIDE), strict=True
    ):
        torch.testing.assert_close(ours, exact, rtol=4e-2, atol=1e-6)


def test_the_error_falls_as_the_cube_of_the_spacing() -> None:
    def error(nodes: int) -> float:
        times = torch.linspace(0, 1, nodes + 1, dtype=torch.float64)
        made = Tabulated(LINEAR.schedule(times)[0].tolist())
        inside = torch.linspace(0.2, 1, 4001, dtype=torch.float64)
        return float((made.half_log_snr(inside) - LINEAR.half_log_snr(inside)).abs().max())

    assert math.log2(error(100) / error(200)) > 2.7


def test_straight_lines_are_reproduced() -> None:
    made = tabulated(RectifiedFlow())
    alpha, _, sigma = made.schedule(INSIDE)
    torch.testing.assert_close(alpha, 1 - INSIDE, rtol=0, atol=1e-15)
    torch.testing.assert_close(sigma, INSIDE, rtol=3e-3, atol=0)  # sigma^2 is a cubic, not sigma
    torch.testing.assert_close(sigma[200:], INSIDE[200:], rtol=1e-6, atol=0)


def test_the_derivative_is_that_of_the_values_and_continuous_at_nodes() -> None:
    made = preserving()
    gap = 1e-7
    numbers = [(made.at(t + gap).alpha - made.at(t - gap).alpha) / (2 * gap) for t in (0.3, 0.4567)]
    assert [made.slope(t).alpha for t in (0.3, 0.4567)] == pytest.approx(numbers, rel=1e-6)
    assert made.slope(0.3 - 1e-12).alpha == pytest.approx(made.slope(0.3 + 1e-12).alpha, rel=1e-8)
    assert made.slope(1.0).alpha == pytest.approx(LINEAR.slope(1.0).alpha, rel=1e-3)


def test_the_log_snr_falls_and_has_an_inverse() -> None:
    made = preserving()
    assert bool((made.half_log_snr(INSIDE).diff() < 0).all())
    torch.testing.assert_close(made.time_at(made.half_log_snr(INSIDE)), INSIDE, rtol=0, atol=1e-12)


def test_a_table_may_end_without_signal() -> None:
    alpha = [1.0, 0.7, 0.2, 0.0]
    made = Tabulated(alpha)
    assert made.at(1.0) == (0.0, 0.0, 1.0)
    assert made.half_log_snr(1.0) == -math.inf
    assert made.step(1.0, 0.5, 0.0).a == pytest.approx(made.at(0.5).sigma)


def test_discrete_steps_are_at_their_times() -> None:
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    made = Tabulated.from_alpha_bar(alpha_bar.tolist())
    assert made.at(1 / 1000).alpha ** 2 == pytest.approx(float(alpha_bar[0]), rel=1e-15)
    assert made.at(0.5).alpha ** 2 == pytest.approx(float(alpha_bar[499]), rel=1e-15)
    assert made.at(1.0).alpha ** 2 == pytest.approx(float(alpha_bar[-1]), rel=1e-15)
    assert made.at(0.0) == (1.0, 0.0, 0.0)


def test_uneven_times() -> None:
    times = [0.0, 0.1, 0.5, 0.6, 1.0]
    alpha = [float(LINEAR.at(t).alpha) for t in times]
    made = Tabulated(alpha, times=times)
    assert [made.at(t).alpha for t in times] == alpha


def test_half_precision_leaves_the_table_alone() -> None:
    made = preserving().to(torch.float16)
    assert made.schedule(NODES)[0].dtype == torch.float64
    assert torch.equal(made.schedule(NODES)[0], LINEAR.schedule(NODES)[0])


def test_it_can_be_written_as_json() -> None:
    spec = json.loads(json.dumps(Tabulated.from_alpha_bar([0.9, 0.5, 0.1]).spec()))
    assert spec["class"] == "processes.Tabulated"
    rebuilt = Tabulated(**spec["arguments"])
    assert rebuilt.at(0.4) == Tabulated.from_alpha_bar([0.9, 0.5, 0.1]).at(0.4)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"alpha": [1.0, 0.5]}, "at least 3 nodes"),
        ({"alpha": [1.0, 0.5, 0.1], "sigma": [0.0, 1.0]}, "3 of alpha, 2 of sigma"),
        ({"alpha": [1.0, 0.5, 0.6]}, "alpha: expected never to rise"),
        ({"alpha": [1.0, math.nan, 0.6]}, "alpha: expected never to rise"),
        ({"alpha": [1.2, 0.5, 0.1]}, "at most 1"),
        ({"alpha": [1.0, 0.5, -0.1]}, "alpha, sigma >= 0"),
        ({"alpha": [1.0, 0.5, 0.5]}, "fall everywhere"),
        ({"alpha": [1.0, 1.0, 1.0], "sigma": [0.0, 0.5, 0.4]}, "sigma: expected never to fall"),
        ({"alpha": [1.0, 0.5, 0.1], "times": [0.0, 0.5, 0.9]}, "rise from 0 to 1"),
    ],
)
def test_tables_that_are_no_schedule_are_refused(arguments, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tabulated(**arguments)
