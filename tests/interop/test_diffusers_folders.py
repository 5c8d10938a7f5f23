"""Folders of diffusers in and out."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import diffusers

import ornstein as orn
from ornstein import denoisers, interop, networks, processes
from ornstein.core import Sampler
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers.files import load_weights
from ornstein.guides import ClassifierFree
from ornstein.solvers import DDIM
from ornstein.training.codec import encoded

from . import tiny
from .test_diffusers_models import PIPELINES, TEXTS, fields, gap, ours, shown, start


@pytest.fixture(autouse=True)
def quiet() -> None:
    diffusers.logging.disable_progress_bar()
    __import__("transformers").logging.disable_progress_bar()


def written(name: str, folder: Path) -> Any:
    """(the pipeline, its folder)."""
    pipe = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


def sized(model: Any, name: str) -> Any:
    model.shape = start(name).shape[1:]
    return model


# ------------------------------------------------------------------------------------- in and out


@pytest.mark.parametrize("name", PIPELINES)
def test_a_folder_gives_what_its_pipeline_gives_and_goes_back(name: str, tmp_path: Path) -> None:
    pipe = written(name, tmp_path / "theirs")
    model = sized(interop.load_diffusers(tmp_path / "theirs"), name)
    assert not model.training
    options = fields(name)
    expected = ours(sized(interop.from_diffusers(pipe), name), start(name), 3, **options)
    assert gap(ours(model, start(name), 3, **options), expected) < 1e-6
    interop.save_diffusers(model, tmp_path / "back")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert type(again) is type(pipe)
    assert not list((tmp_path / "back").rglob("*.bin"))
    assert gap(ours(sized(interop.from_diffusers(again), name), start(name), 3, **options), expected) < 1e-6


def test_a_bare_network_beside_its_scheduler(tmp_path: Path) -> None:
    parts = {"unet": tiny.text_unet(), "scheduler": tiny.ddim(prediction_type="v_prediction")}
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    given = {"text": torch.randn(2, 3, 16)}
    expected = ours(interop.from_diffusers(parts), start(), 3, **given)
    for folder in (tmp_path, tmp_path / "unet"):
        assert torch.equal(ours(interop.load_diffusers(folder), start(), 3, **given), expected)
    model = interop.load_diffusers(tmp_path, scheduler=tiny.ddim())
    assert gap(ours(model, start(), 3, **given), expected) > 1e-3
    interop.save_diffusers(model, tmp_path / "back")
    assert torch.equal(
        ours(interop.load_diffusers(tmp_path / "back"), start(), 3, **given), ours(model, start(), 3, **given)
    )
    with pytest.raises(ValueError, match="has no pipeline"):
        interop.to_pipeline(model)
    assert interop.to_diffusers(model) == (model.network, model.scheduler)


def test_an_older_folder_has_its_network_at_the_top(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 lies on the hub."""
    pipe = PIPELINES["unconditional"]()
    pipe.unet.save_pretrained(tmp_path)
    pipe.scheduler.save_pretrained(tmp_path)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(
        json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]})
    )
    x = start("unconditional")
    assert torch.equal(ours(interop.load_diffusers(tmp_path), x, 2), ours(interop.from_diffusers(pipe), x, 2))


def test_half_precision_on_request(tmp_path: Path) -> None:
    written("Stable Diffusion", tmp_path)
    model = interop.load_diffusers(tmp_path, dtype=torch.bfloat16)
    codec = model.process.codec
    kinds = [next(m.parameters()).dtype for m in (model.network, model.text, codec.vae)]
    assert kinds == [torch.bfloat16, torch.bfloat16, torch.float32]
    whole = interop.load_diffusers(tmp_path)
    assert gap(ours(model, start(), 3, text=TEXTS), ours(whole, start(), 3, text=TEXTS)) < 0.1


