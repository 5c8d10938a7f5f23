from __future__ import annotations

import math

import pytest

from ornstein.training.options import Options

GOOD = {
    "steps": 100, "batch": 8, "learning_rate": 2.0, "warmup": 10, "schedule": "cosine",
    "weight_decay": 0.0, "clip": 1.0, "ema": 0.99, "precision": "no", "seed": 0, "workers": 0,
    "report_every": 1, "evaluate_every": 0, "sample_every": 0, "checkpoint_every": 1, "keep": 1, "patience": 1,
}  # fmt: skip


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    options = Options(**GOOD)
    assert [options.rate(k) for k in range(10)] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert options.rate(10) == 2.0
    assert options.rate(55) == pytest.approx(1.0)
    assert options.rate(99) == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert options.rate(100) == pytest.approx(0.0, abs=1e-15)


def test_a_constant_rate_stays() -> None:
    options = Options(**{**GOOD, "schedule": "constant", "warmup": 0})
    assert {options.rate(k) for k in range(100)} == {2.0}


def test_the_default_warmup_is_a_tenth_at_most_100() -> None:
    given = {**GOOD, "warmup": None}
    found = [Options.of(**{**given, "steps": steps}).warmup for steps in (4, 50, 5000)]
    assert found == [0, 5, 100]


def test_what_is_done_every_so_often_is_done_at_the_end_too() -> None:
    options = Options(**GOOD)
    assert [k for k in range(1, 101) if options.due(k, 30)] == [30, 60, 90, 100]
    assert not any(options.due(k, 0) for k in range(1, 101))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("steps", 0, ValueError),
        ("steps", 1.5, TypeError),
        ("steps", True, TypeError),
        ("steps", "100", TypeError),
        ("batch", -1, ValueError),
        ("learning_rate", 0, ValueError),
        ("learning_rate", math.nan, ValueError),
        ("learning_rate", math.inf, ValueError),
        ("learning_rate", "fast", TypeError),
        ("warmup", -1, ValueError),
        ("warmup", 100, ValueError),
        ("schedule", "cosin", ValueError),
        ("weight_decay", -0.1, ValueError),
        ("clip", 0.0, ValueError),
        ("ema", 1.0, ValueError),
        ("ema", -0.5, ValueError),
        ("precision", "fp16", ValueError),
        ("seed", -1, ValueError),
        ("report_every", 0, ValueError),
        ("checkpoint_every", 0, ValueError),
        ("evaluate_every", -5, ValueError),
        ("keep", 0, ValueError),
        ("patience", 0, ValueError),
        ("workers", -1, ValueError),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name, value, error) -> None:
    with pytest.raises(error, match=name):
        Options(**{**GOOD, name: value})


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        Options(**{**GOOD, "schedule": "cosin"})
