from __future__ import annotations

import math

import pytest
import torch

from ornstein.networks import Encoder, SelfAttention, TextImage, TextTransformer, tapped
from ornstein.networks.text import causal


@pytest.fixture
def tower() -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(30, 9, width=16, depth=3, heads=4, code=6).double()


def encoded(tower, ids):
    return tower.encode(tower.embed(ids), ids != 0)


def test_a_token_reads_itself_and_those_before_it(tower):
    at = torch.arange(4)
    assert causal(at[:, None], at[None]).tolist() == torch.ones(4, 4).tril().bool().tolist()
    ids = torch.randint(1, 30, (1, 9))
    embeddings = tower.embed(ids).detach().requires_grad_()
    made = tower.encode(embeddings, ids != 0)
    for i in range(9):
        (gradient,) = torch.autograd.grad(made[0, i].pow(2).sum(), embeddings, retain_graph=True)
        assert (gradient[0] != 0).any(-1).tolist() == [j <= i for j in range(9)]


def test_padding_changes_nothing_and_rows_are_alone(tower):
    ids = torch.randint(1, 30, (3, 9))
    ids[0, 5:] = ids[1, 7:] = 0
    made = encoded(tower, ids)
    pooled = tower.pool(made, ids != 0)
    for row, length in enumerate((5, 7, 9)):
        alone = encoded(tower, ids[row : row + 1, :length])
        torch.testing.assert_close(alone[0], made[row, :length])
        torch.testing.assert_close(tower.pool(alone, ids[row : row + 1, :length] != 0)[0], pooled[row])
        torch.testing.assert_close(pooled[row], tower.head.weight @ made[row, length - 1])


def test_every_parameter_is_used_and_attention_can_be_hooked(tower):
    ids = torch.randint(1, 30, (2, 9))
    attentions = [k for k, m in tower.named_modules() if isinstance(m, SelfAttention)]
    assert attentions == [f"blocks.{i}.attention" for i in range(3)]
    with tapped(tower, attentions) as taken:
        tower.pool(encoded(tower, ids), ids != 0).sum().backward()
    assert [v.shape for v in taken.values()] == [(2, 9, 16)] * 3
    assert all(p.grad is not None for p in tower.parameters())
    assert sum(p.numel() for p in TextTransformer(333).parameters()) < 0.9e6


def test_embeddings_of_another_shape_are_refused(tower):
    with pytest.raises(ValueError, match=r"embeddings: expected \(B, 9, 16\), got \(1, 10, 16\)"):
        tower.encode(torch.zeros(1, 10, 16).double(), torch.ones(1, 10) > 0)


class Told(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)

    def forward(self, ids):
        return {"pooled": self.table(ids).sum(1)}


def test_similarities_are_cosines_over_the_temperature():
    torch.manual_seed(1)
    pair = TextImage(Told(), Encoder(3, 4, width=4, levels=2, patch=2), temperature=0.1)
    x, ids = torch.randn(5, 3, 8, 8), torch.randint(0, 10, (6, 3))
    s = pair(x, ids)
    expected = torch.cosine_similarity(pair.image(x)[:, None], pair.text(ids)["pooled"][None], dim=-1) / 0.1
    torch.testing.assert_close(s, expected)
    with torch.no_grad():
        pair.log_scale.fill_(9.0)
    torch.testing.assert_close(pair(x, ids), 10 * expected)  # e^a is held at 100
    for temperature in (0.01, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            TextImage(Told(), Encoder(3, 4), temperature=temperature)


@pytest.mark.parametrize("way", [1, -1])
def test_a_temperature_at_its_limit_is_not_caught_there(way):
    """Above e^a = 100 the gradient that leads back is that of exp, and none leads further."""
    pair = TextImage(Told(), Encoder(3, 4, width=4, levels=2)).double()
    for at, slope in ((2.0, way * math.exp(2.0)), (9.0, 100.0 if way > 0 else 0.0)):
        pair.log_scale.data.fill_(at)
        (found,) = torch.autograd.grad(way * pair.scale, pair.log_scale)
        assert float(found) == pytest.approx(slope, rel=1e-12)
    optimiser = torch.optim.Adam([pair.log_scale], 0.1)
    for step in range(120):
        optimiser.zero_grad()
        (pair.scale * (way if step < 60 else 1)).backward()
        optimiser.step()
    with torch.no_grad():
        assert float(pair.scale) == pytest.approx(math.exp(float(pair.log_scale)))
        assert float(pair.scale) < 90  # it comes back


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"depth": -1}, "depth: expected an integer of at least 0, got -1"),
        ({"depth": 1.0}, "depth: expected an integer"),
        ({"depth": True}, "depth: expected an integer"),
        ({"code": 0}, "code: expected a positive integer"),
        ({"levels": 0}, "levels: expected"),
        ({"patch": 0}, "patch: expected"),
        ({"width": 2.5}, "width: expected"),
    ],
)
def test_arguments_of_the_image_tower_are_checked(arguments, said):
    with pytest.raises(ValueError, match=said):
        Encoder(**{"channels": 3, "code": 4, **arguments})


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 7), (2, 3, 9, 8), (3, 8, 8)])
def test_images_of_another_kind_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"x: expected images \(B, 3, H, W\) with sides in multiples of 2, got"
    ):
        Encoder(3, 4, width=4, levels=1, patch=2)(torch.zeros(shape))


def test_heads_of_the_image_tower_divide_every_width():
    for width in (5, 24, 100):
        assert Encoder(1, 4, width=width, levels=1, depth=1)(torch.randn(2, 1, 4, 4)).shape == (2, 4)


def test_places_of_a_map_read_one_another_where_there_are_blocks():
    torch.manual_seed(2)
    local, wide = (Encoder(1, 4, width=8, levels=2, patch=2, depth=d).double() for d in (0, 2))
    assert set(local.state_dict()) < set(wide.state_dict())
    x = torch.randn(3, 1, 16, 16).double()
    torch.testing.assert_close(wide(x)[1:2], wide(x[1:2]))  # rows stay alone
    for encoder, reads in ((local, False), (wide, True)):
        h = torch.randn(1, 16, 4, 4).double().requires_grad_()
        out = encoder._read(h) if reads else h
        (gradient,) = torch.autograd.grad(out[0, :, 0, 0].pow(2).sum(), h)
        assert bool(gradient[0, :, 3, 3].any()) is reads
    wide(x).sum().backward()
    assert all(p.grad is not None for p in wide.parameters())
