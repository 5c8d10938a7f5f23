"""The loop: what it yields, what may be done to a step, and that no sample sees another."""

from __future__ import annotations

import itertools

import pytest
import torch

from ornstein.core import Denoiser, Keyed, Posterior, Sampler, TimeGrid
from ornstein.guides import ClassifierFree
from ornstein.processes import VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Heun, Stochastic

from ..exact import Learned, gaussian, mixture

PROCESS = VariancePreserving()
SOLVERS = [DDIM(), Ancestral(), Stochastic(0.5), Heun(), DPMSolverPP(2)]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_batch_is_its_samples_one_by_one(solver):
    truth = ClassifierFree(1.7)(mixture(PROCESS))
    sampler = Sampler(solver, 6)
    batch = sampler(truth, 5, seed=3, label=[0, 1, None, 1, 0])
    for i, label in enumerate([0, 1, None, 1, 0]):
        alone = sampler(truth, 1, seed=Keyed(3, torch.tensor([i])), label=[label])
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_order_of_a_batch_does_not_matter(solver):
    truth, order = mixture(PROCESS), torch.tensor([3, 0, 2, 1])
    sampler = Sampler(solver, 6)
    straight = sampler(truth, 4, seed=3)
    mixed = sampler(truth, 4, seed=Keyed(3, 4)[order])
    torch.testing.assert_close(mixed, straight[order], rtol=1e-12, atol=1e-12)


def test_a_seed_for_every_sample():
    truth, sampler = mixture(PROCESS), Sampler(Ancestral(), 4)
    each = sampler(truth, 3, seed=torch.tensor([8, 9, 8]))
    assert torch.equal(each[0], each[2])
    torch.testing.assert_close(each[1:2], sampler(truth, 1, seed=9), rtol=1e-13, atol=1e-13)


def test_steps_start_with_the_prior_and_show_everything():
    truth = mixture(PROCESS)
    steps = list(Sampler(Ancestral(), 3).steps(truth, 2, seed=1))
    assert [s.index for s in steps] == [-1, 0, 1, 2]
    first = steps[0]
    assert first.t is None and first.s == 1.0 and first.posterior is None
    assert torch.isfinite(first.distribution.log_prob(first.next)).all()
    for before, after in itertools.pairwise(steps):
        assert torch.equal(before.next, after.x) and before.s == after.t
    assert steps[-1].s == 0.0 and steps[-1].evaluations == 3
    step = steps[2]
    residual = step.distribution.residual(step.next)
    torch.testing.assert_close(residual, step.distribution.scale * step.distribution.noise_of(step.next))
    torch.testing.assert_close(step.distribution.mean - step.gain * step.posterior.mean, step.row.a * step.x)


def test_adding_to_the_mean_is_adding_over_the_gain_to_the_posterior():
    truth, shift = gaussian(PROCESS), torch.tensor([0.3, -0.1, 0.2])
    for solver in (DDIM(), DDIM(0.5), Ancestral(), Stochastic(1.4)):
        for step in Sampler(solver, 5).steps(truth, 2):
            if step.posterior is not None:
                moved = step.law(step.posterior.with_mean(step.posterior.mean + shift / step.gain))
                torch.testing.assert_close(moved.mean, step.distribution.mean + shift)


def test_a_next_state_may_be_chosen():
    truth = gaussian(PROCESS)
    seen = []
    for step in Sampler(DDIM(), 3).steps(truth, 2, seed=0):
        if step.index == 0:
            step.next = torch.full((2, 3), 7.0)
        seen.append(step.x)
    assert torch.equal(seen[2], torch.full((2, 3), 7.0))


def test_selection_carries_state_condition_and_memory_and_gives_copies_their_own_noise():
    truth, index = mixture(PROCESS), torch.tensor([1, 1, 0])
    kept = None
    for step in Sampler(Ancestral(), 5).steps(truth, 3, seed=0, label=[0, 1, 0]):
        if step.index == 2:
            before = step.next
            step.select(index)
            assert torch.equal(step.next, before[index])
            assert step.condition["label"].tolist() == [1, 1, 0]
        if step.index == 3:
            assert torch.equal(step.x[0], step.x[1])
            kept = step.next
    assert kept is not None and not torch.equal(kept[0], kept[1])


