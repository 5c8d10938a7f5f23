from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Sampler
from ornstein.denoisers import NetworkDenoiser
from ornstein.guides import ClassifierFree, GuidancePolicy, search_policy
from ornstein.networks import ResidualMLP
from ornstein.processes import VariancePreserving
from ornstein.solvers import DDIM

from ..exact import mixture
from .test_adaptive import low_rank

SAMPLER = Sampler(DDIM(), 8)


@pytest.mark.parametrize("choice, calls", [("guided", 16), ("conditional", 8), ("unconditional", 8)])
def test_one_choice_throughout_is_that_model(choice, calls):
    model = mixture(VariancePreserving())
    *_, found = SAMPLER.steps(GuidancePolicy(3.0, [choice] * 8)(model), 4, seed=0, label=1)
    plain = {
        "guided": lambda: SAMPLER(ClassifierFree(3.0)(model), 4, seed=0, label=1),
        "conditional": lambda: SAMPLER(model, 4, seed=0, label=1),
        "unconditional": lambda: SAMPLER(model, 4, seed=0),
    }[choice]()
    torch.testing.assert_close(found.next, plain, rtol=1e-12, atol=1e-12)
    assert found.evaluations == calls


def test_free_evaluations_are_taken_and_dear_ones_are_not():
    model, options = low_rank(VariancePreserving()), {"label": torch.arange(12) % 3, "scale": 3.0}
    free = search_policy(SAMPLER, model, 12, cost=0.0, iterations=40, **options)
    dear = search_policy(SAMPLER, model, 12, cost=100.0, iterations=40, **options)
    assert free.losses[-1] < 0.2 * free.losses[0] and free.probabilities.shape == (8, 3)
    assert "guided" not in dear.policy.choices
    torch.testing.assert_close(free.probabilities.sum(1), torch.ones(8, dtype=torch.float64))


def test_guidance_is_kept_where_the_branches_differ():
    """At the noisiest and at the cleanest levels both branches say the same: those calls go first."""
    model, label = low_rank(VariancePreserving()), torch.arange(24) % 3
    found = search_policy(SAMPLER, model, 24, scale=3.0, cost=3e-3, iterations=80, label=label)
    guided = [i for i, choice in enumerate(found.policy.choices) if choice == "guided"]
    assert 0 < len(guided) < 8
    full, ours, reversed_ = (
        SAMPLER(guide(model), 24, seed=9, label=label)
        for guide in (
            ClassifierFree(3.0),
            found.policy,
            GuidancePolicy(3.0, list(reversed(found.policy.choices))),
        )
    )
    assert (ours - full).norm() < (reversed_ - full).norm()


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    network = ResidualMLP(3, width=16, labels=2)
    model = NetworkDenoiser(network, VariancePreserving(), "edm", (3,)).double()
    before = [p.clone() for p in model.parameters()]
    search_policy(SAMPLER, model, 4, scale=2.0, iterations=2, label=1)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))


def test_rows_and_choices_are_checked():
    with pytest.raises(ValueError, match="Did you mean 'guided'"):
        GuidancePolicy(2.0, ["guide"])
    model = mixture(VariancePreserving())
    condition = Condition({"label": torch.tensor([1, 1])})
    guided, x = GuidancePolicy(2.0, ["guided"] * 8)(model), torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="one row of the grid"):
        SAMPLER.step(guided, x, torch.tensor([0, 1]), condition)
    SAMPLER.step(guided, x, torch.tensor([1, 1]), condition)
