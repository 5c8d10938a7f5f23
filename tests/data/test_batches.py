"""The order of samples and the division of a data set."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ornstein.data import Batches, TensorSplit
from ornstein.data.partition import digests, held_out_mask


def split(size):
    return TensorSplit(torch.arange(size, dtype=torch.float32)[:, None])


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 100), seed=st.integers(0, 5))
def test_every_epoch_has_every_sample_once(size, batch, seed):
    batches = Batches(split(size), batch, seed)
    seen = torch.cat([batches.indices(step) for step in range(3 * size // batch + 1)])
    for epoch in range(len(seen) // size):
        part = seen[epoch * size : (epoch + 1) * size]
        assert part.sort().values.tolist() == list(range(size))


def test_a_batch_is_a_function_of_seed_and_step_alone():
    forward, fresh = Batches(split(10), 3, seed=1), Batches(split(10), 3, seed=1)
    orders = [forward.indices(step) for step in range(20)]
    for step in reversed(range(20)):
        assert torch.equal(fresh.indices(step), orders[step])
    assert not all(
        torch.equal(Batches(split(10), 3, seed=2).indices(step), orders[step]) for step in range(3)
    )


def test_epochs_differ():
    batches = Batches(split(50), 50)
    assert not torch.equal(batches.indices(0), batches.indices(1))


def test_batches_read_the_split():
    batches = Batches(split(7), 3, seed=4)
    for step, batch in enumerate(itertools.islice(batches, 5)):
        assert batch["x_0"][:, 0].tolist() == batches.indices(step).tolist()
        assert torch.equal(batch["x_0"], batches[step]["x_0"])


@pytest.mark.parametrize(
    "size, arguments, message",
    [
        (0, {"batch": 4}, "empty split"),
        (4, {"batch": 0}, "batch: expected at least 1"),
        (4, {"batch": 1, "seed": -1}, "seed: expected a non-negative"),
    ],
)
def test_bad_batches_are_refused(size, arguments, message):
    with pytest.raises(ValueError, match=message):
        Batches(split(size), **arguments)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="step: expected 0 or more, got -1"):
        Batches(split(3), 1).indices(-1)


def test_fields_must_have_a_row_a_sample():
    with pytest.raises(ValueError, match="one row a sample"):
        TensorSplit(torch.zeros(3, 2), {"label": torch.zeros(2)})


@settings(max_examples=50, deadline=None)
@given(
    items=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    fraction=st.floats(0, 0.99),
    classes=st.integers(1, 4),
)
def test_copies_stay_together(items, fraction, classes):
    held = held_out_mask(
        digests(str(item).encode() for item in items), fraction, np.arange(len(items)) % classes
    )
    assert not {i for i, h in zip(items, held, strict=True) if h} & {
        i for i, h in zip(items, held, strict=True) if not h
    }


def test_held_out_share_is_exact_and_stratified():
    strata = np.repeat([0, 1, 2], [100, 37, 3])
    held = held_out_mask(digests(str(i).encode() for i in range(140)), 0.2, strata)
    assert held.sum() == 28
    counts = np.bincount(strata[held], minlength=3)
    assert np.all(np.abs(counts - 0.2 * np.array([100, 37, 3])) <= 1)


def test_the_order_of_a_data_set_does_not_matter():
    keys = digests(str(i).encode() for i in range(100))
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(held_out_mask(keys, 0.3)[order], held_out_mask(keys[order], 0.3))