def test_from_the_hub_come_safetensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("unconditional", tmp_path)
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert interop.load_diffusers("owner/name", revision="main").shape == (3, 8, 8)
    assert (asked["name"], asked["revision"]) == ("owner/name", "main")
    assert not [p for p in asked["allow_patterns"] if p.endswith((".bin", ".pt", ".ckpt", ".py", "*"))]

    def absent(name: str, **options: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(OSError, match=r"owner/name.*not had from the hub.*offline"):
        interop.load_diffusers("owner/name")


def test_options_of_the_hub_are_of_ids(tmp_path: Path) -> None:
    for option, value in (
        ("revision", "main"),
        ("token", "x"),
        ("cache_dir", "."),
        ("force_download", True),
    ):
        with pytest.raises(ValueError, match=rf"{option}: got {value!r}, but model .* is a folder"):
            interop.load_diffusers(tmp_path, **{option: value})
    for name in (tmp_path, "owner/name"):
        with pytest.raises(TypeError, match=r"unknown option of the hub 'revison'\. Did you mean 'revision'"):
            interop.load_diffusers(name, revison="main")
    with pytest.raises(ValueError, match="no model_index"):  # which is kept, as far as it goes
        interop.load_diffusers(tmp_path, local_files_only=True, revision=None)


# ------------------------------------------------------------------------------------- shards


def sharded(folder: Path) -> Any:
    """A network in several files and its index."""
    parts = {"unet": tiny.unet(), "scheduler": tiny.ddim()}
    parts["unet"].save_pretrained(folder / "unet", max_shard_size="20KB")
    parts["scheduler"].save_pretrained(folder / "scheduler")
    return parts


INDEX = "diffusion_pytorch_model.safetensors.index.json"


def renamed(name: str) -> Any:
    """The index with another name for the file of one weight."""

    def change(unet: Path) -> None:
        index = json.loads((unet / INDEX).read_text())
        index["weight_map"]["conv_in.weight"] = name
        (unet / INDEX).write_text(json.dumps(index))

    return change


def elsewhere(unet: Path) -> None:
    first = min(unet.glob("*.safetensors"))
    index = json.loads((unet / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], first.name)
    (unet / INDEX).write_text(json.dumps(index))


def cut(unet: Path) -> None:
    path = sorted(unet.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-4])


SHARDS = {
    "above": (renamed("../secret.safetensors"), r"names the file '\.\./secret.safetensors'"),
    "absolute": (renamed("/elsewhere/secret.safetensors"), "without a path"),
    "of another system": (renamed("..\\secret.safetensors"), "without a path"),
    "below": (renamed("inner/secret.safetensors"), "without a path"),
    "a pickle": (renamed("model.bin"), r"names the file 'model\.bin'; accepted are safetensors"),
    "missing": (renamed("gone.safetensors"), "gone.safetensors: not a whole safetensors file"),
    "without its weights": (elsewhere, "00001-of.* has no "),
    "cut": (cut, "00002-of.*not a whole safetensors file"),
    "no map": (lambda unet: (unet / INDEX).write_text("{}"), "expected a weight_map"),
}


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    parts = sharded(tmp_path)
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 2
    other = json.dumps({"weight_map": {"conv_in.weight": "model.fp16.safetensors"}})
    (tmp_path / "unet" / INDEX.replace("index", "index.fp16")).write_text(other)  # its files were not fetched
    x = start("unconditional")
    found = ours(interop.load_diffusers(tmp_path), x, 2)
    assert torch.equal(found, ours(interop.from_diffusers(parts), x, 2))


@pytest.mark.parametrize("case", SHARDS)
def test_files_that_an_index_names_are_whole_and_in_its_folder(case: str, tmp_path: Path) -> None:
    sharded(tmp_path / "model")
    damage, match = SHARDS[case]
    damage(tmp_path / "model" / "unet")
    with pytest.raises(ValueError, match=match):
        interop.load_diffusers(tmp_path / "model")


def test_a_config_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_index.json").write_text('{"a": "' + 100 * "b" + '"}')
    monkeypatch.setattr("ornstein.interop.folder.LARGEST", 99)
    with pytest.raises(ValueError, match="109 bytes, a config has at most 99"):
        interop.load_diffusers(tmp_path)


# ------------------------------------------------------------------------------------- refusals


class Bomb:
    def __reduce__(self) -> Any:
        return (os.abort, ())


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


def indexed(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **changes}))

    return change


