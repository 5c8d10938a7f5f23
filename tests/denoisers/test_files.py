"""Models on disk: what is written comes back; what is broken or foreign is refused by name."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ornstein import denoisers, networks, processes, spaces
from ornstein.core import Condition
from ornstein.denoisers import NetworkDenoiser
from ornstein.denoisers.files import load_model, load_weights, save_model, tensors_of

FILES = {"config.json", "model.safetensors", "README.md"}


def made(width: int = 8, **options) -> NetworkDenoiser:
    network = networks.UNet(1, width=width, multipliers=(1, 2), labels=10)
    process = processes.VariancePreserving("cosine", last_alpha=0.01)
    denoiser = NetworkDenoiser(network, process, "edm", shape=(1, 8, 8), scale=0.7, **options)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    return denoiser.eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    return made().save_pretrained(tmp_path / "model")


def answer(denoiser: NetworkDenoiser) -> torch.Tensor:
    x = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    return denoiser(x, 0.3, Condition({"label": torch.tensor([1, 7])})).mean.detach()


# ------------------------------------------------------------------------------------ round trips


def test_a_model_comes_back_the_same(tmp_path) -> None:
    denoiser = made()
    assert denoiser.save_pretrained(tmp_path / "deep/er") == tmp_path / "deep/er"
    assert {p.name for p in (tmp_path / "deep/er").iterdir()} == FILES
    state = torch.random.get_rng_state()
    again = NetworkDenoiser.from_pretrained(tmp_path / "deep/er")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.spec() == denoiser.spec()
    assert torch.equal(answer(again), answer(denoiser))
    assert not again.training
    assert (again.shape, again.prediction, again.scale) == ((1, 8, 8), "edm", 0.7)
    assert again.process.half_log_snr(1.0) == denoiser.process.half_log_snr(1.0)


def test_a_tree_of_processes_comes_back(tmp_path) -> None:
    parts = {"image": processes.RectifiedFlow(), "label": processes.Absorbing(10)}
    shape = {"image": (1, 8, 8), "label": ()}
    denoiser = NetworkDenoiser(
        networks.JointUNet(1, 10, width=8, multipliers=(1,)), processes.ProductProcess(parts), shape=shape
    )
    again = load_model(denoiser.save_pretrained(tmp_path))
    assert again.shape == shape
    assert again.process.parts["label"].categories == 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_stored_in_half_precision_and_read_back_in_full(tmp_path, dtype) -> None:
    """A latent model with its codec: every parameter is rounded once, every buffer is kept."""
    codec = spaces.AutoencoderCodec(networks.Autoencoder(1, latent=2, factor=2, width=4))
    codec.scale.fill_(1 / 3)
    process = spaces.Encoded(processes.RectifiedFlow(), codec)
    denoiser = NetworkDenoiser(networks.UNet(2, width=8, multipliers=(1,)), process, shape=(2, 4, 4)).eval()
    save_model(denoiser, tmp_path / "half", dtype=dtype, raw=tensors_of(denoiser))
    save_model(denoiser, tmp_path / "full")
    for weights in ("ema", "raw"):
        again = load_model(tmp_path / "half", weights)
        assert {p.dtype for p in again.parameters()} == {torch.get_default_dtype()}
        for own, found in zip(denoiser.parameters(), again.parameters(), strict=True):
            assert torch.equal(found, own.to(dtype).to(own))
        assert torch.equal(again.process.codec.scale, codec.scale)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    saved = sum(p.numel() for p in denoiser.parameters()) * (torch.get_default_dtype().itemsize - 2)
    assert sizes[1] - sizes[0] == pytest.approx(saved, rel=0.02)
    save_model(again, tmp_path / "again", dtype=dtype)  # what is rounded already stays
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "again"))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path) -> None:
    denoiser = made()
    with torch.no_grad():
        denoiser.network.encoder[0].blocks[0].conv_in.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match=r"conv_in\.weight has values that torch\.float16 cannot hold"):
        save_model(denoiser, tmp_path / "model", dtype=torch.float16)
    assert not (tmp_path / "model").exists()
    save_model(denoiser, tmp_path / "model", dtype=torch.bfloat16)


def test_the_config_is_json_and_names_its_format(saved) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["format"] == "ornstein"
    assert config["version"] == 1
    assert config["denoiser"]["class"] == "denoisers.NetworkDenoiser"
    assert config["denoiser"]["arguments"]["process"]["class"] == "processes.VariancePreserving"


def test_the_card_says_what_it_is_and_ones_own_is_kept(tmp_path) -> None:
    denoiser = made()
    denoiser.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: ornstein\n")
    assert "VariancePreserving" in text
    assert "as trained" in text
    denoiser.save_pretrained(tmp_path, card="My words.")
    denoiser.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My words."


def test_a_model_inherits_nothing_of_the_one_that_was_there(tmp_path) -> None:
    first = made()
    first.fit = denoisers.GaussianFit.of(torch.randn(40, 1, 8, 8))
    save_model(first, tmp_path, raw=tensors_of(first))
    (tmp_path / "notes.txt").write_text("mine")
    assert load_model(tmp_path).fit is not None
    save_model(made(), tmp_path, card="My words.")
    assert load_model(tmp_path).fit is None
    assert {p.name for p in tmp_path.iterdir()} == {*FILES, "notes.txt"}
    (tmp_path / "card.json").write_text("{}")
    save_model(made(), tmp_path)  # the same config, other weights
    assert (tmp_path / "README.md").read_text() == "My words." and (tmp_path / "card.json").exists()
    made(width=16).save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*FILES, "notes.txt"}
    assert (tmp_path / "README.md").read_text() == made(width=16).save_pretrained(tmp_path / "new").joinpath(
        "README.md"
    ).read_text()


def test_averaged_and_raw_weights_stand_side_by_side(tmp_path) -> None:
    average, raw = made(), made()
    save_model(average, tmp_path, raw=tensors_of(raw))
    assert torch.equal(answer(load_model(tmp_path)), answer(average))
    assert torch.equal(answer(load_model(tmp_path, weights="raw")), answer(raw))
    assert "moving average (EMA)" in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match="Did you mean 'ema'"):
        load_model(tmp_path, weights="emma")


def test_tied_weights_are_written_once_for_each_name_and_stay_tied(tmp_path) -> None:
    denoiser = made()
    denoiser.network.norm.bias = denoiser.network.norm.weight
    denoiser.save_pretrained(tmp_path)
    assert torch.equal(
        *(load_file(tmp_path / "model.safetensors")[f"network.norm.{n}"] for n in ("bias", "weight"))
    )


def test_weights_go_into_a_model_made_in_code(saved) -> None:
    again = load_weights(made(), saved)
    assert torch.equal(answer(again), answer(load_model(saved)))


def test_an_exact_denoiser_says_that_it_cannot_be_saved(tmp_path) -> None:
    exact = denoisers.GaussianDenoiser(torch.zeros(2), torch.eye(2), processes.RectifiedFlow())
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        save_model(exact, tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Foreign(nn.Module):
    fields = frozenset()


def test_a_network_of_ones_own_is_refused_with_the_way_out(tmp_path) -> None:
    with pytest.raises(ValueError, match="Foreign"):
        NetworkDenoiser(Foreign(), processes.RectifiedFlow()).save_pretrained(tmp_path / "model")

    class Own(networks.UNet):
        pass

    with pytest.raises(ValueError, match=r"Own is not a class of ornstein.*load_weights"):
        NetworkDenoiser(Own(1, width=8), processes.RectifiedFlow()).save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------- whole or not at all


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """The disk is full once `after` files are written."""
    left, sync = [after], os.fsync

    def fsync(handle: int) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, after) -> None:
    denoiser = made()
    full_disk(monkeypatch, after)
    with pytest.raises(OSError, match=r"No space left on device.*model.safetensors.*needed.*free") as caught:
        denoiser.save_pretrained(tmp_path / "a/b")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_leaves_the_model_that_was_there(saved, monkeypatch, after) -> None:
    (saved / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    full_disk(monkeypatch, after)
    with pytest.raises(OSError, match="nothing was changed"):
        made().save_pretrained(saved, card="new")
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


LIMITED = """
import resource, signal, sys
sys.path.insert(0, {here!r})
from test_files import made
denoiser = made()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    denoiser.save_pretrained(sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_write_that_truly_fails_leaves_nothing(tmp_path) -> None:
    program = LIMITED.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", program, str(tmp_path / "model")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in run.stdout
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(OSError, match="cannot be written"):
        made().save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


# ------------------------------------------------------------------------------- broken and foreign


def edit(saved: Path, **changes) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, **changes}))


