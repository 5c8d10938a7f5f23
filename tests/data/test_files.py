"""Image folders and array files, good and bad."""

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein import data


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def classes(tmp_path):
    """Twelve 6x6 colour pictures in two classes."""
    for i in range(12):
        save(tmp_path / "pictures" / ("cat", "dog")[i % 2] / f"{i}.png", noise(i, 6, 6, 3))
    return tmp_path / "pictures"


def test_a_folder_gives_exact_pixels_and_labels(classes):
    pictures = data.load(classes, held_out=0.25)
    assert (len(pictures.train), len(pictures.held_out)) == (9, 3)
    assert pictures.shape == (3, 6, 6)
    assert pictures.classes == ("cat", "dog")
    known = {noise(i, 6, 6, 3).tobytes(): i % 2 for i in range(12)}
    for split in (pictures.train, pictures.held_out):
        batch = split.batch(torch.arange(len(split)))
        shown = pictures.decode(batch["x_0"])
        labels = [known.pop(picture.tobytes()) for picture in shown]
        assert labels == batch["fields"]["label"].tolist()
    assert not known


def test_pictures_are_decoded_late_and_kept(classes):
    pictures = data.load(classes, held_out=0)
    first = pictures.train.batch(torch.tensor([4, 2]))["x_0"]
    for file in classes.rglob("*.png"):
        file.unlink()
    assert torch.equal(pictures.train.batch(torch.tensor([2, 4]))["x_0"], first[[1, 0]])
    with pytest.raises(OSError, match=r"\.png"):
        pictures.train.batch(torch.tensor([0]))


def test_pictures_without_classes_have_no_label(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", noise(i, 4, 4))
    pictures = data.load(tmp_path, held_out=0)
    assert (pictures.shape, pictures.classes, pictures.train.fields) == ((1, 4, 4), (), {})
    assert pictures.train.x_0.shape == (3, 1, 4, 4)
    assert data.load(tmp_path, channels=4).shape == (4, 4, 4)


def test_pictures_are_cropped_to_the_centre_and_resized(tmp_path):
    wide = np.zeros((8, 32), np.uint8)
    wide[:, 6:26] = 200
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "small.png", np.full((2, 2), 200))
    pictures = data.load(tmp_path, size=4, held_out=0)
    assert np.all(pictures.decode(pictures.train.x_0) == 200)


