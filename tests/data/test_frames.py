"""Moving photographs and video: what moves how, what is held out, and what is refused."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ornstein import data
from ornstein.data.frames import _Layer, _scenes, frames


def split(dataset, name="train"):
    chosen = getattr(dataset, name)
    return chosen.fields["previous"], chosen.x_0, chosen.fields["next"]


def test_a_triplet_is_a_state_and_its_neighbours():
    found = data.load("frames", count=20, held_out=5, size=12)
    assert found.shape == (1, 12, 12)
    for name, count in (("train", 20), ("held_out", 5)):
        for frame in split(found, name):
            assert frame.shape == (count, 1, 12, 12)
            assert frame.dtype == torch.float32
            assert frame.min() >= -1 and frame.max() <= 1
    assert found.decode(found.train.x_0).shape == (20, 12, 12, 1)


def test_a_seed_gives_the_same_triplets_in_any_number_and_precision():
    few, more, other = frames(count=3, held_out=2), frames(count=700, held_out=1), frames(count=3, seed=1)
    assert torch.equal(few.train.x_0, more.train.x_0[:3])
    assert torch.equal(few.held_out.x_0[:1], more.held_out.x_0)
    assert not torch.equal(few.train.x_0, other.train.x_0)
    torch.set_default_dtype(torch.float64)
    assert torch.equal(frames(count=3, held_out=0).train.x_0, few.train.x_0)


def test_neighbours_tell_of_the_middle_but_not_all():
    previous, middle, following = split(frames(count=1000, held_out=0))

    def psnr(guess):
        return float(10 * torch.log10(4 / (guess - middle).square().mean()))

    assert psnr(previous) == pytest.approx(psnr(following), abs=1.0)
    assert 17 < psnr(previous) + 1 < psnr((previous + following) / 2) < 25


def test_held_out_patches_are_of_another_part_of_the_photographs(monkeypatch):
    photograph = np.zeros((100, 200, 3), np.uint8)
    photograph[:, 140:] = 255
    monkeypatch.setattr(
        "sklearn.datasets.load_sample_images", lambda: SimpleNamespace(images=[photograph, photograph])
    )
    found = frames(count=300, held_out=300)
    assert max(float(frame.max()) for frame in split(found)) == pytest.approx(-1)
    assert min(float(frame.min()) for frame in split(found, "held_out")) == pytest.approx(1)


def still(n, **changes):
    zero, pair = torch.zeros(n), torch.zeros(n, 2)
    own = {"photograph": zero.long(), "place": pair + 20, "velocity": pair, "bend": pair}
    return _Layer(**{**own, "turn": zero, "growth": zero, **changes})


def test_a_layer_moves_by_its_own_parabola():
    points = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    velocity, bend = torch.tensor([[1.5, -0.25]]), torch.tensor([[0.0, 0.5]])
    layer = still(1, velocity=velocity, bend=bend)
    for time in (-1, 0, 1):
        assert torch.allclose(layer.seen_from(points, time)[0], points - time * velocity - time**2 * bend)


def test_a_layer_turns_and_grows():
    points = torch.tensor([[0.0, 3.0]])
    turned = still(1, turn=torch.tensor([torch.pi / 2])).seen_from(points, 1)
    assert turned[0, 0].abs().tolist() == pytest.approx([3.0, 0.0], abs=1e-5)
    grown = still(1, growth=torch.tensor([0.7])).seen_from(points, 1)
    assert grown[0, 0].tolist() == pytest.approx([0.0, 3.0 * np.exp(-0.7)])


def test_colours_are_those_of_the_place_to_a_fraction_of_a_pixel():
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(90.0), indexing="ij")
    photographs = torch.stack([rows, columns])
    points = torch.tensor([[0.0, 0.0], [1.25, -2.4]])
    for number, axis in ((0, 0), (1, 1)):
        layer = still(1, photograph=torch.tensor([number]))
        expected = 2 * (20 + points[:, axis]) - 0.5
        assert torch.allclose(layer.colours(photographs, points[None])[0], expected, atol=1e-4)


def test_the_blob_covers_what_lies_behind_it():
    photographs = torch.stack([torch.zeros(80, 90), torch.ones(80, 90)])
    shown = _scenes(photographs, 16, 200, torch.Generator().manual_seed(0))
    assert shown.shape == (200, 3, 16, 16)
    mixed = ((shown > 0.1) & (shown < 0.9)).float().mean()
    both = ((shown.amin((1, 2, 3)) < 0.01) & (shown.amax((1, 2, 3)) > 0.99)).float().mean()
    assert both > 0.2 and 0 < mixed < 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 3}, "size: expected an integer of at least 4"),
        ({"size": 5000}, "size: expected at most 96 pixels of these photographs"),
        ({"count": 0}, "count: expected an integer of at least 1"),
        ({"held_out": -1}, "held_out: expected an integer of at least 0"),
        ({"count": 2.5}, "count: expected an integer"),
    ],
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        frames(**options)


# --- video


def write_clip(path, count=20, height=24, width=32):
    """Frame k is of brightness 10 k, without loss."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for k in range(count):
            picture = np.full((height, width), 10 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())
    return path


def test_a_video_gives_three_frames_in_a_row_and_holds_out_its_end(tmp_path):
    found = data.load("frames", path=write_clip(tmp_path / "clip.mkv"), size=8, count=400, held_out=200)
    seen = {}
    for name in ("train", "held_out"):
        steps = torch.stack(split(found, name)).add(1).mul(12.75).round().flatten(2)
        numbers = steps[..., 0]
        assert torch.equal(steps, numbers[..., None].expand_as(steps))
        assert torch.equal(numbers[1], numbers[0] + 1) and torch.equal(numbers[2], numbers[1] + 1)
        seen[name] = set(numbers.flatten().tolist())
    assert seen == {"train": set(range(14)), "held_out": set(range(14, 20))}


def test_videos_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 7 are needed"):
        frames(path=write_clip(tmp_path / "short.mkv", 6))
    with pytest.raises(ValueError, match="size: expected at most 24 pixels"):
        frames(path=write_clip(tmp_path / "small.mkv"), size=25)
    with pytest.raises(ValueError, match="path: no file"):
        frames(path=tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4.*cannot be read"):
        frames(path=tmp_path / "text.mp4")


def test_without_av_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "ornstein\[video\]"'):
        frames(path=tmp_path / "clip.mp4")