BROKEN = {
    "pickled weights": (pickled, r"pickled \(diffusion_pytorch_model\.bin\).*safe_serialization=True"),
    "no weights": (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "has no weights"),
    "another network": (indexed(unet=["diffusers", "PriorTransformer"]), "unet is a PriorTransformer"),
    "code of its own": (indexed(unet=["my_unet", "MyUNet"]), "unet is a MyUNet"),
    "a codec that is not read": (indexed(vqvae=["diffusers", "VQModel"]), "part 'vqvae'"),
    "a scheduler that is none": (indexed(scheduler=["diffusers", "AutoencoderKL"]), "is no scheduler"),
    "a scheduler that is no class": (indexed(scheduler=["diffusers", "schedulers"]), "is no scheduler"),
    "no scheduler": (indexed(scheduler=[None, None]), "nothing says which"),
    "a broken index": (lambda f: (f / "model_index.json").write_text("{"), "not readable as JSON"),
    "nothing": (
        lambda f: (f / "model_index.json").unlink() or (f / "unet/config.json").unlink(),
        "accepted is",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_cannot_be_read_says_why(case: str, tmp_path: Path) -> None:
    written("unconditional", tmp_path)
    damage, match = BROKEN[case]
    damage(tmp_path)
    with pytest.raises(ValueError, match=match):
        interop.load_diffusers(tmp_path)


def test_pickled_files_are_refused_with_the_safe_way(tmp_path: Path) -> None:
    for name, match in (
        ("edm.pkl", "throwaway environment that holds NVIDIA's code and nothing of yours"),
        ("sd.ckpt", "unpickling runs"),
    ):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ValueError, match=match):
            interop.load_diffusers(tmp_path / name)
    for read in (orn.load, lambda name: load_weights(orn.load("digits"), name)):
        with pytest.raises(ValueError, match=r"throwaway environment.*save_file.*load_weights"):
            read(tmp_path / "edm.pkl")


class Theirs(torch.nn.Module):
    """As on the docs page."""

    fields = frozenset()

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any, level: Any, condition: Any = None) -> Any:
        return self.net(x, -level / 4, None)


def test_weights_that_were_converted_are_read(tmp_path: Path) -> None:
    """As the message about EDM checkpoints says, in the wrapper of the docs page."""
    from safetensors.torch import save_file

    from ornstein.denoisers.files import EDM

    def made() -> denoisers.NetworkDenoiser:
        network = Theirs(networks.UNet(1, width=8, multipliers=(1,)))
        return denoisers.NetworkDenoiser(network, processes.EDM(), "edm", (1, 8, 8))

    model, other = made(), made()
    net = model.network.net
    assert "save_file({f'network.net.{k}': v for k, v in net.state_dict().items()}, 'edm.safetensors')" in EDM
    save_file({f"network.net.{k}": v for k, v in net.state_dict().items()}, tmp_path / "edm.safetensors")
    assert load_weights(other, tmp_path / "edm.safetensors") is other
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(other(x, 0.1).mean, model.eval()(x, 0.1).mean)


@torch.no_grad()
def test_a_network_of_edm_is_told_its_own_level() -> None:
    """The wrapper on the docs page: D = c_skip x + c_out F(c_in x, log(sigma) / 4), as of 2206.00364, table 1."""
    net = tiny.seeded(networks.UNet, channels=3, width=8, multipliers=(1,))
    model = denoisers.NetworkDenoiser(Theirs(net), processes.EDM(), "edm", shape=(3, 8, 8), scale=0.5)
    for sigma in (0.02, 1.0, 70.0):
        x, power = sigma * torch.randn(2, 3, 8, 8), sigma**2 + 0.25
        output = net(x / power**0.5, torch.full((2,), sigma).log() / 4, None)
        expected = 0.25 / power * x + 0.5 * sigma / power**0.5 * output
        assert gap(model(x, sigma / 80.0).mean, expected) < 1e-5