def test_deep_and_turned_pictures(tmp_path):
    deep = np.array([[0, 65535], [32896, 257]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pictures = data.load(tmp_path, held_out=0)
    assert pictures.decode(pictures.train.x_0).ravel().tolist() == [0, 255, 128, 1]
    (tmp_path / "deep.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    save(tmp_path / "turned.png", [[10, 20, 30]], exif=exif)
    pictures = data.load(tmp_path, held_out=0)
    assert pictures.shape == (1, 3, 1)
    assert pictures.decode(pictures.train.x_0).ravel().tolist() == [10, 20, 30]


def test_splits_of_a_folder_are_kept(classes, tmp_path):
    classes.rename(tmp_path / "train")
    (tmp_path / "set").mkdir()
    (tmp_path / "train").rename(tmp_path / "set" / "train")
    assert data.load(tmp_path / "set").classes == ("cat", "dog")
    save(tmp_path / "set" / "test" / "dog" / "a.png", noise(1, 6, 6, 3))
    pictures = data.load(tmp_path / "set")
    assert (len(pictures.train), len(pictures.held_out)) == (12, 1)
    assert pictures.held_out.fields["label"].tolist() == [1]


def test_equal_pictures_stay_on_one_side(tmp_path):
    for i in range(20):
        save(tmp_path / f"{i}.png", noise(i // 2, 4, 4))
    pictures = data.load(tmp_path, held_out=0.5)
    sides = [{x.numpy().tobytes() for x in s.x_0} for s in (pictures.train, pictures.held_out)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_bad_folders_are_refused(classes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"holds no images; accepted are .*\.png"):
        data.load(tmp_path / "empty")
    save(classes / "cat" / "large.png", noise(0, 7, 7, 3))
    with pytest.raises(ValueError, match=r"size: images differ: .* is 6x6, .*large.png' is 7x7"):
        data.load(classes)
    with pytest.raises(ValueError, match="channels: expected 1"):
        data.load(classes, channels=2)
    with pytest.raises(ValueError, match="size: expected a positive"):
        data.load(classes, size=0)
    with pytest.raises(ValueError, match=r"held_out: expected a fraction in \[0, 1\), got 1.5"):
        data.load(classes, held_out=1.5)
    save(classes / "beside.png", noise(0, 6, 6, 3))
    with pytest.raises(ValueError, match="1 images lie beside the class folders cat, dog"):
        data.load(classes, size=6)


def test_unreadable_pictures_are_named(classes):
    broken = classes / "dog" / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"dog/broken.png' cannot be read"):
        data.load(classes)
    save(broken, noise(0, 6, 6, 3))
    broken.write_bytes(broken.read_bytes()[:60])
    pictures = data.load(classes, held_out=0)  # its header is sound
    with pytest.raises(ValueError, match=r"dog/broken.png' cannot be"):
        _ = pictures.train.x_0


def test_arrays_of_bytes_are_scaled(tmp_path):
    np.savez(tmp_path / "a.npz", images=noise(0, 10, 3, 4, 5), labels=np.arange(10) % 3)
    arrays = data.load(tmp_path / "a.npz", held_out=0.3)
    assert (arrays.shape, arrays.classes) == ((3, 4, 5), ("0", "1", "2"))
    assert (len(arrays.train), len(arrays.held_out)) == (7, 3)
    known = {x.tobytes(): i % 3 for i, x in enumerate(noise(0, 10, 3, 4, 5).transpose(0, 2, 3, 1))}
    for split in (arrays.train, arrays.held_out):
        assert float(split.x_0.abs().max()) <= 1
        labels = [known[x.tobytes()] for x in arrays.decode(split.x_0)]
        assert labels == split.fields["label"].tolist()


@pytest.mark.parametrize(
    "array, shape",
    [
        (noise(0, 6, 5, 4), (1, 5, 4)),
        (noise(0, 6, 5, 4, 3), (3, 5, 4)),
        (noise(0, 6, 3, 4, 3), (3, 4, 3)),
        (np.random.default_rng(0).normal(size=(6, 2)), (2,)),
        (np.zeros((6, 2, 7, 7), np.float16), (2, 7, 7)),
    ],
)
def test_shapes_of_arrays(array, shape, tmp_path):
    np.save(tmp_path / "x.npy", array)
    arrays = data.load(tmp_path / "x.npy", held_out=0)
    assert arrays.shape == shape
    assert arrays.train.x_0.dtype == torch.float32


def test_vectors_are_left_as_they_are(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 2)) * 100
    np.save(tmp_path / "x.npy", x)
    vectors = data.load(tmp_path / "x.npy")
    both = torch.cat([vectors.train.x_0, vectors.held_out.x_0])
    assert len(vectors.held_out) == 5
    assert np.array_equal(np.sort(both[:, 0].numpy()), np.sort(x[:, 0].astype(np.float32)))
    assert np.array_equal(vectors.decode(both), both.numpy())


def test_a_range_scales_and_ids_stay(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 5], [10, 20]]))
    scaled = data.load(tmp_path / "x.npy", range=(0, 20), held_out=0)
    assert scaled.train.x_0.tolist() == [[-1.0, -0.5], [0.0, 1.0]]
    ids = data.load(tmp_path / "x.npy", discrete=True, held_out=0)
    assert ids.train.x_0.dtype == torch.long
    assert ids.categories == 21


def test_splits_and_names_of_an_archive_are_kept(tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    np.savez(
        tmp_path / "s.npz",
        train_images=x[:3],
        test_images=x[3:],
        train_labels=["b", "a", "b"],
        test_labels=["c", "a"],
    )
    arrays = data.load(tmp_path / "s.npz")
    assert (len(arrays.train), len(arrays.held_out)) == (3, 2)
    assert arrays.classes == ("a", "b", "c")
    assert arrays.held_out.fields["label"].tolist() == [2, 0]
    np.savez(tmp_path / "one.npz", x)
    assert len(data.load(tmp_path / "one.npz", held_out=0).train) == 5


def bad(x, **others):
    return {"x": np.asarray(x), **{k: np.asarray(v) for k, v in others.items()}}


@pytest.mark.parametrize(
    "arrays, options, message",
    [
        (bad([[1.0], [np.nan], [np.inf]]), {}, r"row 1 holds NaN or infinity \(2 such rows of 3\)"),
        (bad([[1.0], [-np.inf]]), {"range": (0, 1)}, "row 1 holds NaN"),
        (bad([1.0, 2.0]), {}, r"expected samples \(N, ...\) .* got shape \(2,\)"),
        (bad(np.zeros((0, 3))), {}, "N >= 1"),
        (bad([["a"], ["b"]]), {}, "expected real numbers or bytes"),
        (bad([[1j]]), {}, "expected real numbers or bytes"),
        (bad([[1], [2]]), {}, "discrete=True for ids"),
        (bad([[-1], [2]]), {"discrete": True}, "whole numbers 0..K-1"),
        (bad([[0.5]]), {"discrete": True}, "whole numbers 0..K-1, got float64"),
        (bad(np.full((2, 1, 4, 4), 200.0)), {}, r"images in \[200, 200\], expected \[-1, 1\]"),
        (bad([[1.0]]), {"range": (1, 1)}, "low < high"),
        (bad([[1.0], [2.0]], y=[0]), {}, r"one a sample, \[2\] samples, got shapes \[\(1,\)\]"),
        (bad([[1.0], [2.0]], y=[0.0, 1.0]), {}, "class numbers or strings, got float64"),
        (bad([[1.0], [2.0]], y=[-1, 1]), {}, "class numbers 0, 1, ..., got -1 to 1"),
        (bad([[1.0], [2.0]], y=[0, 10**9]), {}, "got 0 to 1000000000"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, {}, "no states among its arrays a, b"),
        (bad(np.zeros((2, 3, 3), bool)), {}, "expected real numbers or bytes, got bool"),
        (bad([[1e300]]), {}, "row 0 holds NaN or infinity"),
        (bad([[1.0], [2.0]]), {"held_out": 0.99}, "no samples are left to train on"),
        (bad([[1.0]]), {"held_out": -0.1}, "held_out: expected a fraction"),
        (bad([[1.0]]), {"rnage": (0, 1)}, "Did you mean 'range'"),
        (
            {"x_train": np.zeros((2, 3)), "x_test": np.zeros((2, 4))},
            {},
            "train and test need one shape",
        ),
    ],
)
def test_bad_arrays_are_refused(arrays, options, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "x.npz", **options)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01"])
def test_damaged_files_are_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"array file .*{name}' cannot be read"):
        data.load(tmp_path / name)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_objects_are_never_unpickled(name, tmp_path):
    write = np.save if name == "x.npy" else np.savez
    write(tmp_path / name, np.array([{"a": 1}, None], object))
    with pytest.raises(ValueError, match="Python objects, which are never unpickled"):
        data.load(tmp_path / name)
