from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

import ornstein as orn
from ornstein import denoisers, networks, processes, solvers
from ornstein.cli.draw import leafwise
from ornstein.cli.sample import GRIDS, SOLVERS, solver_named
from ornstein.core import AffineProcess, TimeGrid


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    torch.manual_seed(0)
    network = networks.JointUNet(1, 10, width=8, multipliers=(1,))
    process = processes.ProductProcess(
        {"image": processes.VariancePreserving(), "label": processes.Absorbing(10)}
    )
    shape = {"image": (1, 8, 8), "label": ()}
    folder = tmp_path_factory.mktemp("models") / "joint"
    denoisers.NetworkDenoiser(network, process, "edm", shape=shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    torch.manual_seed(0)
    network = networks.SequenceTransformer(28, 27, 8, width=16, depth=1, heads=2)
    folder = tmp_path_factory.mktemp("models") / "words"
    denoisers.NetworkDenoiser(network, processes.Absorbing(27), shape=(8,)).save_pretrained(folder)
    (folder / "card.json").write_text('{"data": "words"}')
    return folder


def array(name: str) -> np.ndarray:
    with np.load(name) as content:
        return content["x"]


def test_samples_are_those_of_the_library(run, call) -> None:
    call(f"sample {run} -n 3 --label 7 --steps 4 --seed 5 --out x.npz")
    expected = orn.sample(orn.load(run), 3, steps=4, seed=5, label=7)
    assert np.array_equal(array("x.npz"), expected.numpy())


def test_sample_i_of_a_seed_does_not_depend_on_the_others(run, call) -> None:
    call(f"sample {run} -n 2 --label 1 --solver ddpm --out few.npz")
    call(f"sample {run} -n 5 --label 1 --solver ddpm --out many.npz")
    assert np.allclose(array("few.npz"), array("many.npz")[:2], atol=1e-5)


def test_labels_one_each_are_kept_beside_the_samples(run, call) -> None:
    call(f"sample {run} --label 4,2,0 --out x.npz")
    with np.load("x.npz") as content:
        assert content["y"].tolist() == [4, 2, 0]
        assert content["x"].shape == (3, 1, 8, 8)


def test_what_is_written_can_be_trained_on(run, call) -> None:
    from ornstein import data

    call(f"sample {run} -n 4 --label 4 --out x.npz")
    assert data.load("x.npz", range=(-9, 9)).shape == (1, 8, 8)


def test_a_sheet_a_folder_and_an_array(run, call, tmp_path) -> None:
    call(f"sample {run} -n 9 --steps 2")
    with Image.open("samples.png") as sheet:
        assert sheet.size == (8 * 64, 2 * 64)  # two rows of eight, each pixel eightfold
    call(f"sample {run} -n 3 --steps 2 --out pictures")
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == [f"{i:05d}.png" for i in range(3)]
    with Image.open("pictures/00000.png") as picture:
        assert picture.size == (8, 8)
    call(f"sample {run} -n 3 --steps 2 --out x.npy")
    assert np.load("x.npy").shape == (3, 1, 8, 8)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_named_in_help_runs(name: str, run, call) -> None:
    assert "2 samples in" in call(f"sample {run} -n 2 --steps 3 --solver {name} --out {name}.npz")


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_named_in_help_is_one(name: str) -> None:
    assert len(TimeGrid.named(name, 5, processes.VariancePreserving())) == 5


def test_network_calls_are_counted(run, call) -> None:
    assert "in 4 network calls" in call(f"sample {run} -n 2 --steps 4 --out a.npz")
    assert "in 7 network calls" in call(f"sample {run} -n 2 --steps 4 --solver heun --out b.npz")
    assert "in 8 network calls" in call(f"sample {run} -n 2 --steps 4 --label 1 --guidance 2 --out c.npz")


def test_the_solver_is_the_one_asked_for() -> None:
    assert solver_named(None) is None
    assert solver_named(None, eta=0.5).eta == 0.5
    assert solver_named(None, stochasticity=0.0).stochasticity == 0.0
    assert solver_named("ddim").eta == 0.0
    assert solver_named("stochastic").stochasticity == 1.0
    assert isinstance(solver_named("ddpm"), solvers.Ancestral)
    with pytest.raises(ValueError, match="--eta: belongs to --solver ddim, got --solver euler"):
        solver_named("euler", eta=0.1)


def test_discrete_leaves_keep_ancestral_steps() -> None:
    process = processes.ProductProcess({"x": processes.RectifiedFlow(), "y": processes.Absorbing(4)})
    chosen = leafwise(solvers.Heun(), process)
    assert isinstance(process.parts["x"], AffineProcess)
    assert isinstance(chosen.solvers["x"], solvers.Heun)
    assert isinstance(chosen.solvers["y"], solvers.Ancestral)


def test_guidance_of_one_is_none(run, call) -> None:
    call(f"sample {run} -n 2 --label 1 --out a.npz")
    call(f"sample {run} -n 2 --label 1 --guidance 1 --out b.npz")
    call(f"sample {run} -n 2 --label 1 --guidance 4 --out c.npz")
    assert np.array_equal(array("a.npz"), array("b.npz"))
    assert not np.array_equal(array("a.npz"), array("c.npz"))


def test_raw_weights_are_others(run, call) -> None:
    call(f"sample {run} -n 2 --out a.npz")
    call(f"sample {run} -n 2 --weights raw --out b.npz")
    assert not np.array_equal(array("a.npz"), array("b.npz"))


def test_a_leaf_that_is_given_is_held(joint, call) -> None:
    call(f"sample {joint} -n 3 --given label=3 --out x.npz --solver ddim")
    with np.load("x.npz") as content:
        assert content["label"].tolist() == [3, 3, 3]
        assert content["image"].shape == (3, 1, 8, 8)


def test_leaves_given_one_each_are_shared_out_over_batches(joint, call, monkeypatch) -> None:
    monkeypatch.setattr("ornstein.cli.draw.BATCH", 2)
    call(f"sample {joint} -n 5 --given label=1,5,9,0,2 --steps 2 --out a.npz")
    with np.load("a.npz") as content:
        assert content["label"].tolist() == [1, 5, 9, 0, 2]


def test_leaves_can_be_given_one_each_and_as_a_file(joint, call) -> None:
    call(f"sample {joint} -n 3 --given label=1,5,9 --out a.npz")
    np.save("image.npy", np.full((1, 8, 8), 0.5, np.float32))
    call(f"sample {joint} -n 3 --given image=image.npy --out b.npz")
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert a["label"].tolist() == [1, 5, 9]
        assert (b["image"] == 0.5).all()


def test_a_tree_is_shown_as_a_sheet_and_its_other_leaves(joint, call) -> None:
    text = call(f"sample {joint} -n 4 --given label=3 --out x.png")
    assert "label: 3 3 3 3" in text


def test_words_are_printed_or_written(words, call) -> None:
    shown = call(f"sample {words} -n 5 --steps 3").splitlines()[:5]
    call(f"sample {words} -n 5 --steps 3 --out x.txt")
    with open("x.txt") as file:
        assert file.read().splitlines() == shown
    assert all(set(word) <= set("abcdefghijklmnopqrstuvwxyz_") for word in shown)


def test_force_overwrites(run, call) -> None:
    call(f"sample {run} -n 2 --seed 1 --out a.npz")
    before = array("a.npz")
    call(f"sample {run} -n 2 --seed 2 --out a.npz --force")
    assert not np.array_equal(before, array("a.npz"))


def test_a_full_disk_leaves_nothing_and_is_a_failure(run, refused, tmp_path, monkeypatch) -> None:
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    code, text = refused(f"sample {run} -n 2 --out new/x.npz")
    assert code == 1
    assert "No space left" in text
    assert list(tmp_path.iterdir()) == []


def test_samples_that_are_not_finite_are_not_written(run, refused, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ornstein.cli.draw.sample", lambda model, n, **_: torch.full((n, 1, 8, 8), torch.nan))
    code, text = refused(f"sample {run} -n 2 --out x.npz")
    assert code == 1
    assert "NaN" in text
    assert list(tmp_path.iterdir()) == []
