"""Grids by search: each against brute force on a Gaussian, where the end's law is known for every grid."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

import ornstein as orn
from ornstein.core import Sampler, TimeGrid
from ornstein.denoisers import LayerSkip, NetworkDenoiser
from ornstein.networks import ResidualMLP, UNet
from ornstein.processes import RectifiedFlow, VariancePreserving
from ornstein.solvers import (
    DDIM,
    Both,
    Depths,
    DPMSolverPP,
    EvolutionarySearch,
    ExponentialAdams,
    TimeSteps,
    descended,
    path_costs,
    quadratic,
    shortest,
)

from ..exact import mixture

VARIANCE = 0.3


def wasserstein(process, grid: TimeGrid) -> float:
    """W2 between N(0, v) and what DDIM makes of N(0, sigma_1^2) with the exact denoiser: linear, so closed form."""
    scale = process.at(1.0).sigma
    for row in DDIM().on(process).rows(process, grid):
        level = process.at(row.t)
        scale *= row.a + row.b * level.alpha * VARIANCE / (level.alpha**2 * VARIANCE + level.sigma**2)
    return abs(abs(scale) - math.sqrt(VARIANCE))


@pytest.fixture
def space():
    return TimeSteps(3, 20)


def fitness_of(space, process):
    return lambda candidate: wasserstein(process, space.grid(candidate))


@pytest.mark.parametrize("steps", [2, 3])
def test_the_search_finds_what_brute_force_finds(steps):
    process, space = VariancePreserving(), TimeSteps(steps, 24)
    fitness = fitness_of(space, process)
    every = [(23, *rest) for rest in itertools.combinations(range(22, -1, -1), steps - 1)]
    best = min(every, key=fitness)
    found = EvolutionarySearch(space, fitness).run(asked=200)
    assert found.best == best and found.fitness == fitness(best)
    assert fitness(best) < 0.65 * fitness(space.first())


def test_without_changes_and_draws_the_first_candidate_is_returned(space):
    search = EvolutionarySearch(
        space, fitness_of(space, VariancePreserving()), crossed=0, mutated=0, drawn=False
    )
    found = search.run(asked=100)
    assert found.best == space.first() and len(found.known) == 1
    times = [row.t for row in space.grid(found.best)]
    torch.testing.assert_close(torch.tensor(times), torch.tensor([1.0, 2 / 3, 1 / 3]), atol=0.05, rtol=0)


def test_the_best_never_gets_worse_and_nothing_is_asked_twice(space):
    asked = []
    fitness = fitness_of(space, VariancePreserving())
    search = EvolutionarySearch(space, lambda c: asked.append(c) or fitness(c), population=20, top=5)
    found = search.run(asked=80, seed=1)
    assert found.history == sorted(found.history, reverse=True)
    assert len(asked) == len(set(asked)) == len(found.known) <= 80
    assert search.run(asked=80, seed=1).best == found.best


def test_the_order_in_which_indices_are_given_does_not_matter(space):
    assert space.candidate([3, 19, 7]) == space.candidate([19, 7, 3]) == (19, 7, 3)
    with pytest.raises(ValueError, match="3 distinct"):
        space.candidate([3, 3, 7])


def test_children_never_become_shorter(space):
    source = random.Random(0)
    for _ in range(300):
        one, other = space.draw(source), space.draw(source)
        for child in (space.cross(one, other, source), space.mutate(one, 0.5, source)):
            assert len(set(child)) == 3 and child[0] == 19
            assert child == space.candidate(child)


def test_a_small_space_ends_by_itself():
    space = TimeSteps(2, 4)
    found = EvolutionarySearch(space, lambda c: c[1], population=3, top=2).run(asked=1000)
    assert len(found.known) <= 3 and found.best == (3, 0)


def test_a_grid_is_read_as_its_nearest_candidate():
    space = TimeSteps(4, 1000)
    assert space.nearest(TimeGrid.uniform(4)) == space.first()
    assert space.nearest(space.grid(space.draw(random.Random(0)))) == space.draw(random.Random(0))


def test_depths_stay_within_the_budget():
    space, source = Depths(3, ["a", "b"], 2), random.Random(0)
    assert space.plan(space.first()) == [[], [], []]
    for _ in range(200):
        one = space.mutate(space.draw(source), 0.5, source)
        assert len(one) <= 2 and len(space.cross(one, space.draw(source), source)) <= 2
    pair = Both(TimeSteps(3, 9), space)
    times, plan = pair.cross(pair.first(), pair.mutate(pair.draw(source), 0.3, source), source)
    assert len(times) == 3 and len(plan) <= 2


def test_the_shortest_path_is_that_of_brute_force():
    times = torch.linspace(1, 0, 8).tolist()
    costs = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    for steps in (1, 2, 4, 7):
        paths = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), steps - 1)]
        best = min(paths, key=lambda p: sum(float(costs[a, b]) for a, b in itertools.pairwise(p)))
        assert shortest(times, costs, steps) == TimeGrid.through([times[i] for i in best])
    with pytest.raises(ValueError, match="steps: expected 1 to 7"):
        shortest(times, costs, 8)
    with pytest.raises(ValueError, match="costs: expected shape"):
        shortest(times, costs[:3], 2)


def end_error(model, solver, grid, x, end) -> float:
    return float((Sampler(solver, grid=grid)(model, x) - end).square().mean())


@pytest.mark.parametrize("steps", [4, 6])
@pytest.mark.parametrize("process", [VariancePreserving(), RectifiedFlow()], ids=repr)
def test_dynamic_programming_on_learned_costs_beats_every_builder(process, steps):
    """On fresh starts."""
    model = mixture(process)
    x, fresh = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
    times = [*(row.t for row in TimeGrid.log_snr(50, process, smallest=0.02)), 0.0]
    grid = shortest(times, path_costs(model, ExponentialAdams(3), x, times), steps)
    end = Sampler(ExponentialAdams(3), 100)(model, fresh)
    others = [TimeGrid.named(kind, steps, process) for kind in ("uniform", "log-snr", "karras")]
    errors = [end_error(model, DDIM(), g, fresh, end) for g in (grid, quadratic(steps), *others)]
    assert errors[0] < min(errors[1:])


@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP(2)], ids=repr)
def test_descent_improves_a_grid_on_fresh_starts(solver):
    process = VariancePreserving()
    model = mixture(process)
    x, fresh = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(0))
    ends = [Sampler(ExponentialAdams(3), 100)(model, start) for start in (x, fresh)]
    grid = TimeGrid.log_snr(5, process)
    found = descended(model, solver, x, lambda end: (end - ends[0]).square().mean(), grid, 25)
    assert found[0].t == 1.0 and found[-1].s == 0.0 and len(found) == 5
    assert all(row.s < row.t for row in found)
    assert end_error(model, solver, found, fresh, ends[1]) < 0.7 * end_error(
        model, solver, grid, fresh, ends[1]
    )


def test_descent_begins_at_the_grid_itself():
    model = mixture(RectifiedFlow())
    grid = TimeGrid.uniform(4)
    same = descended(model, DDIM(), torch.randn(5, 3), lambda end: (end**2).mean(), grid, 0)
    torch.testing.assert_close(torch.tensor([r.t for r in same]), torch.tensor([r.t for r in grid]))


def test_the_quadratic_grid():
    assert [row.t for row in quadratic(2)] == [1.0, 0.25]


@pytest.fixture(scope="module")
def denoiser():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(1, width=16, multipliers=(1, 2), blocks=2, attention=(1,), labels=3).float()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return NetworkDenoiser(network, RectifiedFlow(), shape=(1, 8, 8)).eval()


def test_a_plan_that_keeps_all_is_the_network_bit_for_bit(denoiser):
    plain = orn.sample(denoiser, 3, steps=4, seed=1, label=1)
    assert torch.equal(orn.sample(LayerSkip(denoiser, [[]] * 4), 3, steps=4, seed=1, label=1), plain)


def test_a_view_shares_its_parameters_and_leaves_blocks_out(denoiser):
    network = denoiser.network
    assert network.residual_blocks[0] == "encoder.0.blocks.0" and len(network.residual_blocks) == 8
    view = network.without(["encoder.0.blocks.1", "decoder.0.blocks.0"])
    names = dict(network.named_parameters())
    assert all(p is names[k] for k, p in view.named_parameters())
    assert len(list(view.parameters())) < len(names)
    x, level = torch.randn(2, 1, 8, 8, dtype=torch.float32), torch.zeros(2, dtype=torch.float32)
    assert not torch.equal(view(x, level), network(x, level))
    assert torch.equal(network.without([])(x, level), network(x, level))
    with pytest.raises(ValueError, match=r"unknown residual block 'encoder\.7'"):
        network.without(["encoder.7"])


def test_a_plan_acts_at_its_own_steps(denoiser):
    blocks = denoiser.network.residual_blocks
    skipping = LayerSkip(denoiser, [[], blocks[:2], [], []])
    plain, skipped = (
        list(Sampler(DDIM(), 4).steps(m, torch.randn(2, 1, 8, 8, dtype=torch.float32)))
        for m in (denoiser, skipping)
    )
    del plain
    for step in skipped:
        whole = denoiser(step.x, step.t, step.condition)
        assert torch.equal(step.posterior.mean, whole.mean) == (step.index != 1)
    assert sum(p.numel() for p in skipping.parameters()) == sum(p.numel() for p in denoiser.parameters())
    with pytest.raises(ValueError, match="plan of 4 steps has nothing for step 4"):
        Sampler(DDIM(), 5)(skipping, 2)
    with pytest.raises(ValueError, match="ResidualMLP has no view"):
        LayerSkip(NetworkDenoiser(ResidualMLP(2), RectifiedFlow(), shape=(2,)), [[]])