def truncate(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(b"\xff" * 64 + path.read_bytes()[64:])


def pickled(saved: Path) -> None:
    torch.save({"a": torch.zeros(1)}, saved / "model.safetensors")


def reshape(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    tensors["network.stem.weight"] = torch.zeros(3, 3)
    save_file(tensors, saved / "model.safetensors")


def drop(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    tensors["surplus"] = tensors.pop("network.stem.weight")
    save_file(tensors, saved / "model.safetensors")


def other_class(name: str):
    return lambda saved: edit(saved, denoiser={"class": name, "arguments": {}})


def other_argument(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["denoiser"]["arguments"]["network"]["arguments"]["widht"] = 3
    (saved / "config.json").write_text(json.dumps(config))


BROKEN = {
    "truncated": (truncate, r"model\.safetensors: not a whole safetensors file"),
    "empty": (lambda s: (s / "model.safetensors").write_bytes(b""), r"model\.safetensors: not a whole"),
    "scrambled": (scramble, r"model\.safetensors: not a whole safetensors file"),
    "a pickle in disguise": (pickled, r"model\.safetensors: not a whole safetensors file"),
    "no weights": (lambda s: (s / "model.safetensors").unlink(), r"has no model\.safetensors; accepted is"),
    "another shape": (reshape, r"network\.stem\.weight is \(3, 3\), expected \(8, 1, 3, 3\)"),
    "other names": (drop, r"network\.stem\.weight is missing; surplus is not in the model"),
    "no config": (lambda s: (s / "config.json").unlink(), r"has no config\.json; accepted is"),
    "config is no JSON": (
        lambda s: (s / "config.json").write_text("{"),
        r"config\.json: not readable as JSON",
    ),
    "config is a list": (
        lambda s: (s / "config.json").write_text("[]"),
        r"config\.json: not a config of ornstein",
    ),
    "diffusers' config": (
        lambda s: (s / "config.json").write_text('{"_class_name": "UNet2DModel"}'),
        r"not a config of ornstein's \(it is of UNet2DModel\)",
    ),
    "a later format": (lambda s: edit(s, version=2), "format version 2, this ornstein reads 1; update"),
    "a class of nobody's": (other_class("networks.Unet"), r"config\.json.*Did you mean 'UNet'"),
    "a class out of bounds": (other_class("os.system"), r"config\.json.*unknown room"),
    "a function": (other_class("networks.sinusoid"), r"config\.json"),
    "no denoiser": (other_class("processes.RectifiedFlow"), "describes a RectifiedFlow, expected a denoiser"),
    "an unknown argument": (other_argument, r"config\.json.*widht"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused_by_file_and_reason(saved, case) -> None:
    damage, text = BROKEN[case]
    damage(saved)
    with pytest.raises(ValueError, match=text) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "model.pkl", "pytorch_model.bin"])
def test_no_pickle_is_ever_opened(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(
        ValueError, match=r"pickled files are never read; accepted is a folder with config\.json"
    ):
        load_model(tmp_path / name)
    with pytest.raises(ValueError, match=r"pickled|pickle"):
        load_model(tmp_path)


def test_a_diffusers_pipeline_is_recognised(tmp_path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="this is a diffusers pipeline"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/no/such/folder", "../x"])
def test_a_name_that_is_nothing_says_what_is_accepted(name) -> None:
    with pytest.raises(ValueError, match=r"no such folder; accepted is a folder.*owner/name"):
        load_model(name)


def test_a_single_weights_file_is_not_a_model(saved) -> None:
    with pytest.raises(ValueError, match="this is a single file"):
        load_model(saved / "model.safetensors")


def test_the_class_asked_for_is_the_class_given(saved) -> None:
    class Special(NetworkDenoiser):
        pass

    with pytest.raises(ValueError, match="is a NetworkDenoiser, expected a Special"):
        Special.from_pretrained(saved)


# ------------------------------------------------------------------------------------------ the hub


def cached(saved: Path, cache: Path, name: str = "somebody/digits") -> Path:
    """A cache of the hub that already holds the model."""
    root = cache / ("models--" + name.replace("/", "--"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(commit)
    shutil.copytree(saved, root / "snapshots" / commit)
    return cache


def test_options_of_the_hub_are_of_ids(saved, tmp_path) -> None:
    for option, value in (("revision", "main"), ("token", "x"), ("cache_dir", "."), ("force_download", True)):
        with pytest.raises(ValueError, match=rf"{option}: got {value!r}, but model .* is a folder"):
            load_model(saved, **{option: value})
    with pytest.raises(TypeError, match=r"unknown option of the hub 'revison'\. Did you mean 'revision'"):
        load_model("somebody/digits", revison="main")
    assert load_model(saved, local_files_only=True, revision=None) is not None


def test_a_hub_id_loads_from_the_cache(saved, tmp_path) -> None:
    cache = cached(saved, tmp_path / "cache")
    again = NetworkDenoiser.from_pretrained("somebody/digits", cache_dir=cache, local_files_only=True)
    assert torch.equal(answer(again), answer(load_model(saved)))


def test_a_hub_id_that_cannot_be_had_is_named(tmp_path) -> None:
    with pytest.raises(OSError, match=r"'somebody/nothing': no such folder, and not had from the hub"):
        load_model("somebody/nothing", cache_dir=tmp_path, local_files_only=True)


def test_push_to_hub_uploads_what_save_pretrained_writes(saved, monkeypatch) -> None:
    import huggingface_hub.hub_mixin

    sent = {}

    class Api:
        def __init__(self, token=None) -> None: ...

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **options) -> str:
            sent.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    assert (
        load_model(saved).push_to_hub("somebody/digits", private=True)
        == "https://hub/somebody/digits/commit/1"
    )
    assert set(sent) == FILES
    assert sent["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert sent["config.json"] == (saved / "config.json").read_bytes()


def test_neither_saving_nor_loading_a_folder_imports_the_hub(saved) -> None:
    program = (
        "import sys; from ornstein.denoisers.files import load_model; model = load_model(sys.argv[1]); "
        "model.save_pretrained(sys.argv[1]); print('huggingface_hub' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(saved)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
