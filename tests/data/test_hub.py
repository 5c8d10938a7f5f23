"""Data sets in the layout of the Hugging Face hub, from local folders."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein import data


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hub'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)


def pictures(datasets, seeds):
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    )
    rows = {
        "img": [Image.fromarray(picture(seed)) for seed in seeds],
        "label": [seed % 2 for seed in seeds],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def check(dataset, split, seeds):
    known = {picture(seed).tobytes(): seed % 2 for seed in seeds}
    batch = split.batch(torch.arange(len(split)))
    labels = [known[shown.tobytes()] for shown in dataset.decode(batch["x_0"])]
    assert labels == batch["fields"]["label"].tolist()


def test_parquet_pictures_with_their_own_splits(datasets, tmp_path):
    for split, seeds in (("train", range(8)), ("test", range(8, 11))):
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        file = tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
        pictures(datasets, seeds).to_parquet(file)
    loaded = data.load(tmp_path / "set")
    assert (len(loaded.train), len(loaded.held_out)) == (8, 3)
    assert (loaded.shape, loaded.classes) == ((3, 5, 5), ("even", "odd"))
    check(loaded, loaded.train, range(8))
    check(loaded, loaded.held_out, range(8, 11))
    assert data.load(tmp_path / "set", size=4, channels=1).shape == (1, 4, 4)


def test_a_saved_data_set_is_divided_by_class(datasets, tmp_path):
    pictures(datasets, range(20)).save_to_disk(tmp_path / "saved")
    loaded = data.load(tmp_path / "saved", held_out=0.2)
    assert loaded.held_out.fields["label"].bincount().tolist() == [2, 2]
    check(loaded, loaded.train, range(20))


# `datasets` leaves the table open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_image_folder_with_metadata(datasets, tmp_path):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    lines = ["file_name,label"]
    for seed in range(6):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
        lines.append(f"{seed}.png,{('even', 'odd')[seed % 2]}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    loaded = data.load(tmp_path / "set", held_out=0)
    assert loaded.classes == ("even", "odd")
    check(loaded, loaded.train, range(6))


def test_columns_of_numbers(datasets, tmp_path):
    (tmp_path / "set").mkdir()
    table = datasets.Dataset.from_dict({"series": [[0.5, 1.0], [2.0, 3.0]], "words": ["a", "b"]})
    table.to_parquet(tmp_path / "set" / "train.parquet")
    loaded = data.load(tmp_path / "set", column="series", held_out=0)
    assert loaded.train.x_0.tolist() == [[0.5, 1.0], [2.0, 3.0]]
    with pytest.raises(ValueError, match="column: none holds images; give one of 'series', 'words'"):
        data.load(tmp_path / "set")
    with pytest.raises(ValueError, match=r"unknown column 'serie'. Did you mean 'series'"):
        data.load(tmp_path / "set", column="serie")
    with pytest.raises(ValueError, match=r"unknown column 'wards'. Did you mean 'words'"):
        data.load(tmp_path / "set", column="series", label="wards")
    with pytest.raises(ValueError, match=r"expected samples|real numbers"):
        data.load(tmp_path / "set", column="words")


def test_damaged_tables_are_named(datasets, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"data set .*set' could not be loaded"):
        data.load(tmp_path / "set")


def test_an_unreachable_id_is_one_error(datasets, monkeypatch):
    def refuse(*arguments, **options):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"data set 'a/b' could not be loaded: .*doesn't exist"):
        data.load("a/b")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "ornstein\[hub\]"'):
        data.load("owner/name")
