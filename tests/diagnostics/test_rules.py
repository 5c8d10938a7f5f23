"""The rules of claims about fields and features: what each verdict needs, on numbers made up for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ornstein.claim import Interval, runner

CLAIMS = Path(__file__).parents[2] / "claims"


def sure(value: float) -> Interval:
    return Interval(value, value, value, 3, 0.95)


def judged(slug: str, default: float = 0.0, **found: float):
    """The verdict where every effect is `default`, and those whose names have a given part are as given."""
    claim = runner._load(slug, CLAIMS)
    values = {}
    for effect in claim.effects:
        values[effect.name] = default
        for part, value in found.items():
            if part.replace("_", " ") in effect.name:
                values[effect.name] = value
    return claim.judge({name: sure(value) for name, value in values.items()})


@pytest.mark.parametrize(
    "found, verdict",
    [
        ({}, "not reproduced"),
        ({"jacobian: free less gradient": 1.0}, "partly"),
        ({"free less": 1.0}, "reproduced"),
        ({"free less": 1.0, "covariance": 1.0}, "not reproduced"),
    ],
)
def test_gauges_alone_are_not_the_claim_of_gauge_freedom(found, verdict):
    assert judged("gauge-freedom", **found).verdict == verdict


def seed_of(asymmetry: float, gauge: float) -> dict[str, float]:
    module = runner._module("wasserstein-flow", CLAIMS / "wasserstein-flow.py")
    found = {f"{name} asymmetry {v}": 0.2 for name in ("plane", "digits") for v in module.LEVELS}
    found |= {f"gradient asymmetry {v}": 1e-7 for v in module.LEVELS}
    found |= {"digits asymmetry 3.0": asymmetry, "gauge asymmetry": 1.3}
    found |= {"exact distance": -0.0009, "gauge distance": gauge, "frozen distance": 2.24}
    return module._decided(found)


def test_asymmetry_above_rounding_is_not_enough():
    assert seed_of(0.009, 0.0)["asymmetric"] == 0.0
    assert seed_of(0.01, 0.0)["asymmetric"] == 1.0


def test_a_gauge_is_harmless_only_beside_the_exact_score():
    assert seed_of(0.2, 0.0254)["harmless"] == 0.0
    assert seed_of(0.2, 0.0005)["harmless"] == 1.0


def test_a_world_in_which_clean_data_do_not_help_is_not_testable():
    found = judged("ambient", -1.0, **{"digits: clean - small": 0.1})
    assert found.verdict == "partly" and "not testable on digits" in found.reason
    found = judged("ambient", 1.0, **{"ring: clean - small": -1.0})
    assert found.verdict == "not reproduced" and "not testable on digits" in found.reason
    assert judged("ambient", 1.0).verdict == "not testable here"
    assert judged("ambient", -1.0).verdict == "reproduced"


def test_a_rival_whose_level_was_not_chosen_decides_nothing():
    inside = {"depth": 0.1, "level: best": 0.1}
    assert judged("diffusion-features", 0.1, **{"- one level": -0.1}).verdict == "reproduced"
    assert judged("diffusion-features", -0.1, **inside, **{"- one level": 0.1}).verdict == "not reproduced"


@pytest.mark.parametrize(
    "found, verdict",
    [
        ({"accuracy: fed back": 0.1, "accuracy: contrastive": 0.1}, "reproduced"),
        ({"accuracy: fed back": 0.1}, "partly"),
        ({"accuracy: contrastive": 0.1}, "not reproduced"),
    ],
)
def test_the_costlier_arm_does_not_stand_for_the_claims_own(found, verdict):
    assert judged("ddae-plus", **found).verdict == verdict
