"""Fashion-MNIST: reading the four files, the three sizes, and what is wrong with them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ornstein import data
from ornstein.data.fashion import CLASSES, fashion_mnist

PACKAGE = Path("/usr/share/datasets/fashion-mnist")
installed = pytest.mark.skipif(not PACKAGE.is_dir(), reason="needs the package dataset-fashion-mnist")


def idx(values: np.ndarray) -> bytes:
    """The format of the files: a magic number, the sizes, the bytes."""
    header = struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    chosen = np.random.default_rng(0)
    return {part: chosen.integers(0, 256, (count, 28, 28)) for part, count in (("train", 7), ("t10k", 3))}


@pytest.fixture
def folder(tmp_path, pictures) -> Path:
    for part, values in pictures.items():
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(values))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(len(values))))
    return tmp_path


def shown(dataset) -> np.ndarray:
    return dataset.decode(dataset.train.x_0)[..., 0]


def test_the_files_are_read_as_they_were_written(folder, pictures):
    found = fashion_mnist(28, folder)
    assert (len(found.train), len(found.held_out), found.shape) == (7, 3, (1, 28, 28))
    assert found.train.fields["label"].tolist() == list(range(7))
    assert found.held_out.fields["label"].tolist() == [0, 1, 2]
    assert np.array_equal(shown(found), pictures["train"])
    assert np.array_equal(found.decode(found.held_out.x_0)[..., 0], pictures["t10k"])
    assert found.classes == CLASSES and len(set(CLASSES)) == 10
    assert found.train.x_0.dtype == torch.float32
    assert -1 <= found.train.x_0.min() < found.train.x_0.max() <= 1


def test_32_is_framed_by_black(folder, pictures):
    found = shown(data.load("fashion-mnist", size=32, folder=folder))
    assert np.array_equal(found[:, 2:-2, 2:-2], pictures["train"])
    assert found.sum() == pictures["train"].sum()


def test_16_is_the_means_of_two_by_two(folder, pictures):
    found = shown(fashion_mnist(folder=folder))
    framed = np.pad(pictures["train"], ((0, 0), (2, 2), (2, 2)))
    means = framed.reshape(7, 16, 2, 16, 2).mean((2, 4))
    assert found.shape == (7, 16, 16)
    assert np.abs(found - means).max() <= 0.5
    assert np.array_equal(found[:, 0], np.zeros((7, 16)))


def test_the_options_are_kept(folder):
    found = data.load("fashion-mnist", size=32, folder=folder)
    assert (found.name, found.options["size"], found.shape) == ("fashion-mnist", 32, (1, 32, 32))


@pytest.mark.parametrize("size", [8, 0, "16", None])
def test_other_sizes_are_refused(folder, size):
    with pytest.raises(ValueError, match=r"size: expected one of \(16, 28, 32\), got"):
        fashion_mnist(size, folder)


def test_an_absent_file_is_named_with_where_to_get_it(folder, tmp_path):
    with pytest.raises(ValueError, match=r"apt install dataset-fashion-mnist.*zalando-datasets"):
        fashion_mnist(folder=tmp_path / "none")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"no file .*t10k-labels-idx1-ubyte\.gz"):
        fashion_mnist(folder=folder)


@pytest.mark.parametrize(
    "raw",
    [b"", b"nothing", gzip.compress(b"idx"), idx(np.zeros((3, 28, 28)))[:40]],
    ids=["empty", "no gzip", "short", "cut"],
)
def test_a_file_that_is_not_whole_is_named(folder, raw):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(raw)
    with pytest.raises(ValueError, match=r"fashion-mnist: .*t10k-images-idx3-ubyte\.gz"):
        fashion_mnist(folder=folder)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((3, 27, 28)), "announces 3 entries but holds 2268 bytes"),
        (np.zeros(784), "not an idx file of bytes with 3 axes"),
    ],
)
def test_pictures_of_another_size_are_refused(folder, values, message):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(values))
    with pytest.raises(ValueError, match=message):
        fashion_mnist(folder=folder)


def test_more_labels_than_pictures_are_refused(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(4)))
    with pytest.raises(ValueError, match="every field needs one row a sample"):
        fashion_mnist(folder=folder)


@installed
def test_the_package_holds_the_whole_set():
    found = data.load("fashion-mnist")
    assert (len(found.train), len(found.held_out), found.shape) == (60_000, 10_000, (1, 16, 16))
    for split, count in ((found.train, 6000), (found.held_out, 1000)):
        assert split.fields["label"].bincount().tolist() == [count] * 10
    assert torch.equal(
        data.load("fashion-mnist", size=32).held_out.batch(torch.arange(50))["x_0"][..., 2:-2, 2:-2],
        data.load("fashion-mnist", size=28).held_out.batch(torch.arange(50))["x_0"],
    )
