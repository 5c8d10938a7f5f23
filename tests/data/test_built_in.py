"""The built-in data sets and the one door to them."""

import numpy as np
import pytest
import torch

from ornstein import data


def rows(x):
    return {row.numpy().tobytes() for row in x}


def test_digits_are_the_scans_and_split_by_class():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    assert (len(digits.train), len(digits.held_out)) == (1500, 297)
    assert digits.shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    x = torch.cat([digits.train.x_0, digits.held_out.x_0])
    assert (float(x.min()), float(x.max())) == (-1, 1)
    scans = {scan.astype(np.float32).tobytes() for scan in load_digits().images}
    assert rows((x[:, 0] + 1) * 8) == scans
    share = digits.held_out.fields["label"].bincount() / digits.train.fields["label"].bincount()
    assert torch.allclose(share, torch.full((10,), 297 / 1500), atol=0.02)


def test_digits_do_not_cross_the_split():
    digits = data.load("digits")
    assert not rows(digits.train.x_0) & rows(digits.held_out.x_0)


def test_the_split_of_the_digits_is_fixed():
    held = data.load("digits").held_out
    assert held.fields["label"][:12].tolist() == [0, 8, 9, 1, 8, 6, 0, 9, 7, 3, 1, 6]
    assert round(float(held.x_0.double().sum()), 3) == -7421.125


def test_joint_digits_are_the_same_samples():
    digits, joint = data.load("digits"), data.load("digits-joint")
    assert torch.equal(joint.train.x_0["image"], digits.train.x_0)
    assert torch.equal(joint.held_out.x_0["label"], digits.held_out.fields["label"])
    assert joint.train.fields == {}
    assert joint.shape == {"image": (1, 8, 8), "label": ()}
    assert joint.categories == {"image": None, "label": 10}
    batch = joint.train.batch(torch.tensor([3, 1]))["x_0"]
    assert torch.equal(batch["label"], joint.train.x_0["label"][[3, 1]])
    shown = joint.decode(batch)
    assert shown["image"].shape == (2, 8, 8, 1)
    assert shown["label"].tolist() == batch["label"].tolist()


def test_decoding_digits_is_exact_and_clips():
    digits = data.load("digits")
    shown = digits.decode(digits.train.x_0[:5])
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[..., 0], np.rint((digits.train.x_0[:5, 0].numpy() + 1) * 127.5))
    assert digits.decode(torch.tensor([-7.0, 7.0]).reshape(2, 1, 1, 1)).ravel().tolist() == [0, 255]


def test_shipped_words_are_words_and_round_trip():
    words = data.load("words")
    train, held = (words.decode(split.x_0) for split in (words.train, words.held_out))
    assert len(train) + len(held) > 20_000
    assert not set(train) & set(held)
    assert all(3 <= len(word) <= 8 and word.isalpha() and word.islower() for word in train + held)
    assert {"house", "river", "green"} <= set(train + held)
    assert torch.equal(data.encode_words(held), words.held_out.x_0)
    assert words.train.x_0.dtype == torch.long
    assert int(words.train.x_0.max()) + 1 == words.categories == 27


def test_words_are_held_out_equally_by_length():
    words = data.load("words")
    lengths = [(split.x_0 < 26).sum(1).bincount(minlength=9)[3:] for split in (words.train, words.held_out)]
    share = lengths[1] / (lengths[0] + lengths[1])
    assert torch.allclose(share, torch.full((6,), 0.1), atol=0.005)


def test_decoding_shows_what_is_not_a_word():
    ids = torch.tensor([[0, 26, 1, 26], [2, 27, 26, 26], [26, 26, 26, 26]])
    assert data.decode_words(ids) == ["a_b", "c?", ""]


def test_words_of_a_file(tmp_path):
    path = tmp_path / "list"
    path.write_text("Apple\nplum\nplum\nfig's\nox\nquince\npear\nstrawberry\n")
    words = data.load("words", path=path, length=6, held_out=0)
    assert words.decode(words.train.x_0) == ["pear", "plum", "quince"]
    assert len(words.held_out) == 0
    assert words.shape == (6,)


def test_bad_word_lists_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the word list"):
        data.load("words", path=tmp_path / "none")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="one word a line"):
        data.load("words", path=tmp_path / "binary")
    with pytest.raises(ValueError, match="length: expected at least 3"):
        data.load("words", length=2)
    with pytest.raises(ValueError, match="held_out: expected a fraction"):
        data.load("words", held_out=1.0)
    with pytest.raises(ValueError, match="at most 4 letters a-z, got 'Ab'"):
        data.encode_words(["abcd", "Ab"], length=4)


@pytest.mark.parametrize(
    "name, message",
    [
        ("digit", "Did you mean 'digits'"),
        ("./nothing/here", "No file or folder"),
        ("missing.npz", "No file or folder"),
        ("folder/missing.npz", "No file or folder"),
        ("", "unknown data"),
    ],
)
def test_unknown_names_are_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        data.load(name)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match=r"'lenght'.*Did you mean 'length'"):
        data.load("words", lenght=5)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "table.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"cannot read \.xlsx; accepted are \.npy, \.npz"):
        data.load(tmp_path / "table.xlsx")


def test_indices_outside_a_split_are_refused():
    with pytest.raises(IndexError, match=r"values in \[0, 297\)"):
        data.load("digits").held_out.batch(torch.tensor([0, 297]))


def test_importing_data_is_light():
    import subprocess
    import sys

    heavy = "sklearn PIL datasets scipy"
    code = f"import sys, ornstein.data; print(set('{heavy}'.split()) & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
