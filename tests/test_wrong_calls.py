"""Wrong calls, over the Python API and the command line: one clear error each, and nothing half-written.

Each row says what is called and which words the error must hold: the argument's name, what was given, and what is
accepted.
"""

from __future__ import annotations

import errno
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ornstein as orn
from ornstein import (
    data,
    denoisers,
    guides,
    metrics,
    networks,
    objectives,
    processes,
    solvers,
    training,
    zoo,
)
from ornstein.core import TimeGrid

from .exact import gaussian, mixture, table

GRID = TimeGrid.uniform(4)


def unet(labels: int | None = 10, process=None, **options) -> denoisers.NetworkDenoiser:
    torch.manual_seed(0)
    network = networks.UNet(1, width=8, multipliers=(1,), labels=labels)
    process = process or processes.VariancePreserving("cosine")
    return denoisers.NetworkDenoiser(network, process, shape=(1, 8, 8), **options)


def image(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size, size), np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models and files that are wrong in all ways. No call may change it, so all share it."""
    path = tmp_path_factory.mktemp("world")
    for name in ("model", "damaged", "truncated", "later", "stranger"):
        unet().save_pretrained(path / name)
    unet(labels=None).save_pretrained(path / "unconditional")
    _spoil(path)
    for name in ("diffusers", "diffusers-unet", "empty", "unreadable", "full"):
        (path / name).mkdir()
    (path / "diffusers" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    (path / "diffusers-unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (path / "unreadable" / "photo.png").write_bytes(b"not a picture")
    (path / "full" / "thesis.tex").write_text("years of work")
    (path / "notes.txt").write_text("some notes")
    (path / "notes.png").write_bytes(b"precious")
    (path / "broken.yaml").write_text("training: [")
    torch.save({"weights": torch.zeros(2)}, path / "model.pt")
    image(path / "sizes" / "a.png", 8)
    image(path / "sizes" / "b.png", 9)
    np.save(path / "nan.npy", np.where(np.arange(48).reshape(3, 4, 4) == 20, np.nan, 0.0))
    np.save(path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(path / "ids.npy", np.arange(12).reshape(3, 4))
    np.save(path / "points.npy", np.zeros((20, 2, 3, 4, 5, 6), np.float32))
    np.savez(path / "uneven.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.arange(3))
    return path


@pytest.fixture
def world(folder, monkeypatch):
    """The folder as the working directory, and a model."""
    monkeypatch.chdir(folder)
    torch.set_default_dtype(torch.float32)
    return types.SimpleNamespace(path=folder, model=unet(), monkeypatch=monkeypatch)


def _spoil(path: Path) -> None:
    weights = path / "damaged" / "model.safetensors"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    weights = path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    _edit(path / "later" / "config.json", lambda config: config.update(version=99))
    _edit(path / "stranger" / "config.json", _call_os_system)


def _edit(path: Path, change) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def _call_os_system(config) -> None:
    config["denoiser"]["arguments"]["network"] = {"class": "os.system", "arguments": {"command": "true"}}


def tree(path: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with its content."""
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in path.rglob("*")}


def fit(world, denoiser=None, source="digits", **options):
    return training.fit(
        denoiser or world.model, source, **{"steps": 2, "out": "run", "progress": False, **options}
    )