def test_single_files_of_the_original_layout_have_another_way(tmp_path: Path) -> None:
    (tmp_path / "sd.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="from_single_file"):
        interop.load_diffusers(tmp_path / "sd.safetensors")


def test_load_says_which_call_reads_a_folder_of_diffusers(tmp_path: Path) -> None:
    written("unconditional", tmp_path)
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(ValueError, match=r"interop\.load_diffusers"):
            orn.load(folder)


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    written("unconditional", tmp_path / "theirs")
    model = interop.load_diffusers(tmp_path / "theirs")
    with pytest.raises(ValueError, match="not empty"):
        interop.save_diffusers(model, tmp_path / "theirs")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = interop.from_diffusers(PIPELINES["unconditional"]())

    def full(*args: Any, **options: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(diffusers.DDIMScheduler, "save_pretrained", full)
    (tmp_path / "empty").mkdir()
    for name in ("new", "a/b/new", "empty"):
        with pytest.raises(OSError, match="No space"):
            interop.save_diffusers(model, tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_what_stands_beside_a_folder_stays(tmp_path: Path) -> None:
    """Also what has the name of a part."""
    foreign = tmp_path / ".new.part" / "thesis.txt"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    (tmp_path / "new").mkdir()
    interop.save_diffusers(interop.from_diffusers(PIPELINES["unconditional"]()), tmp_path / "new")
    assert foreign.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.part", "new"]
    assert (tmp_path / "new").stat().st_mode == foreign.parent.stat().st_mode  # readable by as many


@pytest.mark.parametrize("name", ["DiffusionPipeline", "logging", "StableDiffusionControlNetPipeline", 3])
def test_pipelines_are_made_of_known_classes(name: Any) -> None:
    model = interop.from_diffusers(PIPELINES["unconditional"]())
    model.settings["_class_name"] = name
    with pytest.raises(ValueError, match=rf"unknown pipeline '{name}'.*to_diffusers"):
        interop.to_pipeline(model)


def test_the_known_pipelines_are_pipelines() -> None:
    from ornstein.interop.export import PIPELINES as KNOWN

    assert all(issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline) for name in KNOWN)


# ------------------------------------------------------------------------------------- our models


def images_of(pipe: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    """Of DDIMPipeline from given noise."""
    pipe.set_progress_bar_config(disable=True)
    made = {"num_inference_steps": 10, "output_type": "pt", "batch_size": len(x), **options}
    found: torch.Tensor = pipe(generator=torch.Generator().manual_seed(0), **made).images
    return found


@pytest.fixture(scope="module")
def digits() -> Any:
    return orn.load("digits")


def first(model: Any) -> torch.Tensor:
    return torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(0))


def vp_run(model: Any, scheduler: Any, x: torch.Tensor, **given: Any) -> torch.Tensor:
    """Our DDIM on the exported table, at the timesteps of theirs."""
    process = interop.TrainedSteps(scheduler.alphas_cumprod.tolist())
    scheduler.set_timesteps(10)
    n = len(scheduler.alphas_cumprod)
    grid = orn.TimeGrid.through([*((int(k) + 1) / n for k in scheduler.timesteps), 0.0])
    return Sampler(DDIM(), grid=grid)(denoisers.Converted(model, process), x, **given)


def test_their_pipeline_samples_our_digits(digits: Any) -> None:
    module, scheduler = interop.to_diffusers(digits)
    x = first(digits)
    theirs = images_of(diffusers.DDIMPipeline(unet=module, scheduler=scheduler), x)
    assert gap(theirs, shown(vp_run(digits, scheduler, x))) < 1e-4
    assert float(theirs.std()) > 0.2  # digits, not grey


def test_their_schedulers_take_labels(digits: Any) -> None:
    module, scheduler = interop.to_diffusers(digits, steps=500)
    x, labels = first(digits), torch.tensor([7, 3, -1])
    expected = vp_run(digits, scheduler, x, label=[7, 3, None])
    found = x
    with torch.no_grad():
        for k in scheduler.timesteps:
            found = scheduler.step(module(found, k, class_labels=labels).sample, k, found).prev_sample
    assert gap(found, expected) < 1e-4
    with pytest.raises(TypeError, match="condition field"):
        module(x, 3, lable=labels)


@pytest.mark.parametrize(
    "process", [processes.VariancePreserving(), processes.EDM(), processes.RectifiedFlow()]
)
@torch.no_grad()
def test_one_call_of_what_is_exported_is_the_posterior(process: Any) -> None:
    """Whatever the process: x_0 = alpha x - sigma v at the same log-SNR."""
    network = tiny.seeded(networks.UNet, channels=1, width=8, multipliers=(1,))
    exact = denoisers.NetworkDenoiser(network, process, "edm", (1, 8, 8)).eval()
    module, scheduler = interop.to_diffusers(exact)
    x = first(exact)
    for k in (0, 400, 999):
        power = scheduler.alphas_cumprod[k].double()
        mean = power.sqrt() * x - (1 - power).sqrt() * module(x, k).sample
        level = torch.logit(power) / 2
        t = float(process.time_at(level).clamp(max=1.0)) if power > 0 else 1.0
        ours_ = process.at(t)
        factor = ours_.sigma / float((1 - power).sqrt())
        assert gap(mean, exact(factor * x, t).mean) < 1e-5


def test_our_model_is_written_as_their_pipeline(digits: Any, tmp_path: Path) -> None:
    interop.save_diffusers(digits, tmp_path / "digits")
    again = interop.load_diffusers(tmp_path / "digits")
    x, sampler = first(digits), Sampler(DDIM(), steps=5)
    assert torch.equal(sampler(again, x, label=3), sampler(digits, x, label=3))
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "digits")
    assert torch.equal(images_of(pipe, x), images_of(interop.to_pipeline(digits), x))
    for name, value in (("dtype", torch.float16), ("scheduler", pipe.scheduler), ("null_label", 0)):
        with pytest.raises(ValueError, match=f"{name}: this is a model of ornstein's"):
            interop.load_diffusers(tmp_path / "digits", **{name: value})
    with pytest.raises(ValueError, match="null_label: this is a model of ornstein's"):
        interop.from_diffusers(pipe, null_label=0)


@torch.no_grad()
def test_a_model_of_texts_has_no_prompt_there_and_says_how_it_is_told(tmp_path: Path) -> None:
    model = orn.load("scenes")
    with pytest.warns(UserWarning, match="DDIMPipeline has no prompt"):
        interop.save_diffusers(model, tmp_path / "scenes")
    unet = diffusers.DDIMPipeline.from_pretrained(tmp_path / "scenes").unet
    x, words = first(model), ["a red circle", "two blue squares", "a red circle"]
    told = unet(x, 700, text=unet.model.tokenise("text", words)).sample
    rows = [unet(x[i : i + 1], 700, text=model.tokenise("text", words[i : i + 1])).sample for i in range(3)]
    assert gap(told, torch.cat(rows)) < 1e-4
    assert gap(told[0], unet(x, 700).sample[0]) > 1e-3
    for wrong in ("a red circle", words):
        with pytest.raises(TypeError, match=r'text: .* \.model\.tokenise\("text"'):
            unet(x, 700, text=wrong)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: ClassifierFree(2.0)(orn.load("digits")), "without its guides"),
        (lambda: orn.load("words"), "affine processes"),
        (lambda: denoisers.GaussianDenoiser(torch.zeros(2), torch.eye(2), processes.EDM()), "images"),
    ],
)
def test_what_diffusers_cannot_run_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        interop.to_diffusers(make())


