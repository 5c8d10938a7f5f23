from __future__ import annotations

import pytest
import torch

from ornstein.alignment import BestOf
from ornstein.core import Sampler
from ornstein.processes import Absorbing, RectifiedFlow, VariancePreserving
from ornstein.rewards import PosteriorValue
from ornstein.solvers import DDIM, Ancestral

from ..exact import gaussian, joint, mixture


def _reward(x, condition=None):
    return x.sum(1)


def test_one_candidate_is_the_sampler():
    truth, sampler = mixture(VariancePreserving()), Sampler(Ancestral(), 6)
    found = BestOf(PosteriorValue(_reward, truth), 1)(sampler, truth, 4, seed=3)
    torch.testing.assert_close(found, sampler(truth, 4, seed=3))


def test_more_candidates_give_more_reward():
    truth, sampler = mixture(VariancePreserving()), Sampler(Ancestral(), 8)
    means = [
        float(_reward(BestOf(PosteriorValue(_reward, truth), m)(sampler, truth, 400, seed=0)).mean())
        for m in (1, 2, 4, 8)
    ]
    assert means == sorted(means) and means[-1] > means[0] + 0.5


def test_a_deterministic_solver_is_searched_over_its_start_alone():
    """Then it is best-of-M of whole samples, and for a linear reward on a Gaussian exactly so."""
    truth, sampler = gaussian(RectifiedFlow()), Sampler(DDIM(), 5)
    steps = list(BestOf(PosteriorValue(_reward, truth), 6).steps(sampler, truth, 3, seed=1))
    starts = steps[0].distribution.sample(steps[0].noise, (6,))
    values = torch.stack([_reward(truth(x, 1.0).mean) for x in starts])
    best = starts[values.argmax(0), torch.arange(3)]
    torch.testing.assert_close(steps[0].next, best)
    torch.testing.assert_close(steps[-1].next, sampler(truth, best))


def test_greedy_choice_at_one_step_is_the_order_statistics_law():
    """The maximum of M normals: for M = 4 its mean is 1.0294 standard deviations (Harter 1961)."""
    truth, sampler = gaussian(RectifiedFlow()), Sampler(DDIM(), 1)
    found = []
    for step in BestOf(lambda x, t, c: x[:, 0], 4).steps(sampler, truth, 40_000, seed=0):
        found.append(step.next)
    assert float(found[0][:, 0].mean()) == pytest.approx(1.0294, abs=0.02)


def test_trees_and_conditions_are_searched_too():
    tree = joint(RectifiedFlow(), Absorbing(2))
    value = PosteriorValue(lambda x, c: x["label"].double(), tree)
    plain = Sampler(Ancestral(), 6)(tree, 300, seed=0)["label"].double().mean()
    found = BestOf(value, 4)(Sampler(Ancestral(), 6), tree, 300, seed=0)["label"].double().mean()
    assert found > plain + 0.1
    truth = mixture(VariancePreserving())
    BestOf(PosteriorValue(_reward, truth), 3)(Sampler(Ancestral(), 3), truth, 2, label=[0, 1])
    with pytest.raises(ValueError, match="candidates"):
        BestOf(value, 0)
