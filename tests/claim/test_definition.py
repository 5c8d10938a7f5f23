"""Verdicts follow the rules: what proves nothing is not recorded as a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ornstein.claim import Claim, Interval, Verdict
from ornstein.claim.definition import recorded
from ornstein.papers import VERDICTS

Run = Callable[..., tuple[Any, str]]
Write = Callable[..., None]
Saved = Callable[[], dict[str, Any]]


def test_a_claim_must_measure_and_judge() -> None:
    class Half(Claim):
        slug, statement, baseline, effects = "score-sde", "S.", "B.", ()

        def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> dict[str, float]:
            return {}

    with pytest.raises(TypeError, match="judge"):
        Half()


def test_other_verdicts_and_silent_ones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown verdict 'reproducd'\. Did you mean 'reproduced'"):
        Verdict("reproducd", "because")
    with pytest.raises(ValueError, match="reason of verdict 'partly' is empty"):
        Verdict("partly", " ")


def test_a_smoke_run_is_never_evidence(run: Run, saved: Saved) -> None:
    result, text = run("score-sde", "smoke")
    assert result.verdict == saved()["verdict"] == "smoke: not evidence"
    assert "its rule would say 'reproduced'" in result.reason
    assert "smoke: not evidence" in text


def test_a_quick_run_with_an_interval_is_judged_by_its_rule(toy: str, write: Write, run: Run) -> None:
    result, text = run("score-sde", "quick")
    assert result.verdict == "reproduced"
    assert 0.5 < result.effects["gain"]["low"] < result.effects["gain"]["high"] < 1.5
    assert "gain: new - old = " in text
    assert "The method [new] gains one" in text  # brackets are text, not markup
    write(toy.replace("shared + 1 +", "shared +"))
    assert run("score-sde", "quick")[0].verdict == "not reproduced"


def test_a_run_without_interval_is_not_evidence(run: Run, saved: Saved) -> None:
    result, _ = run("score-sde", "quick", seeds=[7])
    assert result.verdict == "no interval: not evidence"
    assert "too few seeds for gain" in result.reason
    assert saved()["effects"]["gain"]["low"] is None


@pytest.mark.parametrize("verdict", VERDICTS)
def test_what_is_recorded_in_place_of_a_verdict(verdict: str) -> None:
    measured, single = Interval(1.0, 0.5, 1.5, 3, 0.95), Interval(1.0, None, None, 1, 0.95)
    ruling = Verdict(verdict, "because")
    assert recorded(ruling, "full", {"e": measured}) == (verdict, "because")
    assert recorded(ruling, "smoke", {"e": measured})[0] == "smoke: not evidence"
    for effects in ({}, {"e": measured, "f": single}):
        found, reason = recorded(ruling, "full", effects)
        silent = verdict == "not testable here"
        assert found == (verdict if silent else "no interval: not evidence")
        assert "because" in reason
