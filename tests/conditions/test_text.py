from __future__ import annotations

import warnings

import pytest
import torch

from ornstein.conditions import TextEncoder, Tokeniser
from ornstein.core import build
from ornstein.networks import TextTransformer

WORDS = ("a", "red", "blue", "circle", "circles", "left", "of", ",")
PROMPT = "A red circle, left of a Zürich-blue circle"


@pytest.fixture
def tokeniser() -> Tokeniser:
    return Tokeniser(WORDS, 40)


@pytest.fixture
def encoder(tokeniser: Tokeniser) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(
        tokeniser, TextTransformer(tokeniser.size, 40, width=16, depth=2, heads=2, code=5)
    ).double()


def test_known_words_are_one_id_each_between_start_and_end(tokeniser):
    (row,) = tokeniser(["red  circle,\nBLUE"]).tolist()
    red, circle, comma, blue = (260 + WORDS.index(w) for w in ("red", "circle", ",", "blue"))
    assert row == [1, red, circle, comma, blue, 2, *[0] * 34]
    assert tokeniser([""]).tolist() == [[1, 2, *[0] * 38]] and tokeniser([]).shape == (0, 40)


@pytest.mark.parametrize(
    "text", ["", "red", "zürich", "a 東京 circle .", "ring rings", "reddot", "re d", "🙂", "x2"]
)
def test_nothing_is_lost_of_words_outside_the_vocabulary(tokeniser, text):
    assert tokeniser.decode(tokeniser([text])) == [text]


def test_words_that_it_does_not_know_differ_and_stay_apart(tokeniser):
    texts = ["ring", "rings", "ri ng", "r ing", "gnir", "Ring", "RING", "red", "ring ring"]
    ids = tokeniser(texts)
    assert torch.equal(ids[0], ids[5]) and torch.equal(ids[0], ids[6])
    assert len(ids.unique(dim=0)) == len(texts) - 2


def test_each_token_stands_for_its_own_characters(tokeniser):
    spans = tokeniser.spans(PROMPT)
    ids = tokeniser([PROMPT])[0]
    assert len(spans.ranges) == int((ids != 0).sum())
    for token, (start, stop) in list(zip(ids.tolist(), spans.ranges, strict=False))[1:-1]:
        word = PROMPT[start:stop].lower()
        assert (WORDS[token - 260] == word) if token >= 260 else len(word) == 1
    spelled = "".join(PROMPT[a:b] for i, (a, b) in enumerate(spans.ranges) if ids[i] != 3 and a < b)
    assert spelled.replace("üü", "ü") == PROMPT.replace(" ", "")  # its two bytes stand for one letter


def test_words_are_found_by_what_they_are_and_where(tokeniser):
    spans = tokeniser.spans(PROMPT)
    assert spans.of("red circle") == [2, 3] and spans.of("CIRCLE", 1) == spans.of("circle", -1)
    assert spans.of("circle", 1) == [len(spans.ranges) - 2] and spans.of("circle", 0) == [3]
    town = spans.of("Zürich")
    assert len(town) == 1 + 7 and spans.of("Zürich-blue")[:8] == town and spans.tokens(0, 1) == [1]
    with pytest.raises(ValueError, match="'circle' stands 2 times"):
        spans.of("circle", 2)
    with pytest.raises(ValueError, match="'ircle' stands 0 times"):
        spans.of("ircle")  # a part of a word is no word


def test_a_token_ends_where_its_last_character_does(tokeniser):
    """Tokens that touch do not share a character, and start and end stand for none."""
    spans = tokeniser.spans("red,blue,a")
    assert spans.ranges == ((0, 0), (0, 3), (3, 4), (4, 8), (8, 9), (9, 10), (10, 10))
    assert spans.of("blue") == [3] and spans.of("red") == [1] and spans.of("a") == [5]
    assert spans.tokens(3, 4) == [2] and spans.tokens(2, 4) == [1, 2] and spans.tokens(3, 5) == [2, 3]
    assert spans.tokens(-1, 99) == [1, 2, 3, 4, 5]
    assert spans.of("a", -1) == spans.of("a", 0)
    for occurrence in (1, -2):
        with pytest.raises(ValueError, match="'a' stands 1 times"):
            spans.of("a", occurrence)


def test_what_is_too_long_is_cut_off_and_named():
    short = Tokeniser(WORDS, 5)
    with pytest.warns(UserWarning, match=r"5 tokens; cut off was 'left of', and the ends of 1 more"):
        ids = short(["a red circle", "a red circle left of", "red of of red"])
    assert ids[:, 0].tolist() == [1] * 3 and ids[:, -1].tolist() == [2] * 3
    assert torch.equal(ids[0], ids[1])
    assert short.spans("a red circle left of").ranges == ((0, 0), (0, 1), (2, 5), (6, 12), (20, 20))
    with pytest.raises(ValueError, match="'left' was cut off"):
        short.spans("a red circle left of").of("left")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short(["a red circle"])


@pytest.mark.parametrize("words", [["two words"], ["Red"], [""], ["red", "red"]])
def test_a_vocabulary_holds_single_words_in_lower_case_once(words):
    with pytest.raises(ValueError, match="vocabulary"):
        Tokeniser(words)


def test_embedding_and_encoding_are_the_whole(encoder):
    ids = encoder.tokenise(["a red circle", "", PROMPT])
    mask, made = encoder.mask(ids), encoder(ids)
    tokens = encoder.encode(encoder.embed(ids), mask)
    assert torch.equal(tokens, made["tokens"]) and torch.equal(mask, made["mask"])
    assert torch.equal(encoder.pool(tokens, mask), made["pooled"]) and made["pooled"].shape == (3, 5)
    assert mask.sum(1).tolist() == [5, 2, len(encoder.spans(PROMPT).ranges)]
    assert not made["tokens"][~mask].any()


def test_an_embedding_that_is_changed_changes_what_comes_after_it_only(encoder):
    ids, (red,) = encoder.tokenise(["a red circle"]), encoder.spans("a red circle").of("red")
    embeddings, mask = encoder.embed(ids), encoder.mask(ids)
    moved = embeddings.clone()
    moved[:, red] += 1.0
    before, after = encoder.encode(embeddings, mask), encoder.encode(moved, mask)
    changed = (before != after).any(-1)[0]
    assert changed.tolist() == [False, False, True, True, True, *[False] * 35]


def test_it_is_built_again_from_its_config(encoder):
    again = build(encoder.spec()).double()
    again.load_state_dict(encoder.state_dict())
    ids = encoder.tokenise([PROMPT])
    assert torch.equal(again.tokenise([PROMPT]), ids)
    assert torch.equal(again(ids)["tokens"], encoder(ids)["tokens"])


def test_a_network_for_other_ids_is_refused(tokeniser):
    with pytest.raises(ValueError, match="made for 7 ids in rows of 40, the tokeniser has 268 in rows of 40"):
        TextEncoder(tokeniser, TextTransformer(7, 40, width=8, heads=2))
    with pytest.raises(TypeError, match="expected a list of texts"):
        TextEncoder(tokeniser, TextTransformer(268, 40, width=8, heads=2)).tokenise("a red circle")
