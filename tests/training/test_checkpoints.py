from __future__ import annotations

import errno
import os

import pytest
import torch

from ornstein.training import Checkpoints


def some(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), value), "b": torch.tensor(value)}


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_the_latest_comes_back_and_older_ones_go(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest() is None
    for step in (0, 5, 10):
        checkpoints.write(step, some(step), {"note": [step]})
    assert checkpoints.steps() == [5, 10]
    step, tensors, plain = checkpoints.latest()
    assert (step, plain["note"]) == (10, [10])
    assert torch.equal(tensors["a"], torch.full((3,), 10.0))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-00000005", "step-00000010"]


def test_a_full_disk_leaves_the_last_one_and_nothing_else(tmp_path, monkeypatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, some(1), {})
    full_disk(monkeypatch)
    with pytest.raises(OSError, match=r"No space left.*needed.*free") as caught:
        checkpoints.write(2, some(2), {})
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.latest()[0] == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 100], ids=["empty", "cut", "zeros"])
@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path, file, damage) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, some(1), {})
    checkpoints.write(2, some(2), {})
    (tmp_path / "step-00000002" / file).write_bytes(damage)
    with pytest.warns(UserWarning, match=r"step-00000002 is damaged"):
        assert checkpoints.latest()[0] == 1


def test_what_killed_processes_left_is_no_checkpoint_and_is_swept(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, some(1), {})
    for left in (".step-00000002.part", ".step-00000000.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "state.json").write_text("{}")
    assert checkpoints.steps() == [1]
    checkpoints.sweep()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_later_format_is_not_guessed_at(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, some(1), {"format": 99})
    with pytest.warns(UserWarning, match="format 99"):
        assert checkpoints.latest() is None


def test_a_flipped_bit_is_noticed_and_the_checkpoint_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.write(step, {"w": torch.full((4,), float(step))}, {})
    (tmp_path / "step-notes").mkdir()  # not one of ours
    path = tmp_path / "step-00000002" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged and passed over"):
        step, tensors, _ = checkpoints.latest()
    assert step == 1 and tensors["w"].tolist() == [1.0] * 4