def test_selection_of_a_multistep_run_is_the_run_of_the_selected():
    truth, index = mixture(PROCESS), torch.tensor([2, 0, 0])
    sampler = Sampler(DPMSolverPP(2), 8)
    straight = sampler(truth, 3, seed=0)
    for step in sampler.steps(truth, 3, seed=0):
        if step.index == 3:
            step.select(index)
    torch.testing.assert_close(step.next, straight[index], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", [DDIM(), Ancestral(), DPMSolverPP(2)], ids=repr)
def test_single_steps_chain_to_the_loop(solver):
    truth, sampler = mixture(PROCESS), Sampler(solver, 5)
    steps = list(sampler.steps(truth, 3, seed=2))
    x, memory = steps[0].next, {}
    for i in range(5):
        step = sampler.step(truth, x, i, None, memory, Keyed(2, 3))
        x, memory = step.next, step.memory
    torch.testing.assert_close(x, steps[-1].next, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", [DDIM(), Ancestral(), DPMSolverPP(2)], ids=repr)
def test_a_step_index_may_differ_per_sample(solver):
    """What a tree search needs: nodes of different depths in one network call."""
    truth, sampler = mixture(PROCESS), Sampler(solver, 5)
    steps = {s.index: s for s in sampler.steps(truth, 3, seed=2)}
    depths = torch.tensor([1, 3, 2])
    rows = [(steps[int(d)], i) for i, d in enumerate(depths)]
    x = torch.stack([s.x[i] for s, i in rows])
    memory = {}
    if solver.history:
        owner = solver
        held = torch.stack([steps[int(d) - 1].memory[owner][0][i] for i, d in enumerate(depths)])
        memory = {solver: (held,)}
    mixed = sampler.step(truth, x, depths, None, memory, Keyed(2, 3))
    for i, (step, _) in enumerate(rows):
        torch.testing.assert_close(
            mixed.distribution.mean[i], step.distribution.mean[i], rtol=1e-12, atol=1e-12
        )


def test_older_steps_stay_valid_after_later_ones():
    truth = mixture(PROCESS)
    steps = list(Sampler(DPMSolverPP(2), 5).steps(truth, 2, seed=0))
    for step in steps[1:]:
        torch.testing.assert_close(step.law(step.posterior).mean, step.next, rtol=1e-13, atol=1e-13)


def test_gradients_flow_through_a_run_only_when_asked():
    truth, x = gaussian(PROCESS), torch.randn(2, 3, requires_grad=True)
    sampler = Sampler(DPMSolverPP(2), 6)
    assert not sampler(truth, x).requires_grad
    end = sampler(truth, x, grad=True)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    e = 1e-6
    with torch.no_grad():
        difference = (sampler(truth, x + e).sum() - sampler(truth, x - e).sum()) / (2 * e)
    assert float(gradient.sum()) == pytest.approx(float(difference), rel=1e-6)


def test_the_grad_mode_of_the_caller_is_untouched_around_a_yield():
    truth = gaussian(PROCESS)
    for _ in Sampler(DDIM(), 3).steps(truth, 2):
        assert torch.is_grad_enabled()
    with torch.no_grad():
        for _ in Sampler(DDIM(), 3).steps(truth, torch.randn(2, 3), grad=True):
            assert not torch.is_grad_enabled()


def test_only_some_rows_can_be_evaluated():
    truth, x = mixture(PROCESS), torch.randn(4, 3)
    base, mask = truth(x, 0.8), torch.tensor([True, False, False, True])
    some = truth.where(mask, x, 0.3, None, None, base)
    torch.testing.assert_close(some.mean[mask], truth(x, 0.3).mean[mask])
    assert torch.equal(some.mean[~mask], base.mean[~mask])
    assert some.evaluations.tolist() == [2, 1, 1, 2]


def test_a_velocity_estimate_refuses_stochastic_steps():
    truth = gaussian(PROCESS)
    truth.estimates = "velocity"
    Sampler(DDIM(), 2)(truth, 2)
    with pytest.raises(ValueError, match="dependent coupling"):
        Sampler(Ancestral(), 2)(truth, 2)


def test_the_numbers_of_a_grid_are_made_once():
    sampler = Sampler(DDIM(), 4)
    assert sampler.program(PROCESS) is sampler.program(PROCESS)
    assert all(isinstance(v, float) for _, row in sampler.program(PROCESS) for v in row[:4] if v != ())
    assert sampler.program(VariancePreserving()) is not sampler.program(PROCESS)


def test_a_learned_process_gets_gradients_through_the_rows():
    process = Learned()
    truth = gaussian(process)
    grid = TimeGrid.through([0.9, 0.6, 0.3])
    sampler = Sampler(DDIM(), grid=grid)
    sampler(truth, torch.randn(2, 3), grad=True).sum().backward()
    assert process.pace.grad is not None and process.pace.grad.abs() > 0
    before = process.at(0.5), process.slope(0.5), [row.a for _, row in sampler.program(process)]
    with torch.no_grad():
        process.pace.fill_(2.0)  # numbers that were made earlier must not be kept
    assert process.at(0.5).alpha != before[0].alpha and process.slope(0.5).alpha != before[1].alpha
    assert [row.a for _, row in sampler.program(process)] != before[2]


def test_a_guides_memory_is_per_trajectory_not_on_the_guide():
    from ornstein.guides import Superposition

    other = gaussian(PROCESS)
    guided = Superposition([other])(mixture(PROCESS))
    sampler = Sampler(Ancestral(), 4)
    runs = [list(sampler.steps(guided, 3, seed=1)) for _ in range(2)]
    a, b = (run[-1].memory[guided.guide] for run in runs)
    assert torch.equal(a, b) and vars(guided.guide).keys() == {"others", "log_weights", "fields"}


def test_a_zero_cost_denoiser_sees_python_floats_and_the_step():
    class Watch(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = PROCESS

        def forward(self, x, t, condition=None, step=None):
            assert isinstance(t, float) and step.t == t and step.s < t
            assert step.law(Posterior(PROCESS, x, t, x)).mean.shape == x.shape
            return Posterior(PROCESS, x, t, x)

    Sampler(DPMSolverPP(2), 4)(Watch(), torch.randn(2, 3))
