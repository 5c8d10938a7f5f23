from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ornstein.core import Keyed, Recorded, Shared, noise

SHAPES = [(2,), (1, 8, 8), (3, 20, 20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["normal", "uniform", "gumbel"])
def test_a_row_is_bit_equal_alone_in_any_batch_and_in_any_order(shape, dtype, kind):
    full = getattr(Keyed(7, 67).fold("a").fold(3), kind)(torch.empty(67, *shape, dtype=dtype))
    for i in (0, 1, 17, 66):
        alone = Keyed(7, torch.tensor([i])).fold("a").fold(3)
        assert torch.equal(getattr(alone, kind)(torch.empty(1, *shape, dtype=dtype))[0], full[i])
    order = torch.randperm(67)
    moved = Keyed(7, 67)[order].fold("a").fold(3)
    assert torch.equal(getattr(moved, kind)(torch.empty(67, *shape, dtype=dtype)), full[order])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_candidates_do_not_depend_on_how_many_are_drawn(shape):
    like = torch.empty(5, *shape)
    few, many = (Keyed(0, 5).normal(like, (m,)) for m in (2, 6))
    assert torch.equal(few, many[:2])
    assert torch.equal(many[0], Keyed(0, 5).normal(like))
    assert len(many.unique()) == many.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_normal_and_independent(shape):
    n = 40_000 // torch.Size(shape).numel() + 2
    x = Keyed(1, n).normal(torch.empty(n, *shape)).flatten(1)
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    later = Keyed(1, n).fold(1).normal(torch.empty(n, *shape)).flatten(1)
    bound = 4 / x.numel() ** 0.5
    assert abs((x * later).mean()) < bound  # steps
    assert abs((x[1:] * x[:-1]).mean()) < 1.5 * bound  # rows
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 1.5 * bound  # entries
    assert abs((x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :][:, : x.shape[1] // 2]).mean()) < 2 * bound


def test_uniform_numbers_stay_inside_the_open_interval():
    for dtype in (torch.float32, torch.float64):
        u = Keyed(0, 4000).uniform(torch.empty(4000, 200, dtype=dtype))
        assert u.min() > 0 and u.max() < 1
        assert torch.isfinite(Keyed(0, 4000).gumbel(u)).all()


def test_a_seed_for_every_row_is_sample_zero_of_each_seed():
    like = torch.empty(3, 4)
    rows = Keyed(torch.tensor([5, 9, 5])).normal(like)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1:2], Keyed(9, 1).normal(like[:1]))


def test_folds_with_different_names_differ_and_do_not_commute():
    like, source = torch.empty(1, 8), Keyed(0, 1)
    draws = [
        source, source.fold("a"), source.fold("b"), source.fold(0), source.fold(1),
        source.fold("a").fold(0), source.fold(0).fold("a"), source.fold(-1), Keyed(1, 1),
    ]  # fmt: skip
    values = torch.stack([d.normal(like)[0] for d in draws])
    assert len({tuple(v.tolist()) for v in values}) == len(draws)


def test_copies_of_a_row_get_noise_of_their_own_and_the_first_keeps_its_own():
    source, like = Keyed(0, 4), torch.empty(5, 6)
    index = torch.tensor([2, 2, 0, 2, 3])
    branched = source.branch(index, 5).normal(like)
    assert torch.equal(branched[[0, 2, 4]], source[index].normal(like)[[0, 2, 4]])
    assert len({tuple(r.tolist()) for r in branched}) == 5
    # a copy made later is not the copy made earlier
    assert not torch.equal(source.branch(index, 6).normal(like)[1], branched[1])


def test_recorded_noise_replays_and_says_what_it_lacks():
    like, record = torch.empty(2, 3), Recorded(source=Keyed(0, 2))
    first = record.fold(0).normal(like)
    replay = Recorded(record.draws)
    assert torch.equal(replay.fold(0).normal(like), first)
    assert torch.equal(replay[torch.tensor([1])].fold(0).normal(like[:1])[0], first[1])
    with pytest.raises(KeyError, match="no draw"):
        replay.fold(1).normal(like)


def test_shared_noise_is_the_same_for_every_row():
    x = Shared(3).fold(1).normal(torch.empty(4, 5))
    assert torch.equal(x, x[:1].expand(4, 5)) and len(x[0].unique()) == 5


def test_rows_whose_keys_share_32_bits_differ():
    """A generator seeded with the key would keep its low word, which these two samples of seed 0 share."""
    rows = Keyed(0, torch.tensor([135653, 188673])).fold(-1)
    x = rows.normal(torch.empty(2, 1, 32, 32))
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (3, 20, 20)])
@pytest.mark.parametrize("kind", ["normal", "uniform", "gumbel"])
def test_the_noise_of_every_dtype_is_the_same_to_rounding(shape, kind):
    single, double = (
        getattr(Keyed(1, 50), kind)(torch.empty(50, *shape, dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_large_gumbel_numbers_are_dense_in_single_precision():
    drawn = Keyed(0, 20_000).gumbel(torch.empty(20_000, 200)).flatten()
    assert len(drawn.topk(100).values.unique()) == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_other_devices_draw_the_same_to_rounding(size, dtype):
    source = Keyed(3, 50).fold(2)
    keys = torch.from_numpy(source._row_keys(0).view(np.int64))
    like = torch.empty(50, size, dtype=dtype)
    torch.testing.assert_close(noise._normals_on(keys, size, dtype), source.normal(like), rtol=0, atol=1e-5)
    assert torch.equal(noise._uniforms_on(keys, size, dtype), source.uniform(like))


def test_recorded_candidates_follow_their_rows():
    like, record = torch.empty(3, 2), Recorded(source=Keyed(0, 3))
    drawn = record.normal(like, (4,))
    part = Recorded(record.draws)[torch.tensor([2, 0])]
    assert torch.equal(part.normal(like[:2], (4,)), drawn[:, [2, 0]])
