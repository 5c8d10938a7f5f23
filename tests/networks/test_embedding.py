from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from ornstein.core import Condition
from ornstein.networks import LabelEmbedding, LevelEmbedding, TokenEmbedding, Transformer, UNet, sinusoid
from ornstein.networks.embedding import TextTokens


def test_a_sinusoid_has_unit_pairs_and_its_stated_frequencies():
    level = torch.linspace(-10, 10, 21, dtype=torch.double)
    cosines, sines = sinusoid(level, 8).chunk(2, dim=1)
    assert torch.allclose(cosines**2 + sines**2, torch.ones_like(cosines))
    assert torch.allclose(sines[:, 0], (0.1 * level).sin())
    assert torch.allclose(sines[:, -1], (5 * level).sin())
    ratios = sinusoid(torch.tensor([1e-6], dtype=torch.double), 8)[0, 4:]
    assert torch.allclose(ratios[1:] / ratios[:-1], (ratios[1] / ratios[0]).expand(3))


def test_levels_over_the_usual_range_are_told_apart():
    level = torch.linspace(-10, 10, 201)
    distances = torch.cdist(sinusoid(level, 64), sinusoid(level, 64))
    assert (distances + 10 * torch.eye(201)).min() > 0.1


def test_levels_beyond_the_limit_are_the_limit():
    far = torch.tensor([torch.inf, 25.0, -torch.inf])
    assert torch.equal(sinusoid(far, 8), sinusoid(torch.tensor([20.0, 20.0, -20.0]), 8))


def test_low_precision_levels_are_embedded_in_float32():
    level = torch.tensor([1.5, -3.25])
    assert torch.equal(sinusoid(level.bfloat16(), 8), sinusoid(level, 8))
    assert sinusoid(level.double(), 8).dtype is torch.double
    assert LevelEmbedding(4).bfloat16()(level).dtype is torch.bfloat16


def test_soft_rows_are_weighted_sums_of_tokens():
    embedding = TokenEmbedding(5, 3)
    ids = torch.tensor([[0, 4], [2, 2]])
    assert torch.equal(embedding(one_hot(ids, 5).float()), embedding(ids))
    mean = embedding(torch.full((5,), 0.2))
    assert torch.allclose(mean, embedding.weight.mean(0))
    with pytest.raises(ValueError, match=r"soft rows: expected 5 weights .* got shape \(2, 4\)"):
        embedding(torch.zeros(2, 4))


def test_absent_labels_are_the_null_vector():
    embedding = LabelEmbedding(3, 4)
    present = torch.tensor([True, False])
    rows = embedding(Condition({"label": torch.tensor([2, 2])}, {"label": present}), 2)
    assert torch.equal(rows, torch.stack([embedding.table.weight[2], embedding.null]))
    assert torch.equal(embedding(None, 2), embedding.null.expand(2, -1))
    rows.sum().backward()
    assert embedding.table.weight.grad.abs().sum(1).tolist() == [0, 0, 4]
    assert embedding.null.grad.tolist() == [1] * 4


def a_text(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shown = torch.arange(5)[None].expand(rows, -1) < 4
    return torch.randn(rows, 5, 8, generator=generator, dtype=torch.double), shown


def read(module, tokens, shown, present=None):
    return module(Condition({"text": {"tokens": tokens, "mask": shown}}, present), len(tokens))


def test_blocks_among_tokens_start_as_the_identity():
    tokens, shown = a_text()
    deep = TextTokens(8, 6, depth=2).double()
    plain = TextTokens(8, 6).double()
    plain.load_state_dict(deep.state_dict(), strict=False)
    assert torch.equal(read(deep, tokens, shown)[0], read(plain, tokens, shown)[0])


def test_tokens_read_one_another_in_both_directions_and_nothing_that_is_hidden(wake):
    deep = wake(TextTokens(8, 6, depth=1).double())
    tokens, shown = a_text()
    made = read(deep, tokens, shown)[0]
    for place, moves in ((0, True), (3, True), (4, False)):
        other = tokens.clone()
        other[0, place] += torch.arange(8)
        told = read(deep, other, shown)[0]
        others = [i for i in range(4) if i != place]
        assert all((not torch.equal(told[0, i], made[0, i])) == moves for i in others)
        assert torch.equal(told[1], made[1])


def test_a_row_without_a_text_shows_the_null_token_at_any_depth(wake):
    deep = wake(TextTokens(8, 6, depth=1).double())
    tokens, shown = a_text()
    made, mask = read(deep, tokens, shown, {"text": torch.tensor([True, False])})
    missing, none = deep(None, 2)
    assert torch.equal(made[1, :1], missing[1]) and none is None
    assert mask.tolist() == [[True] * 4 + [False], [True] + [False] * 4]


@pytest.mark.parametrize("network", [UNet, Transformer])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_depth": 1}, "text_depth: needs a text"),
        ({"text_depth": -1, "text": 8}, "text_depth: expected 0"),
    ],
)
def test_depths_of_a_text_that_cannot_be_are_refused(network, options, message):
    more = {"attention": (0,)} if network is UNet else {}
    with pytest.raises(ValueError, match=message):
        network(1, width=8, **more, **options)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_text_of_which_nothing_is_shown_is_no_text(wake, depth):
    own = wake(TextTokens(8, 6, depth=depth).double())
    tokens, shown = a_text()
    shown[1] = False
    made, mask = read(own, tokens, shown)
    missing, absent = read(own, tokens, shown, {"text": torch.tensor([True, False])})
    assert torch.equal(made, missing) and torch.equal(mask, absent)
    assert mask[1].tolist() == [True] + [False] * 4 and torch.equal(made[1, 0], own.null)


def test_a_mask_may_be_of_integers(wake):
    own = wake(TextTokens(8, 6, depth=1).double())
    tokens, shown = a_text()
    for given in (shown.long(), shown.double()):
        for a, b in zip(read(own, tokens, given), read(own, tokens, shown), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
