from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import one_hot

from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.processes import Absorbing, UniformNoise
from ornstein.solvers import Ancestral

from ..exact import DISCRETE, TABLE, TABLE_WEIGHTS, table


@pytest.fixture(params=DISCRETE)
def process(request):
    return DISCRETE[request.param](3)


def test_the_bridge_is_bayes_rule(process):
    """q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0), for every triple that can occur."""
    s, t = 0.35, 0.8
    states = torch.arange(process.states)
    for x_0 in range(3):
        start = torch.tensor([x_0])
        for x_t in states:
            law = process.bridge(x_t[None], start, t, s).logits[0].softmax(-1)
            reach = process.kernel(states, s, t).logits.softmax(-1)[:, x_t]
            joint = process.marginal(start, s).logits[0].softmax(-1) * reach
            if joint.sum() > 0:
                torch.testing.assert_close(law, joint / joint.sum())


def test_kernels_compose_to_the_marginal(process):
    start = torch.arange(3)
    first = process.marginal(start, 0.3).logits.softmax(-1)
    then = process.kernel(torch.arange(process.states), 0.3, 0.7).logits.softmax(-1)
    torch.testing.assert_close(first @ then, process.marginal(start, 0.7).logits.softmax(-1))


def test_the_bridge_of_a_posterior_is_the_average_of_bridges(process):
    probs = torch.tensor([[0.2, 0.5, 0.3]])
    for x_t in range(process.states):
        x = torch.tensor([x_t])
        averaged = process.bridge(x, probs, 0.6, 0.2).logits.softmax(-1)
        each = [process.bridge(x, torch.tensor([k]), 0.6, 0.2).logits.softmax(-1) for k in range(3)]
        torch.testing.assert_close(averaged, sum(p * b for p, b in zip(probs[0], each, strict=True)))


def test_the_exact_posterior_is_bayes_rule_by_enumeration(process):
    truth, t = table(process), 0.6
    weights = TABLE_WEIGHTS.double() / TABLE_WEIGHTS.sum()
    for x in itertools.product(range(process.states), repeat=3):
        seen = torch.tensor([x])
        marginal = process.marginal(TABLE, t).logits.softmax(-1)
        joint = weights * marginal.gather(-1, seen.T[None].expand(5, 3, 1)).squeeze(-1).prod(1)
        expected = torch.einsum("n,nlk->lk", joint / joint.sum(), one_hot(TABLE, 3).double())
        if joint.sum() > 0:
            torch.testing.assert_close(truth(seen, t).probs[0], expected)
            torch.testing.assert_close(truth.log_density(seen, t)[0], joint.sum().log())


def _law_after(process, steps: int) -> torch.Tensor:
    """The law of the factorised ancestral sampler, by enumerating all states: no sampling error."""
    truth = table(process)
    every = torch.tensor(list(itertools.product(range(process.states), repeat=3)))
    prior = process.prior(every)
    law = prior.log_prob(every).exp()
    for row in TimeGrid.uniform(steps):
        step = process.bridge(every, truth(every, row.t), row.t, row.s)
        logits = step.logits.log_softmax(-1)  # (S, L, K)
        picked = [logits[:, i, every[:, i]] for i in range(3)]
        reach = sum(picked).exp()
        law = law @ torch.where(law[:, None] > 0, reach, 0.0)  # states that cannot occur have no posterior
    return law


def _distance(process, steps: int) -> float:
    every = list(itertools.product(range(process.states), repeat=3))
    law = _law_after(process, steps)
    assert float(law.sum()) == pytest.approx(1.0)
    truth = torch.zeros(len(every))
    weights = TABLE_WEIGHTS.double() / TABLE_WEIGHTS.sum()
    for row, weight in zip(TABLE.tolist(), weights, strict=True):
        truth[every.index(tuple(row))] += weight
    return float((law - truth).abs().sum() / 2)


def test_total_variation_to_the_data_falls_as_one_over_the_steps(process):
    distances = [_distance(process, n) for n in (16, 32, 64)]
    for coarse, fine in itertools.pairwise(distances):
        assert coarse / fine == pytest.approx(2.0, abs=0.25)
    assert distances[-1] < 0.05


def test_the_sampler_draws_from_the_enumerated_law(process):
    n, steps = 40_000, 8
    drawn = Sampler(Ancestral(), steps)(table(process), n, seed=2)
    every = torch.tensor(list(itertools.product(range(process.states), repeat=3)))
    law = _law_after(process, steps)
    seen = torch.stack([(drawn == row).all(1).double().mean() for row in every])
    assert float((seen - law).abs().max()) < 4.5 * 0.5 / n**0.5


def test_known_entries_stay_and_nothing_is_left_masked():
    process = Absorbing(3)
    steps = list(Sampler(Ancestral(), 12).steps(table(process), 50, seed=0))
    for step in steps[1:]:
        shown = step.x != process.mask
        assert torch.equal(step.next[shown], step.x[shown])
    assert not (steps[-1].next == process.mask).any()
    early = Sampler(Ancestral(), grid=TimeGrid.uniform(4)[:2])(table(process), 50)
    assert not (early == process.mask).any()  # the readout fills what is left


def test_times_per_sample_are_the_scalar_times_side_by_side(process):
    x = torch.tensor([[0, 1, 2], [2, 2, 1]]) if process.states == 3 else torch.tensor([[3, 1, 3], [3, 3, 3]])
    probs = torch.rand(2, 3, 3).softmax(-1)
    t, s = torch.tensor([0.9, 0.4]), torch.tensor([0.3, 0.4])
    rows = process.bridge(x, probs, t, s).logits.softmax(-1)
    for i in range(2):
        one = process.bridge(x[i : i + 1], probs[i : i + 1], float(t[i]), float(s[i])).logits.softmax(-1)
        torch.testing.assert_close(rows[i], one[0])


def test_log_probabilities_along_a_trajectory_give_the_density_of_the_data():
    """log q_s(x_s) = log q_t(x_t) + log p(x_s | x_t) - log q(x_t | x_s), with the exact reverse kernel of one entry."""
    process = UniformNoise(3)
    from ornstein.denoisers import TableDenoiser

    truth = TableDenoiser(torch.arange(3)[:, None], [0.2, 0.5, 0.3], process)
    x_t = torch.tensor([[0], [1], [2], [2]])
    x_s = process.bridge(x_t, truth(x_t, 0.7), 0.7, 0.2).sample(Keyed(0, 4))
    backward = process.bridge(x_t, truth(x_t, 0.7), 0.7, 0.2).log_prob(x_s)
    forward = process.kernel(x_s, 0.2, 0.7).log_prob(x_t)
    gained = truth.log_density(x_t, 0.7) + backward - forward
    torch.testing.assert_close(gained, truth.log_density(x_s, 0.2), rtol=1e-12, atol=1e-12)
