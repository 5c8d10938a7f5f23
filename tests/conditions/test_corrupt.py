"""Wrong conditions, fixed in the data set (2405.20494)."""

from __future__ import annotations

import pytest
import torch

from ornstein.conditions import CorruptLabels, ShuffleCaptions, corrupted
from ornstein.core import Keyed
from ornstein.data import Batches, Dataset, TensorSplit

N = 1000
LABELS = torch.arange(N) % 5


def data():
    fields = {"label": LABELS, "text": torch.arange(N, dtype=torch.float64)[:, None]}
    return Dataset("points", TensorSplit(torch.randn(N, 2), fields), TensorSplit(torch.randn(5, 2), {
        k: v[:5] for k, v in fields.items()
    }), (2,))  # fmt: skip


@pytest.mark.parametrize("eta", [0.0, 0.025, 0.2, 1.0])
def test_exactly_the_share_is_wrong(eta):
    found = CorruptLabels(eta)(LABELS, Keyed(0, N))
    assert int((found != LABELS).sum()) == round(eta * N)
    assert found.dtype == LABELS.dtype and 0 <= int(found.min()) <= int(found.max()) < 5


def test_no_share_changes_nothing():
    assert torch.equal(CorruptLabels(0.0)(LABELS, Keyed(0, N)), LABELS)
    assert torch.equal(ShuffleCaptions(0.0)(LABELS, Keyed(0, N)), LABELS)


def test_wrong_labels_are_uniform_over_the_other_classes():
    n = 20_000
    labels = torch.zeros(n, dtype=torch.long)
    labels[::2] = torch.tensor([1, 2, 4, 7])[torch.arange(n // 2) % 4]  # ids need not be consecutive
    found = CorruptLabels(1.0)(labels, Keyed(0, n))
    for other in (1, 2, 4, 7):
        assert float((found[labels == 0] == other).double().mean()) == pytest.approx(0.25, abs=0.02)


def test_the_asymmetric_kind_stays_inside_its_subset():
    found = CorruptLabels(0.5, "asymmetric", subset=(1, 3))(LABELS, Keyed(0, N))
    changed = found != LABELS
    assert int(changed.sum()) == 200
    assert set(LABELS[changed].tolist()) == set(found[changed].tolist()) == {1, 3}


def test_captions_are_exchanged_and_none_is_lost():
    values = torch.arange(N)[:, None]
    found = ShuffleCaptions(0.1)(values, Keyed(0, N))
    assert int((found != values).sum()) == 100
    assert torch.equal(found.sort(0).values, values)


def test_a_data_set_is_corrupted_once_and_its_held_out_part_never():
    wrong = corrupted(data(), seed=3, label=CorruptLabels(0.1), text=ShuffleCaptions(0.1))
    label = wrong.train.fields["label"]
    assert (
        int((label != LABELS).sum()) == 100
        and int((wrong.train.fields["text"][:, 0] != torch.arange(N)).sum()) == 100
    )
    for step in (0, 7):  # two epochs
        batch = Batches(wrong.train, N, seed=step)[step]
        rows = Batches(wrong.train, N, seed=step).indices(step)
        assert torch.equal(batch["fields"]["label"], label[rows])
    again = corrupted(data(), seed=3, label=CorruptLabels(0.1)).train.fields["label"]
    assert torch.equal(again, label)
    assert not torch.equal(corrupted(data(), seed=4, label=CorruptLabels(0.1)).train.fields["label"], label)
    assert torch.equal(wrong.held_out.fields["label"], data().held_out.fields["label"])


def test_options_are_checked():
    with pytest.raises(ValueError, match="eta"):
        CorruptLabels(1.2)
    with pytest.raises(ValueError, match="Did you mean 'symmetric'"):
        CorruptLabels(0.1, "symmetrical")
    with pytest.raises(ValueError, match="subset"):
        CorruptLabels(0.1, "asymmetric")
    with pytest.raises(ValueError, match="Did you mean 'label'"):
        corrupted(data(), labels=CorruptLabels(0.1))
    with pytest.raises(ValueError, match="at least two classes"):
        CorruptLabels(0.5)(torch.zeros(4, dtype=torch.long), Keyed(0, 4))
