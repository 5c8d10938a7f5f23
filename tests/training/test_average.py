from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ornstein.training import Average


def walk(average: Average, module: nn.Module, steps: int) -> list[torch.Tensor]:
    """Random weights, taken in one after the other; a_0 first."""
    seen = [module.weight.detach().clone()]
    for _ in range(steps):
        with torch.no_grad():
            module.weight.normal_()
        average.update()
        seen.append(module.weight.detach().clone())
    return seen


def test_it_equals_its_closed_form() -> None:
    module = nn.Linear(3, 2).double()
    average = Average(module, 0.9, warmup=False)
    seen = walk(average, module, 20)
    closed = 0.9**20 * seen[0] + sum(0.1 * 0.9 ** (20 - n) * seen[n] for n in range(1, 21))
    torch.testing.assert_close(average.module.weight, closed, rtol=1e-12, atol=1e-12)


def test_with_warm_up_it_equals_its_closed_form() -> None:
    module = nn.Linear(3, 2).double()
    average = Average(module, 0.999)
    seen = walk(average, module, 50)
    closed = seen[0]
    for n in range(1, 51):
        d = (1 + n) / (10 + n)
        closed = d * closed + (1 - d) * seen[n]
    torch.testing.assert_close(average.module.weight, closed, rtol=1e-12, atol=1e-12)


def test_the_decay_rises_to_what_was_asked() -> None:
    average = Average(nn.Linear(1, 1), 0.9)
    decays = []
    for _ in range(200):
        decays.append(average.next_decay())
        average.update()
    assert decays[0] == 2 / 11
    assert decays == sorted(decays)
    assert decays[-1] == 0.9


def test_a_weight_counts_half_after_the_half_life() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(module.weight)
    average = Average.of_half_life(module, 25, warmup=False)
    nn.init.zeros_(module.weight)
    for _ in range(25):
        average.update()
    assert average.module.weight.item() == pytest.approx(0.5, rel=1e-12)


def test_buffers_are_copied_and_the_module_is_left_alone() -> None:
    module = nn.BatchNorm1d(2)
    average = Average(module, 0.99)
    module(torch.randn(8, 2))
    average.update()
    torch.testing.assert_close(average.module.running_mean, module.running_mean, rtol=0, atol=0)
    assert module.training
    assert module.weight.requires_grad
    assert not average.module.training
    assert not average.module.weight.requires_grad


def test_it_goes_on_from_its_state() -> None:
    module = nn.Linear(3, 2)
    average = Average(module, 0.99)
    walk(average, module, 5)
    again = Average(copy.deepcopy(module), 0.99)
    again.load_state_dict(copy.deepcopy(average.state_dict()))
    assert again.updates == 5
    with torch.no_grad():
        again._followed[0].copy_(module.weight)
    average.update()
    again.update()
    assert torch.equal(average.module.weight, again.module.weight)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay: expected"):
        Average(nn.Linear(1, 1), decay)


def test_a_half_life_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="half-life"):
        Average.of_half_life(nn.Linear(1, 1), 0)
