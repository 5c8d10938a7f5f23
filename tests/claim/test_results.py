"""Every record in claims/results is of the claim as it stands: its words, its effects, and its own rule's verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ornstein.claim import runner
from ornstein.claim.definition import recorded

CLAIMS = Path(__file__).parents[2] / "claims"
RECORDS = sorted((CLAIMS / "results").glob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_follows_from_its_numbers_by_the_claims_own_rule(path):
    record, claim = json.loads(path.read_text("utf-8")), runner._load(path.stem, CLAIMS)
    assert (record["claim"], record["baseline"]) == (claim.statement, claim.baseline)
    assert set(record["effects"]) == {effect.name for effect in claim.effects}
    numbers = {int(seed): row for seed, row in record["numbers"].items()}
    effects = {effect.name: effect.over(numbers) for effect in claim.effects}
    verdict, _ = recorded(claim.judge(effects), record["budget"], effects)
    assert record["verdict"] == verdict