def full_disk(world):
    def fails(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.monkeypatch.setattr("os.fsync", fails)
    return world.model.save_pretrained(world.path / "new" / "model")


def starts(shape, value: float = 0.0) -> torch.Tensor:
    return torch.full(shape, value)


VP, FLOW = processes.VariancePreserving, processes.RectifiedFlow

PYTHON = {
    # names
    "unknown schedule": (lambda w: VP("cosin"), "schedule", "'cosin'", "Did you mean 'cosine'"),
    "unknown prediction": (lambda w: unet(prediction="velocty"), "prediction", "'velocty'", "Did you mean 'velocity'"),
    "unknown grid": (
        lambda w: orn.sample(w.model, 2, grid="karas"), "grid", "'karas'", "Did you mean 'karras'", "log-snr",
    ),
    "unknown data": (lambda w: data.load("digitz"), "data", "'digitz'", "Did you mean 'digits'", "owner/name"),
    "unknown data option": (lambda w: data.load("words", lenght=4), "'lenght'", "Did you mean 'length'"),
    "unknown model": (lambda w: orn.load("digitz"), "model", "'digitz'", "Did you mean 'digits'", "owner/name"),
    "unknown weights": (lambda w: orn.load("model", weights="emma"), "weights", "'emma'", "Did you mean 'ema'"),
    "unknown recipe": (lambda w: zoo.recipe("digit"), "recipe", "'digit'", "Did you mean 'digits'"),
    "unknown weighting": (
        lambda w: objectives.Denoising(weighting="minsnr"), "weighting", "'minsnr'", "Did you mean 'min-snr'",
    ),
    "unknown classifier": (lambda w: metrics.load_classifier("digit"), "classifier", "'digit'", "'digits'"),
    "unknown name of ornstein": (lambda w: orn.smaple, "smaple"),
    # numbers
    "steps 0": (lambda w: orn.sample(w.model, 2, steps=0), "steps", "at least 1", "0"),
    "steps negative": (lambda w: orn.Sampler(solvers.DDIM(), -3), "steps", "at least 1", "-3"),
    "steps a fraction": (lambda w: orn.sample(w.model, 2, steps=2.5), "steps", "integer", "2.5"),
    "no samples": (lambda w: orn.sample(w.model, 0), "start", "0"),
    "samples negative": (lambda w: orn.sample(w.model, -4), "start", "-4"),
    "eta above 1": (lambda w: solvers.DDIM(eta=2.0), "eta", "0 to 1", "2.0"),
    "stochasticity below 0": (lambda w: solvers.Stochastic(-1.0), "stochasticity", ">= 0", "-1.0"),
    "order of no method": (lambda w: solvers.DPMSolverPP(order=4), "order", "1 to 3", "4"),
    "rates out of order": (lambda w: VP("linear", rate_min=3.0, rate_max=1.0), "rate_min", "3.0", "1.0"),
    "one category": (lambda w: processes.Absorbing(1), "categories", "at least 2", "1"),
    "guidance not a number": (lambda w: guides.ClassifierFree(float("nan")), "scale", "finite", "nan"),
    # pairs that cannot work
    "noise predicted where there is no signal": (
        lambda w: unet(process=FLOW(), prediction="noise"), "'noise'", "RectifiedFlow", "velocity",
    ),
    "affine solver on a discrete process": (
        lambda w: orn.sample(table(processes.Absorbing(3)), 2, solver=solvers.DDIM()), "DDIM", "Absorbing", "Ancestral",
    ),
    "ancestral-only process on a named grid": (
        lambda w: orn.sample(table(processes.Absorbing(3)), 2, grid="karras"),
        "grid", "'karras'", "Absorbing", "uniform",
    ),
    "stochastic solver on a velocity": (
        lambda w: orn.sample(unet(estimates="velocity"), 2, solver=solvers.DDPM()), "velocity", "stochastic", "DDIM",
    ),
    "gradient guide on a discrete process": (
        lambda w: guides.RewardGradient(lambda x, c: x.sum())(table(processes.UniformNoise(3))),
        "RewardGradient", "UniformNoise", "affine",
    ),
    "classifier-free guidance without a condition": (
        lambda w: guides.ClassifierFree(2.0)(unet(labels=None)), "ClassifierFree", "no condition",
    ),
    "classifier-free guidance dropping another field": (
        lambda w: guides.ClassifierFree(2.0, fields=("text",))(w.model), "ClassifierFree", "text", "label",
    ),
    "models of two processes superposed": (
        lambda w: guides.Superposition([gaussian(VP("cosine"))])(gaussian(VP())), "Superposition", "process",
    ),
    "clamp of a leaf that is not there": (
        lambda w: guides.Clamp({"image": torch.ones(1).bool()}, {"image": torch.ones(1)})(w.model), "Clamp", "leaves",
    ),
    "leaf solvers for a state without leaves": (
        lambda w: orn.sample(w.model, 2, solver=solvers.Leafwise({"image": solvers.DDIM()})), "Leafwise", "'image'",
    ),
    "a process sampled by a denoiser's solver": (
        lambda w: orn.Sampler(solvers.DDIM(), 3)(VP(), torch.zeros(2, 3)), "Process", "Forward",
    ),
    "not a solver": (lambda w: orn.Sampler("ddim", 10), "solver", "'ddim'", "DDIM()"),
    # states and grids
    "start of another shape": (
        lambda w: orn.sample(w.model, starts((2, 3, 8, 8))), "start", "(3, 8, 8)", "(1, 8, 8)",
    ),
    "start with NaN": (lambda w: orn.sample(w.model, starts((2, 1, 8, 8), float("nan"))), "start", "NaN"),
    "start that is no state": (lambda w: orn.sample(w.model, "sixteen"), "start", "'sixteen'"),
    "grid rows that do not join": (
        lambda w: orn.Sampler(solvers.DDIM(), grid=GRID[:2] + GRID[3:]), "grid", "0.5", "0.25",
    ),
    "grid without rows": (lambda w: orn.Sampler(solvers.DDIM(), grid=TimeGrid()), "grid", "no rows"),
    "stochastic row that goes up": (
        lambda w: orn.sample(w.model, 2, solver=solvers.DDPM(), grid=TimeGrid.through([1.0, 0.5, 0.7, 0.0])),
        "0.5", "0.7", "Forward",
    ),
    "a leaf given of a state without leaves": (
        lambda w: orn.sample(w.model, 2, given={"label": 3}), "given", "'label'",
    ),
    # conditions and seeds
    "a field nobody declares": (
        lambda w: orn.sample(w.model, 4, lable=7), "condition field", "'lable'", "Did you mean 'label'",
    ),
    "a label out of range": (lambda w: orn.sample(w.model, 4, label=10), "label", "0 to 9", "10"),
    "labels of another number": (lambda w: orn.sample(w.model, 4, label=[1, 2]), "label", "2 rows", "4 samples"),
    "a label of words": (lambda w: orn.sample(w.model, 4, label="seven"), "label", "'seven'"),
    "a label that is NaN": (lambda w: orn.sample(mixture(VP()), 4, label=float("nan")), "label", "NaN"),
    "seeds of another number": (
        lambda w: orn.sample(w.model, 4, seed=torch.arange(3)), "seed", "3 seeds", "4 samples",
    ),
    "a seed of words": (lambda w: orn.sample(w.model, 4, seed="lucky"), "seed", "'lucky'", "integer"),
    # files of models
    "weights that are not safetensors": (lambda w: orn.load("damaged"), "damaged", "safetensors"),
    "weights cut short": (lambda w: orn.load("truncated"), "truncated", "safetensors"),
    "a config of a later version": (lambda w: orn.load("later"), "later", "99", "update"),
    "a config that calls a foreign function": (lambda w: orn.load("stranger"), "'os'", "networks"),
    "a pipeline of diffusers": (lambda w: orn.load("diffusers"), "diffusers", "config.json"),
    "a network of diffusers": (lambda w: orn.load("diffusers-unet"), "UNet2DModel", "ornstein"),
    "a pickle": (lambda w: orn.load("model.pt"), "model.pt", "pickle", "never"),
    "a folder with nothing in it": (lambda w: orn.load("empty"), "empty", "config.json"),
    "a full disk": (full_disk, "No space left", "model.safetensors", "nothing was changed"),
    # data
    "an empty folder": (lambda w: data.load("empty"), "empty", "no images", ".png"),
    "an unreadable image": (lambda w: data.load("unreadable"), "photo.png", "cannot be read"),
    "images of two sizes": (lambda w: data.load("sizes"), "size", "8x8", "9x9"),
    "NaN in the data": (lambda w: data.load("nan.npy"), "row 1", "NaN"),
    "pickled objects": (lambda w: data.load("objects.npy"), "objects.npy", "never unpickled"),
    "integers of no said meaning": (lambda w: data.load("ids.npy"), "integers", "discrete=True", "range="),
    "labels fewer than samples": (lambda w: data.load("uneven.npz"), "labels", "4", "3"),
    "a file of another kind": (lambda w: data.load("notes.txt"), "notes.txt", ".npz"),
    # training
    "training for 0 steps": (lambda w: fit(w, steps=0), "steps", "at least 1", "0"),
    "a batch of -8": (lambda w: fit(w, batch=-8), "batch", "at least 1", "-8"),
    "a learning rate of NaN": (lambda w: fit(w, learning_rate=float("nan")), "learning_rate", "nan"),
    "data of another shape": (lambda w: fit(w, source="words"), "data", "(8,)", "(1, 8, 8)"),
    "an objective that is none": (lambda w: fit(w, objective="denoising"), "objective", "Denoising()"),
    "a folder full of something else": (lambda w: fit(w, out="full"), "out", "'full'", "run"),
    # metrics
    "samples of two shapes": (
        lambda w: metrics.energy_distance(torch.zeros(4, 2), torch.zeros(4, 3)), "(2,)", "(3,)",
    ),
    "samples that are NaN": (
        lambda w: metrics.frechet_distance(starts((4, 2), float("nan")), torch.zeros(4, 2)), "x", "NaN",
    ),
}  # fmt: skip

CLI = {
    # the parser's own
    "unknown command": ("smaple digits", "smaple", "sample"),
    "unknown option": ("sample model --stepz 4", "--stepz", "--steps"),
    "an argument left out": ("sample", "model"),
    "a number that is none": ("sample model --steps ten", "--steps", "integer", "'ten'"),
    # train
    "train: unknown data": ("train digitz", "data", "'digitz'", "Did you mean 'digits'"),
    "train: unknown key": (
        "train digits --set training.stepz=5", "training.stepz", "Did you mean 'training.steps'",
    ),
    "train: unknown section": ("train digits --set trainig.steps=5", "trainig", "Did you mean 'training'"),
    "train: unknown argument of a network": (
        "train digits --set network.widht=8", "network.widht", "Did you mean 'network.width'",
    ),
    "train: unknown network": ("train digits --set network.class=UNett", "network.class", "Did you mean 'UNet'"),
    "train: unknown process": (
        "train digits --set process.class=RectifiedFlo", "process.class", "Did you mean 'RectifiedFlow'",
    ),
    "train: unknown option of the data": ("train digits --set data.size=8", "'size'", "digits"),
    "train: --set of another type": ("train digits --set training.steps=many", "training.steps", "integer", "'many'"),
    "train: a network's argument of another type": (
        "train digits --set network.width=wide", "network.width", "integer", "'wide'",
    ),
    "train: --set without a value": ("train digits --set training.steps", "--set", "NAME=VALUE"),
    "train: steps 0": ("train digits --steps 0", "steps", "at least 1", "0"),
    "train: a pair that cannot work": (
        "train digits --set process.class=RectifiedFlow --set prediction=noise", "'noise'", "RectifiedFlow",
    ),
    "train: unknown preset": ("train digits --preset digit", "recipe", "Did you mean 'digits'"),
    "train: no such config": ("train digits --config nothing.yaml", "--config", "nothing.yaml"),
    "train: a config that is not YAML": ("train digits --config broken.yaml", "broken.yaml", "YAML"),
    "train: a config that is a list": ("train digits --config notes.txt", "--config", "notes.txt"),
    "train: out is not empty": ("train digits --out full", "--out", "full", "--resume"),
    "train: out is a file": ("train digits --out notes.txt", "--out", "notes.txt", "file"),
    "train: out under a file": ("train digits --out notes.txt/run", "--out", "notes.txt"),
    "train: resume of what is no run": ("train digits --out full --resume", "--resume", "full", "config.yaml"),
    "train: resume of nothing": ("train digits --out new --resume", "--resume", "new"),
    "train: NaN in the data": ("train nan.npy", "row 1", "NaN"),
    "train: an empty folder": ("train empty", "empty", "no images"),
    "train: data without a default network": ("train points.npy", "network", "(2, 3, 4, 5, 6)"),
    # sample
    "sample: unknown model": ("sample digitz", "model", "'digitz'", "Did you mean 'digits'", "owner/name"),
    "sample: unknown solver": ("sample model --solver heum", "--solver", "Did you mean 'heun'"),
    "sample: unknown grid": ("sample model --grid karas", "grid", "Did you mean 'karras'"),
    "sample: steps 0": ("sample model --steps 0", "steps", "at least 1", "0"),
    "sample: no samples": ("sample model -n 0", "-n", "0"),
    "sample: eta of another solver": ("sample model --solver heun --eta 0.5", "--eta", "ddim", "heun"),
    "sample: eta above 1": ("sample model --eta 3", "eta", "0 to 1", "3"),
    "sample: a label out of range": ("sample model --label 12", "label", "0 to 9", "12"),
    "sample: a label of words": ("sample model --label seven", "--label", "'seven'"),
    "sample: labels of another number": ("sample model -n 4 --label 1,2", "--label", "2 labels", "4 samples"),
    "sample: guidance of nothing": ("sample unconditional --guidance 2", "ClassifierFree", "no condition"),
    "sample: a label for nothing": ("sample unconditional --label 2", "label"),
    "sample: a leaf of nothing": ("sample model --given label=3", "given", "label"),
    "sample: a leaf without a value": ("sample model --given label", "--given", "LEAF=VALUE"),
    "sample: pictures as text": ("sample model --out x.txt", "--out", ".png", "x.txt"),
    "sample: out exists": ("sample model --out notes.png", "--out", "notes.png", "--force"),
    "sample: out under a file": ("sample model --out notes.txt/x.png", "--out", "notes.txt"),
    "sample: a folder that is not empty": ("sample model --out full", "--out", "full", "--force"),
    "sample: a pickle": ("sample model.pt", "pickle", "never"),
    "sample: weights cut short": ("sample truncated", "truncated", "safetensors"),
    "sample: a pipeline of diffusers": ("sample diffusers", "diffusers", "config.json"),
    # the others
    "evaluate: no data named": ("evaluate model", "--data", "model"),
    "evaluate: data of another shape": ("evaluate model --data words", "--data", "(8,)", "(1, 8, 8)"),
    "evaluate: out of another kind": ("evaluate model --data digits --out x.txt", "--out", ".json"),
    "info: nothing of that name": ("info nothing", "'nothing'"),
    "demo: out is not empty": ("demo --out full", "--out", "full"),
    "papers: unknown family": ("papers --family solver", "family", "Did you mean 'solvers'"),
    "reproduce: unknown paper": ("reproduce score-sdee", "'score-sdee'", "score-sde"),
    "reproduce: unknown budget": ("reproduce score-sde --budget quik", "'quik'", "quick"),
}  # fmt: skip


def test_there_are_at_least_thirty_of_each() -> None:
    assert len(PYTHON) >= 30
    assert len(CLI) >= 30


@pytest.mark.parametrize("name", PYTHON)
def test_a_wrong_call_of_the_library(name: str, world) -> None:
    call, *words = PYTHON[name]
    before = tree(world.path)
    with pytest.raises((ValueError, TypeError, OSError, AttributeError)) as raised:
        call(world)
    message = str(raised.value)
    assert [w for w in words if w not in message] == [], message
    assert "\n" not in message.strip()
    assert tree(world.path) == before


@pytest.mark.parametrize("name", CLI)
def test_a_wrong_call_of_the_command_line(name: str, world) -> None:
    from ornstein.cli import app

    line, *words = CLI[name]
    before = tree(world.path)
    result = CliRunner().invoke(app, line.split())
    message = result.stderr.strip()
    assert result.exit_code == 2, result.output
    assert message.startswith("error: ")
    assert "\n" not in message
    assert [w for w in words if w not in message] == [], message
    assert "Traceback" not in result.output
    assert tree(world.path) == before
