"""Bias scores against closed forms and the floor of a fair sampler."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.metrics.scenes_bias import attribute_entropy, attribute_shift, bias_report


def values_of(*counts: int) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_by_hand() -> None:
    values, prompts = values_of(30, 10), torch.zeros(40, dtype=torch.long)
    report = bias_report(values, prompts, 2)
    assert report.bias.value == pytest.approx(0.5)
    assert report.distance.value == pytest.approx(math.sqrt(2) * 0.25)
    assert report.information.value == pytest.approx(0, abs=1e-12)
    assert report.counts.tolist() == [[30, 10]]
    assert report.bias.low < 0.5 < report.bias.high


def test_extremes() -> None:
    one, even = torch.zeros(60, dtype=torch.long), values_of(20, 20, 20)
    prompts = torch.zeros(60, dtype=torch.long)
    assert bias_report(one, prompts, 3).bias.value == pytest.approx(
        2 / 3
    )  # 2 / (K (K - 1)) times K - 1 pairs
    assert bias_report(even, prompts, 3).bias.value == pytest.approx(0)
    assert bias_report(even, prompts, 3).distance.value == pytest.approx(0)
    tied = bias_report(values_of(20, 20), values_of(20, 20), 2)
    assert tied.information.value == pytest.approx(1) and tied.bias.value == pytest.approx(1)
    wanted = bias_report(values_of(30, 10), torch.zeros(40, dtype=torch.long), 2, torch.tensor([3.0, 1.0]))
    assert wanted.distance.value == pytest.approx(0) and wanted.bias.value == pytest.approx(0.5)


@pytest.mark.parametrize("n", [100, 400])
def test_the_floor_of_a_fair_sampler(n: int) -> None:
    prompts = torch.zeros(n, dtype=torch.long)
    report = bias_report(torch.arange(n) % 2, prompts, 2, resamples=4000)
    assert report.bias_floor == pytest.approx(math.sqrt(2 / (math.pi * n)), rel=0.05)
    assert report.distance_floor == pytest.approx(math.sqrt(2 / (math.pi * n)) / math.sqrt(2), rel=0.05)


def test_floors_are_those_of_the_wanted_shares_of_even_ones_and_of_the_pooled_law() -> None:
    """Of N draws the share of a value of probability p is off by sqrt(2 p (1 - p) / (pi N)) in the mean."""
    n = 400
    values, prompts = values_of(360, 40), torch.arange(n) % 2
    report = bias_report(values, prompts, 2, torch.tensor([9.0, 1.0]), resamples=2000)
    of = lambda p: math.sqrt(2 * p * (1 - p) / (math.pi * n / 2))  # noqa: E731
    assert report.bias_floor == pytest.approx(2 * of(0.5), rel=0.05)
    assert report.distance_floor == pytest.approx(math.sqrt(2) * of(0.1), rel=0.06)
    assert bias_report(values, prompts, 2).distance_floor == pytest.approx(math.sqrt(2) * of(0.5), rel=0.05)
    always = bias_report(values_of(n, 0), prompts, 2)
    assert always.information_floor == 0 < report.information_floor  # of a value that never varies


def test_floors_go_by_the_samples_of_each_prompt() -> None:
    """One prompt has 16 times as many: the floor is the mean of those of the two."""
    report = bias_report(torch.arange(680) % 2, values_of(40, 640), 2, resamples=2000)
    both = [math.sqrt(2 / (math.pi * n)) for n in (40, 640)]
    assert report.bias_floor == pytest.approx(sum(both) / 2, rel=0.05)


def test_the_floor_of_information() -> None:
    """Miller: about (prompts - 1) (K - 1) / (2 N ln 2) bits."""
    n = 600
    report = bias_report(torch.arange(n) % 3, torch.arange(n) // 3 % 4, 3, resamples=1000)
    assert report.information.value == pytest.approx(0, abs=1e-12)
    assert report.information_floor == pytest.approx(3 * 2 / (2 * n * math.log(2)), rel=0.1)


def test_order_and_names_of_prompts_do_not_matter_and_absent_ones_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-1, 3, (200,), generator=generator)
    prompts = torch.randint(0, 4, (200,), generator=generator)
    base = bias_report(values, prompts, 3)
    order = torch.randperm(200, generator=generator)
    again = bias_report(values[order], 7 * prompts[order] + 5, 3)
    kept = values >= 0
    less = bias_report(values[kept], prompts[kept], 3)
    for other in (again, less):
        for name in ("bias", "distance", "information"):
            assert getattr(other, name).value == pytest.approx(getattr(base, name).value, abs=1e-12)


def test_shift_between_two_sets() -> None:
    found, floor = attribute_shift(values_of(30, 10), values_of(10, 30), 2)
    assert found.value == pytest.approx(0.5) and floor < 0.2
    found, floor = attribute_shift(values_of(200, 200), values_of(100, 100), 2, resamples=2000)
    assert found.value == pytest.approx(0, abs=1e-12)
    spread = math.sqrt(0.25 / 400 + 0.25 / 200)
    assert floor == pytest.approx(spread * math.sqrt(2 / math.pi), rel=0.05)


def test_entropy() -> None:
    assert attribute_entropy(values_of(10, 10, 10, 10), 4).value == pytest.approx(2)
    assert attribute_entropy(values_of(10, 0, 0), 3).value == pytest.approx(0)
    p = torch.tensor([0.25, 0.75])
    assert attribute_entropy(values_of(10, 30), 2).value == pytest.approx(float(-(p * p.log2()).sum()))


@pytest.mark.parametrize(
    "values, prompts, number, message",
    [
        (values_of(2, 2), values_of(2), 2, "one shape"),
        (values_of(2, 2, 2), values_of(6), 2, "more than the largest"),
        (values_of(4), values_of(4), 1, "at least 2"),
        (values_of(4) - 1, values_of(4), 2, "nothing to count"),
    ],
)
def test_wrong_calls(values: torch.Tensor, prompts: torch.Tensor, number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_report(values, prompts, number)
