from __future__ import annotations

import pytest
import torch

from ornstein.core import Forward, Keyed, Sampler, TimeGrid
from ornstein.processes import Absorbing, VariancePreserving
from ornstein.solvers import DDIM, Hold, Renoise

from ..exact import gaussian, table


def test_forward_rows_are_the_processes_own_kernel():
    process = VariancePreserving()
    x = torch.randn(3, 2)
    (step,) = Sampler(Forward(), grid=TimeGrid.through([0.2, 0.6])).steps(process, x)
    kernel = process.kernel(x, 0.2, 0.6)
    torch.testing.assert_close(step.distribution.mean, kernel.mean)
    assert step.distribution.scale == kernel.scale and step.posterior is None and step.evaluations == 0


def test_renoise_is_the_marginal_of_the_prediction():
    process = VariancePreserving()
    truth, x = gaussian(process), torch.randn(3, 3)
    for s in (0.2, 0.6, 0.9):
        grid = TimeGrid.through([0.6, s], solver=Renoise())
        (step,) = Sampler(DDIM(), grid=grid).steps(truth, x)
        expected = process.marginal(truth(x, 0.6).mean, s)
        torch.testing.assert_close(step.distribution.mean, expected.mean)
        assert step.distribution.scale == expected.scale


def test_time_travel_leaves_the_marginal_of_exact_steps_unchanged():
    """Down by exact ancestral steps and up by the kernel, three times over, is stationary."""
    from ornstein.solvers import Ancestral

    process = VariancePreserving()
    truth = gaussian(process)
    down, up = TimeGrid.through([0.5, 0.3]), TimeGrid.through([0.3, 0.5], solver=Forward())
    n = 30_000
    x_0 = truth.sample_data(n, torch.Generator().manual_seed(0))
    x = process.marginal(x_0, 0.5).sample(Keyed(0, n))
    end = Sampler(Ancestral("posterior"), grid=(down + up) * 3)(truth, x, seed=1)
    torch.testing.assert_close(end.mean(0), x.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(end.T.cov(), x.T.cov(), atol=0.03, rtol=0)


def test_a_multistep_method_starts_afresh_after_an_interruption():
    from ornstein.solvers import DPMSolverPP

    process = VariancePreserving()
    grid = TimeGrid.through([0.6, 0.5, 0.4])
    grid = grid + TimeGrid.through([0.4, 0.6], solver=Forward()) + TimeGrid.through([0.6, 0.5, 0.4])
    rows = [row for _, row in Sampler(DPMSolverPP(2), grid=grid).program(process)]
    assert [len(r.past) for r in rows] == [0, 1, 0, 0, 1]


def test_hold_waits_and_refuses_to_move():
    process = VariancePreserving()
    x = torch.randn(2, 3)
    (step,) = Sampler(Hold(), grid=TimeGrid.through([0.4, 0.4])).steps(gaussian(process), x)
    assert torch.equal(step.next, x) and step.evaluations == 0
    with pytest.raises(ValueError, match="moves"):
        Sampler(Hold(), grid=TimeGrid.through([0.4, 0.3])).program(process)


def test_renoise_and_forward_step_discrete_states_too():
    process = Absorbing(3)
    truth = table(process)
    x = torch.full((20_000, 3), process.mask)
    grid = TimeGrid.through([1.0, 0.5], solver=Renoise())
    end = next(iter(Sampler(Renoise(), grid=grid).steps(truth, x))).next
    assert (end == process.mask).double().mean() == pytest.approx(0.5, abs=0.01)
    masked = Sampler(Forward(), grid=TimeGrid.through([0.0, 0.3])).steps(process, truth.sequences)
    law = next(iter(masked)).distribution
    torch.testing.assert_close(law.logits.exp()[..., process.mask], torch.full((5, 3), 0.3))
