"""Effects are paired, and their intervals hold the truth at their rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ornstein.claim import Effect, Interval


def by_seed(a: Any, b: Any) -> dict[int, dict[str, float]]:
    return {i: {"a": float(x), "b": float(y)} for i, (x, y) in enumerate(zip(a, b, strict=True))}


def test_a_difference_is_paired() -> None:
    found = Effect("gain", "a", "b").over(by_seed([101, 202, 303], [100, 200, 300]))
    assert found.value == pytest.approx(2)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)  # t of 2 degrees, s = 1
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)


def test_a_ratio_is_the_geometric_mean_of_paired_ratios() -> None:
    found = Effect("ratio", "a", "b", ratio=True).over(by_seed([2, 80], [1, 10]))
    assert found.value == pytest.approx(4)
    assert found.low * found.high == pytest.approx(16)
    inverse = Effect("ratio", "b", "a", ratio=True).over(by_seed([2, 80], [1, 10]))
    assert inverse.low == pytest.approx(1 / found.high)


def test_a_number_alone_is_its_mean() -> None:
    assert Effect("mean", "a").over(by_seed([1, 2, 3], [0, 0, 0])).value == 2


def draws(kind: str, n: int, generator: np.random.Generator) -> dict[int, dict[str, float]]:
    """Numbers whose spread between seeds is far larger than that of the effect, which is 1."""
    shared = 5 * generator.normal(size=n)
    if kind == "normal":
        a, b = shared + 1 + generator.normal(size=n), shared + generator.normal(size=n)
    elif kind == "skewed":
        a, b = shared + generator.exponential(size=n), shared
    else:
        a, b = np.exp(shared + 0.3 * generator.normal(size=n)), np.exp(shared)
    return by_seed(a, b)


@pytest.mark.parametrize(
    "kind, effect, seeds, least, most",
    [
        ("normal", Effect("e", "a", "b"), 2, 0.935, 0.965),
        ("normal", Effect("e", "a", "b"), 5, 0.935, 0.965),
        ("normal", Effect("e", "a", "b", level=0.8), 5, 0.775, 0.825),
        ("lognormal", Effect("e", "a", "b", ratio=True), 4, 0.935, 0.965),
        ("normal", Effect("e", "a", "b", interval="bootstrap"), 10, 0.92, 0.98),
        ("skewed", Effect("e", "a", "b", interval="bootstrap"), 10, 0.88, 0.97),
    ],
)
def test_the_interval_holds_the_truth_at_its_rate(
    kind: str, effect: Effect, seeds: int, least: float, most: float
) -> None:
    generator = np.random.default_rng(0)
    count = 4000 if effect.interval == "t" else 1000
    found = [effect.over(draws(kind, seeds, generator)) for _ in range(count)]
    assert least < np.mean([x.low <= 1 <= x.high for x in found]) < most


def test_the_bootstrap_is_the_same_each_time() -> None:
    numbers = draws("skewed", 12, np.random.default_rng(0))
    effect = Effect("e", "a", "b", interval="bootstrap")
    assert effect.over(numbers) == effect.over(numbers)


@pytest.mark.parametrize("interval, fewest", [("t", 2), ("bootstrap", 8)])
def test_with_too_few_seeds_there_is_no_interval(interval: str, fewest: int) -> None:
    effect = Effect("e", "a", interval=interval)
    without = effect.over(by_seed(range(fewest - 1), range(fewest - 1)))
    assert without.low is without.high is None
    assert "no interval" in str(without)
    assert not without.above(-math.inf)
    assert not without.below(math.inf)
    assert effect.over(by_seed(range(fewest), range(fewest))).low is not None


def test_above_and_below_ask_for_the_whole_interval() -> None:
    found = Interval(value=1.0, low=0.5, high=1.5, seeds=3, level=0.95)
    assert found.above(0.4)
    assert not found.above(0.6)
    assert found.below(1.6)
    assert not found.below(1.4)
    assert str(found) == "1 [0.5, 1.5] (95%, 3 seeds)"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"interval": "boot"}, "unknown interval 'boot'. Did you mean 'bootstrap'"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
        ({"ratio": True}, "'e' is a ratio and needs `against`"),
    ],
)
def test_a_wrong_effect_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Effect("e", "a", **arguments)


def test_numbers_that_an_effect_cannot_use_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown number 'c'"):
        Effect("e", "a", "c").over(by_seed([1], [1]))
    with pytest.raises(ValueError, match=r"is a ratio, but b is 0\.0 at seed 1"):
        Effect("e", "a", "b", ratio=True).over(by_seed([1, 1], [1, 0]))
