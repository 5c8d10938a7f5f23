"""The text encoder that ships does what its card says."""

from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein import data, zoo
from ornstein.conditions import TextEncoder
from ornstein.data.scenes import WORDS
from ornstein.metrics import retrieval


@pytest.fixture(scope="module")
def model():
    return orn.load("scenes-text")


def test_it_knows_all_words_of_the_captions(model):
    assert isinstance(model.encoder, TextEncoder) and model.encoder is model.pair.text
    said = data.load("scenes", count=500).held_out.texts
    ids = model.encoder.tokenise(said)
    assert set(WORDS) <= set(model.encoder.tokeniser.vocabulary) and not (ids == 3).any()
    assert int(model.encoder.mask(ids).sum(1).max()) <= 28  # of 32


def test_its_retrieval_is_that_of_the_card(model):
    split = data.load("scenes", count=12_800).held_out
    x = split.batch(torch.arange(512))["x_0"]
    found = retrieval(model.pair, x, model.encoder.tokenise(split.texts[:512]))
    told = zoo.card("scenes-text")["measured"]
    for way, measured in found.items():
        assert measured.low < told[f"held-out scenes: {way}, of 256"]["samples"]["value"] < measured.high