# ------------------------------------------------------------------------------------- training

QUIET = {"progress": False, "sample_every": 0, "evaluate_every": 0}


def dataset(n: int = 6, **options: Any) -> Dataset:
    x = torch.rand(n, 3, 8, 8) * 2 - 1
    return Dataset("noise", TensorSplit(x, **options), TensorSplit(x[:2], **_first(options)), shape=(3, 8, 8))


def _first(options: dict[str, Any]) -> dict[str, Any]:
    return {
        k: {n: v[:2] for n, v in given.items()} if k == "fields" else given[:2]
        for k, given in options.items()
    }


def test_a_unet_is_trained_and_written_back(tmp_path: Path) -> None:
    parts = {"unet": tiny.unet(num_class_embeds=5), "scheduler": diffusers.DDIMScheduler(clip_sample=False)}
    model = interop.from_diffusers(parts)
    before = [p.detach().clone() for p in model.network.parameters()]
    data = dataset(fields={"label": torch.arange(6) % 5})
    with pytest.warns(UserWarning, match="save_diffusers"):
        run = orn.fit(model, data, steps=2, batch=4, out=tmp_path / "run", ema=0.5, **QUIET)
    moved = [not torch.equal(a, b) for a, b in zip(before, run.denoiser.network.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    interop.save_diffusers(run.denoiser, tmp_path / "back")
    again = interop.load_diffusers(tmp_path / "back")
    x = start("unconditional")
    assert torch.equal(ours(again, x, 3, label=[1, 2]), ours(run.denoiser, x, 3, label=[1, 2]))


def test_stable_diffusion_is_trained_on_latents_and_texts(tmp_path: Path) -> None:
    pipe = PIPELINES["Stable Diffusion"]()
    model = interop.from_diffusers(pipe)
    model.shape = (tiny.CHANNELS, 4, 4)
    data = encoded(dataset(texts=[*TEXTS, *TEXTS, *TEXTS]), model.process.codec)
    frozen = [p.detach().clone() for m in (pipe.text_encoder, pipe.vae) for p in m.parameters()]
    before = pipe.unet.conv_in.weight.detach().clone()
    with pytest.warns(UserWarning, match="save_diffusers"):
        run = orn.fit(model, data, steps=2, batch=4, out=tmp_path / "run", ema=None, **QUIET)
    after = [p for m in (pipe.text_encoder, pipe.vae) for p in m.parameters()]
    assert all(map(torch.equal, frozen, after))
    assert not torch.equal(before, pipe.unet.conv_in.weight)
    assert not pipe.text_encoder.training
    interop.save_diffusers(run.denoiser, tmp_path / "back")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "back")
    assert torch.equal(again.unet.conv_in.weight, pipe.unet.conv_in.weight)
