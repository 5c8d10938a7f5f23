"""Models of diffusers as denoisers: one call, whole runs, text, and the autoencoder, beside diffusers itself."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import diffusers

import ornstein as orn
from ornstein import adapters, interop, spaces
from ornstein.core import Condition, Sampler
from ornstein.guides import ClassifierFree
from ornstein.solvers import DDIM

from . import tiny

TEXTS = ["a red circle", "blue square"]
PIPELINES = {
    "Stable Diffusion": tiny.stable_diffusion,
    "Stable Diffusion XL": tiny.stable_diffusion_xl,
    "Stable Diffusion 3": tiny.stable_diffusion_3,
    "Flux": tiny.flux,
    "DiT": tiny.dit,
    "unconditional": tiny.ddpm,
}


@cache
def pipeline(name: str) -> Any:
    made = PIPELINES[name]()
    made.set_progress_bar_config(disable=True)
    return made


def denoiser(name: str) -> Any:
    model = interop.from_diffusers(pipeline(name))
    model.shape = start(name).shape[1:]
    return model


def start(name: str = "", n: int = 2) -> Tensor:
    channels = 3 if name == "unconditional" else tiny.CHANNELS
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def fields(name: str) -> dict[str, Any]:
    return {"DiT": {"label": [3, 7]}, "unconditional": {}}.get(name, {"text": TEXTS})


def ours(model: Any, x: Tensor, steps: int = 10, **given: Any) -> Tensor:
    return Sampler(DDIM(), grid=interop.pipeline_grid(model, steps))(model, x, **given)


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference as a share of the largest entry."""
    return float((a - b).abs().max() / b.abs().max())


def shown(x: Tensor) -> Tensor:
    """As their pipelines give images."""
    return (x / 2 + 0.5).clamp(0, 1)


def theirs(pipe: Any, x: Tensor, steps: int = 10, **options: Any) -> Tensor:
    """Images in [0, 1] of a pipeline that takes latents."""
    size = {} if isinstance(pipe, diffusers.StableDiffusionPipeline) else {"height": 16, "width": 16}
    if isinstance(pipe, diffusers.FluxPipeline):
        x = pipe._pack_latents(x, len(x), *x.shape[1:])
    images: Tensor = pipe(
        latents=x.clone(), num_inference_steps=steps, output_type="pt", **size, **options
    ).images
    return images


# -------------------------------------------------------------------------------- one call


def direct(name: str, x: Tensor, k: int) -> Tensor:
    """The network called by hand with their own encodings."""
    pipe = pipeline(name)
    told = torch.full((len(x),), float(k))
    if name == "unconditional":
        return pipe.unet(x, k).sample
    if name == "DiT":
        return pipe.transformer(x, timestep=told, class_labels=torch.tensor([3, 7])).sample[:, : x.shape[1]]
    if name == "Stable Diffusion":
        tokens = pipe.encode_prompt(TEXTS, "cpu", 1, False)[0]
        return pipe.unet(x, k, encoder_hidden_states=tokens).sample
    if name == "Stable Diffusion XL":
        tokens, _, pooled, _ = pipe.encode_prompt(TEXTS, do_classifier_free_guidance=False)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(x))}
        return pipe.unet(x, k, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
    if name == "Stable Diffusion 3":
        tokens, _, pooled, _ = pipe.encode_prompt(TEXTS, TEXTS, TEXTS, do_classifier_free_guidance=False)
        return pipe.transformer(x, tokens, pooled, told).sample
    tokens, pooled, text_ids = pipe.encode_prompt(TEXTS)
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(x, len(x), *x.shape[1:]),
        timestep=told / 1000,
        guidance=torch.full((len(x),), 5.0),
        pooled_projections=pooled,
        encoder_hidden_states=tokens,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(1, 4, 4, "cpu", x.dtype),
    ).sample
    return pipe._unpack_latents(output, 16, 16, 2)


@pytest.mark.parametrize("name", PIPELINES)
@torch.no_grad()
def test_one_call_is_theirs(name: str) -> None:
    model, x, k = denoiser(name), start(name), 620
    flow = name in ("Stable Diffusion 3", "Flux")
    condition = Condition.make(
        2, fields(name) | ({"guidance": 5.0} if name == "Flux" else {}), model.fields, tokenise=model.tokenise
    )
    t = k / 1000 if flow else (k + 1) / 1000
    output = direct(name, x, k)
    if flow:
        expected = x - t * output
    else:
        scheduler = pipeline(name).scheduler
        scheduler.set_timesteps(1000)
        expected = scheduler.step(output, k, x).pred_original_sample
    for time in (t, torch.full((2,), t, dtype=torch.float64)):
        assert gap(model(x, time, model.prepare(condition)).mean, expected) < 1e-5


@pytest.mark.parametrize("name", PIPELINES)
@torch.no_grad()
def test_a_batch_is_its_rows(name: str) -> None:
    model, x = denoiser(name), start(name)
    condition = model.prepare(Condition.make(2, fields(name), model.fields, tokenise=model.tokenise))
    t = torch.tensor([0.4, 0.9])
    both = model(x, t, condition).mean
    rows = [model(x[i : i + 1], t[i : i + 1], condition.rows(slice(i, i + 1))).mean for i in range(2)]
    assert gap(both, torch.cat(rows)) < 1e-5


def test_the_network_is_told_fractions_of_steps_and_no_step_below_the_first() -> None:
    model, told = denoiser("unconditional"), []
    with torch.no_grad():
        handle = model.network.register_forward_pre_hook(lambda _, args: told.append(args[1]))
        for t in (0.5005, torch.tensor([0.25, 1.0]), 0.0004):
            model(start("unconditional"), t)
        handle.remove()
    expected = [[499.5, 499.5], [249.0, 999.0], [0.0, 0.0]]
    assert [v.tolist() for v in told] == [pytest.approx(v, abs=1e-4) for v in expected]


# ---------------------------------------------------------------------------------- whole runs

SCHEDULES = {
    "epsilon": {},
    "epsilon to 1": {"set_alpha_to_one": True, "steps_offset": 0},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "given": {"trained_betas": [0.002 + 1e-5 * i for i in range(1000)]},
    "v": {"prediction_type": "v_prediction"},
    "v, zero SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "data": {"prediction_type": "sample"},
    "data, zero SNR": {"prediction_type": "sample", "rescale_betas_zero_snr": True},
}


@cache
def smallest() -> Any:
    ends = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return tiny.unet(block_out_channels=(4,), norm_num_groups=2, add_attention=False, **ends)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@torch.no_grad()
def test_ddim_is_their_scheduler(schedule: str, spacing: str) -> None:
    scheduler = tiny.ddim(timestep_spacing=spacing, **SCHEDULES[schedule])
    unet, x = smallest(), start("unconditional")
    model = interop.from_diffusers({"unet": unet, "scheduler": scheduler})
    for steps in (10, 7) if spacing == "trailing" else (10,):  # 7 does not divide 1000
        expected = x
        scheduler.set_timesteps(steps)
        for k in scheduler.timesteps:
            expected = scheduler.step(unet(expected, k).sample, k, expected).prev_sample
        assert gap(ours(model, x, steps), expected) < 1e-4


@pytest.mark.parametrize(
    "schedule, spacing", [("epsilon", "leading"), ("v, zero SNR", "trailing"), ("data", "linspace")]
)
def test_stable_diffusion_is_their_pipeline(schedule: str, spacing: str) -> None:
    base = pipeline("Stable Diffusion")
    scheduler = tiny.ddim(timestep_spacing=spacing, **SCHEDULES[schedule])
    parts = {**base.components, "scheduler": scheduler}
    pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    found = ours(ClassifierFree(3.0)(interop.from_diffusers(pipe)), start(), text=TEXTS)
    assert gap(shown(found), theirs(pipe, start(), prompt=TEXTS, guidance_scale=3.0)) < 1e-4


def doubled(**config: Any) -> Any:
    """A scheduler whose table is in float64."""
    scheduler = tiny.ddim(timestep_spacing="trailing", **config)
    for name in ("alphas_cumprod", "final_alpha_cumprod"):
        setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def as_read(model: Any, prediction: str) -> Any:
    """The model with its network's output taken for another quantity."""
    views = {"epsilon": "noise", "v_prediction": "edm", "sample": "mean"}
    model._predicted, model.prediction = prediction, views[prediction]
    return model


PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_predictions_to_rounding_and_another_reading_or_table_is_seen(prediction: str, zero: bool) -> None:
    """In float64 from the last trained step, which with zero terminal SNR has no signal at all."""
    if prediction == "epsilon" and zero:
        return  # refused, see `test_what_is_not_read_is_refused`
    unet, x = copy.deepcopy(smallest()).double(), start("unconditional").double()
    scheduler = doubled(prediction_type=prediction, rescale_betas_zero_snr=zero)
    parts = {"unet": unet, "scheduler": scheduler}
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999
    assert (scheduler.alphas_cumprod[-1] == 0) == zero
    expected = x
    for k in scheduler.timesteps:
        expected = scheduler.step(unet(expected, k).sample, k, expected).prev_sample
    model = interop.from_diffusers(parts)
    assert (model.process.at(1.0).alpha == 0) == zero
    assert gap(ours(model, x), expected) < 1e-10
    for other in set(PREDICTIONS) - {prediction} - ({"epsilon"} if zero else set()):
        assert gap(ours(as_read(interop.from_diffusers(parts), other), x), expected) > 1e-2
    if prediction != "epsilon":
        table = doubled(prediction_type=prediction, rescale_betas_zero_snr=not zero)
        assert gap(ours(interop.from_diffusers({**parts, "scheduler": table}), x), expected) > 1e-4


def test_what_a_scheduler_does_to_estimates_is_said_and_not_done() -> None:
    unet, x = tiny.unet(), 3 * start("unconditional")
    plain = ours(
        interop.from_diffusers({"unet": unet, "scheduler": diffusers.DDIMScheduler(clip_sample=False)}), x, 3
    )
    for given, said in (
        ({}, "clip_sample=True of DDIMScheduler"),
        ({"clip_sample": False, "thresholding": True}, "thresholding=True of DDIMScheduler"),
        ({"thresholding": True}, "clip_sample=True and thresholding=True"),
    ):
        scheduler = diffusers.DDIMScheduler(**given)
        with pytest.warns(UserWarning, match=f"{said}.*samples differ"):
            model = interop.from_diffusers({"unet": unet, "scheduler": scheduler})
        assert torch.equal(ours(model, x, 3), plain)
        scheduler.set_timesteps(3)
        expected = x
        with torch.no_grad():
            for k in scheduler.timesteps:
                expected = scheduler.step(unet(expected, k).sample, k, expected).prev_sample
        assert gap(plain, expected) > 1e-2  # so they do
    unread = diffusers.EulerDiscreteScheduler()
    unread.register_to_config(clip_sample=True)  # as configs of other schedulers leave it
    assert unread.config.clip_sample
    interop.from_diffusers({"unet": unet, "scheduler": unread})


def test_an_unconditional_pipeline() -> None:
    pipe = pipeline("unconditional")
    options = {"num_inference_steps": 10, "output_type": "pt", "generator": torch.Generator().manual_seed(1)}
    found = ours(denoiser("unconditional"), start("unconditional"))
    assert gap(shown(found), pipe(batch_size=2, **options).images) < 1e-4


def test_the_grid_is_that_of_their_ddim() -> None:
    """Their last step goes to step 0 (time 1 / N) or to clean data, and with linspace their steps do not join."""
    model = denoiser("Stable Diffusion")
    grid = interop.pipeline_grid(model, 10)
    assert [round(1000 * row.t) - 1 for row in grid] == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert grid[-1].s == 1 / 1000
    model.scheduler = tiny.ddim(timestep_spacing="linspace", set_alpha_to_one=True)
    grid = interop.pipeline_grid(model, 10)
    steps = [row for row in grid if row.solver is None]
    assert [round(1000 * row.t) - 1 for row in steps] == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert [round(1000 * row.s) - 1 for row in steps[:3]] == [899, 788, 677]
    assert steps[-1].s == 0
    assert all(isinstance(row.solver, interop.Recount) for row in grid[1::2])


@pytest.mark.parametrize("zeros", [True, False])
def test_stable_diffusion_xl(zeros: bool) -> None:
    """The empty text is zeros where the pipeline says so."""
    pipe = tiny.stable_diffusion_xl(zeros)
    pipe.set_progress_bar_config(disable=True)
    found = ours(ClassifierFree(5.0)(interop.from_diffusers(pipe)), start(), text=TEXTS)
    assert gap(shown(found), theirs(pipe, start(), prompt=TEXTS, guidance_scale=5.0)) < 1e-4


def test_dit() -> None:
    pipe = pipeline("DiT")
    x = torch.randn(2, tiny.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 10, "guidance_scale": 4.0, "output_type": "pt"}
    expected = pipe([3, 7], generator=torch.Generator().manual_seed(0), **options).images
    assert gap(shown(ours(ClassifierFree(4.0)(denoiser("DiT")), x, label=[3, 7])), expected) < 1e-4


@pytest.mark.parametrize(
    "config", [{}, {"long": False}, {"use_dynamic_shifting": True}, {"shift": 1.0}], ids=repr
)
def test_stable_diffusion_3(config: dict[str, Any]) -> None:
    """With a T5 and without, shifts of the schedule and those that depend on the size."""
    pipe = tiny.stable_diffusion_3(**config)
    pipe.set_progress_bar_config(disable=True)
    found = ours(ClassifierFree(5.0)(interop.from_diffusers(pipe)), start(), text=TEXTS)
    assert gap(shown(found), theirs(pipe, start(), prompt=TEXTS, guidance_scale=5.0)) < 1e-4


@pytest.mark.parametrize("config", [{}, {"guided": False}, {"use_dynamic_shifting": False}], ids=repr)
def test_flux(config: dict[str, Any]) -> None:
    """Guidance as a number that the network reads, and classifier-free guidance beside it."""
    pipe = tiny.flux(**config)
    pipe.set_progress_bar_config(disable=True)
    model = interop.from_diffusers(pipe)
    model.shape = (tiny.CHANNELS, 8, 8)
    told = {"guidance": 5.0} if "guidance" in model.fields else {}
    assert bool(told) == config.get("guided", True)
    options = {"prompt": TEXTS, "guidance_scale": 5.0}
    assert gap(shown(ours(model, start(), text=TEXTS, **told)), theirs(pipe, start(), **options)) < 1e-4
    found = ours(ClassifierFree(3.0)(model), start(), text=TEXTS, **told)
    expected = theirs(pipe, start(), negative_prompt=["", ""], true_cfg_scale=3.0, **options)
    assert gap(shown(found), expected) < 1e-4


@pytest.mark.parametrize(
    "make", [tiny.stable_diffusion_xl, lambda: tiny.stable_diffusion_3(use_dynamic_shifting=True), tiny.flux]
)
def test_samples_of_another_size(make: Any) -> None:
    """Which Stable Diffusion XL is told, on which positions depend, and shifts of the schedule."""
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    model = interop.from_diffusers(pipe)
    model.shape = (tiny.CHANNELS, 8, 4)
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(2))
    packed = pipe._pack_latents(x, 2, *model.shape) if isinstance(pipe, diffusers.FluxPipeline) else x
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "pt"}
    expected = pipe(TEXTS, latents=packed, height=16, width=8, **options).images
    told = {"guidance": 1.0} if "guidance" in model.fields else {}
    assert gap(shown(ours(model, x, 4, text=TEXTS, **told)), expected) < 1e-4


def test_flux_is_told_3_and_a_half_unless_something_is_said() -> None:
    model = denoiser("Flux")
    default, said, other = (
        ours(model, start(), 2, text=TEXTS, **given)
        for given in ({}, {"guidance": [3.5, None]}, {"guidance": 9.0})
    )
    assert torch.equal(default, said)
    assert gap(default, other) > 1e-5


def test_the_recommended_sampler_runs_and_ends_at_the_least_noise_that_was_trained() -> None:
    model = denoiser("Stable Diffusion")
    images = orn.sample(ClassifierFree(2.0)(model), 2, steps=5, text="a red circle", seed=0)
    assert images.shape == (2, 3, 16, 16)
    assert torch.isfinite(images).all()
    last = model.process.grid(None, 5)[-1]
    assert last.t == pytest.approx(1 / 1000)
    assert last.s == 0


# --------------------------------------------------------------------------------------- text


def test_negative_prompts_are_theirs() -> None:
    pipe, model = pipeline("Stable Diffusion"), ClassifierFree(5.0)(denoiser("Stable Diffusion"))
    options = {"prompt": TEXTS, "guidance_scale": 5.0}
    found = ours(model, start(), text=TEXTS, negative=["square", None])
    assert gap(shown(found[:1]), theirs(pipe, start(), negative_prompt=["square"] * 2, **options)[:1]) < 1e-4
    assert gap(shown(found[1:]), theirs(pipe, start(), **options)[1:]) < 1e-4


def test_a_row_without_text_is_told_the_empty_text() -> None:
    model, x = denoiser("Stable Diffusion"), start()
    mixed = ours(model, x, 2, text=["a red circle", None])
    empty = ours(model, x, 2, text="")
    assert gap(mixed[1:], empty[1:]) < 1e-6
    assert gap(mixed[:1], ours(model, x, 2, text="a red circle")[:1]) < 1e-6
    assert gap(ours(model, x, 2), empty) < 1e-6
    assert gap(mixed[:1], empty[:1]) > 1e-4


def test_features_may_be_given_in_place_of_words() -> None:
    model, x = denoiser("Stable Diffusion XL"), start()
    features = model.text(model.tokenise("text", TEXTS))
    assert torch.equal(ours(model, x, 2, text=features), ours(model, x, 2, text=TEXTS))
    with pytest.raises(ValueError, match="pooled"):
        ours(model, x, 2, text=features["tokens"])


@pytest.mark.parametrize("field", ["text", "negative"])
@pytest.mark.parametrize("length", [1, tiny.LENGTH - 2])
def test_features_have_the_length_of_the_empty_text(field: str, length: int) -> None:
    model, x = denoiser("Stable Diffusion"), start()
    features = model.text(model.tokenise("text", TEXTS))["tokens"][:, :length]
    said = rf"{field}: tokens have the shape \(B, {length}, 16\), but what .* without text is told has \(B, 12, 16\)"
    with pytest.raises(ValueError, match=said):
        ours(model, x, 2, **{"text": TEXTS, field: features})


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Stable Diffusion 3", "Flux"])
def test_words_that_are_lost_are_named(name: str) -> None:
    model = denoiser(name)
    words = "red blue circle square " * 3 + "zebra"
    with pytest.warns(UserWarning, match=r"reads 12 tokens.*zebra"):
        ids = model.tokenise("text", [words, "red"])
    assert ids.shape == (2, sum(model.text.lengths))


def test_a_model_without_encoders_says_so() -> None:
    alone = interop.from_diffusers({"unet": tiny.text_unet(), "scheduler": tiny.ddim()})
    with pytest.raises(ValueError, match="reads no words"):
        ours(alone, start(), 2, text="a red circle")
    with pytest.raises(ValueError, match="without text encoders"):
        ours(alone, start(), 2)
    tokens = torch.randn(2, 3, 16)
    latents = ours(alone, start(), 2, text=tokens)
    assert latents.shape == start().shape  # no autoencoder
    dropped = Condition({"text": {"tokens": tokens}}).null()
    zeros = Condition({"text": {"tokens": torch.zeros(2, 3, 16)}})
    with torch.no_grad():
        assert torch.equal(alone(start(), 0.5, dropped).mean, alone(start(), 0.5, zeros).mean)


class Called(TorchDispatchMode):
    """Names of the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_a_step_of_training_does_not_count_the_texts() -> None:
    """How many differ is known to the device only, so to ask is to wait for it; a run asks once."""
    model, x = interop.from_diffusers(tiny.stable_diffusion()), start(n=4)
    given = Condition({"text": model.tokenise("text", TEXTS + TEXTS)})
    with torch.no_grad():
        model(x, 0.5, given)  # the empty text is encoded once
        with Called() as step:
            found = model(x, 0.5, given).mean
        with Called() as run:
            prepared = model.prepare(given)
        assert gap(found, model(x, 0.5, prepared).mean) < 1e-5
    assert any("unique" in name for name in run.names)
    assert not any("unique" in name for name in step.names)


@torch.no_grad()
def test_texts_of_other_lengths_are_not_padded() -> None:
    """Networks of diffusers read the padding."""
    model = interop.from_diffusers({"unet": tiny.text_unet(), "scheduler": tiny.ddim()})
    x, network = start(), Counted(model.network)
    short, long = (Condition({"text": {"tokens": torch.randn(2, n, 16)}}) for n in (3, 5))
    both = model.many(x, 0.5, [short, long, short])
    assert network.rows == [2, 2, 2]
    for one, condition in zip(both, (short, long, short), strict=True):
        assert gap(one.mean, model(x, 0.5, condition).mean) < 1e-6
    model.many(x, 0.5, [short, short.null()])
    assert network.rows[-1] == 4
    masked = {"tokens": torch.randn(2, 3, 16), "mask": torch.tensor([[True] * 3, [True, True, False]])}
    with pytest.raises(ValueError, match="text: UNet2DConditionModel reads every token"):
        model.prepare(Condition({"text": masked}))
    model.prepare(Condition({"text": masked}, {"text": torch.tensor([True, False])}))  # what nobody reads


class Counted:
    """How often modules are called, and on how many rows."""

    def __init__(self, *modules: Any) -> None:
        self.rows: list[int] = []
        for module in modules:
            module.register_forward_pre_hook(self._seen, with_kwargs=True)

    def _seen(self, module: Any, args: Any, options: Any) -> None:
        self.rows.append(len(args[0] if args else options["hidden_states"]))


@pytest.mark.parametrize("name", ["Stable Diffusion", "Flux"])
def test_guidance_is_one_call_and_text_is_encoded_once_a_run(name: str) -> None:
    pipe = PIPELINES[name]()
    model = interop.from_diffusers(pipe)
    model.shape = (tiny.CHANNELS, 8, 8)
    network, encoder = Counted(model.network), Counted(pipe.text_encoder)
    ours(ClassifierFree(3.0)(model), start(n=6), 4, text="a red circle")
    assert network.rows == [12] * 4
    assert sorted(encoder.rows) == [1, 1]  # the prompt, and the empty one
    ours(ClassifierFree(3.0)(model), start(n=6), 4, text="a red circle")
    assert len(encoder.rows) == 3  # which is kept


def test_text_is_encoded_in_full_precision_while_a_network_trains_in_half() -> None:
    model = interop.from_diffusers(tiny.stable_diffusion())
    ids = model.tokenise("text", TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        reduced, null = model.text(ids), model.text.null(ids)
    assert torch.equal(reduced["tokens"], model.text(ids)["tokens"])
    assert torch.equal(null["tokens"], model.text(model.tokenise("text", [""]))["tokens"])


# ----------------------------------------------------------------------------------- adapters


def test_lora_weights_in_the_pipeline_act_here_too() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    pipe, x = tiny.stable_diffusion(), start()
    pipe.set_progress_bar_config(disable=True)
    before = ours(interop.from_diffusers(pipe), x, 2, text=TEXTS)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    found = ours(interop.from_diffusers(pipe), x, 2, text=TEXTS)
    assert gap(found, before) > 1e-4
    assert gap(shown(found), theirs(pipe, x, 2, prompt=TEXTS, guidance_scale=1.0)) < 1e-4


def test_our_adapters_go_into_their_networks() -> None:
    model, x = interop.from_diffusers(tiny.stable_diffusion()), start()
    before = ours(model, x, 2, text=TEXTS)
    layers = adapters.adapt(model.network, ["to_q", "to_v"], rank=2)
    assert len(layers) > 4
    assert gap(ours(model, x, 2, text=TEXTS), before) < 1e-6
    ids = model.tokenise("text", TEXTS)
    model(x, 0.5, Condition({"text": ids})).mean.square().sum().backward()
    learned = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert learned and all("lora_B" in name for name in learned)  # A has no gradient while B is zero


# ------------------------------------------------------------------------------------- labels


def test_labels_of_a_unet() -> None:
    parts = {"unet": tiny.unet(num_class_embeds=5), "scheduler": diffusers.DDIMScheduler(clip_sample=False)}
    x = start("unconditional")
    model = interop.from_diffusers(parts)
    with torch.no_grad():
        expected = parts["unet"](x, 299, class_labels=torch.tensor([2, 4])).sample
        found = model(x, 0.3, Condition({"label": torch.tensor([2, 4])}))
    assert gap(found.noise, expected) < 1e-5
    for given in ({}, {"label": [1, None]}):
        with pytest.raises(ValueError, match="null_label"):
            ours(model, x, 2, **given)
    with pytest.raises(ValueError, match="expected 0 to 4"):
        ours(model, x, 2, label=5)
    nulled = interop.from_diffusers(parts, null_label=4)
    assert gap(ours(nulled, x, 2, label=[1, None]), ours(model, x, 2, label=[1, 4])) < 1e-6


def test_training_drops_no_label_by_itself() -> None:
    """diffusers' DiT drops a tenth of the labels in training mode; the objective does so here, by its own noise."""
    model, x = interop.from_diffusers(tiny.dit()), start(n=2).repeat(64, 1, 1, 1)
    given = Condition({"label": torch.tensor([3, 7]).repeat(64)})
    expected = model(x, 0.5, given).mean
    for trained in (model, copy.deepcopy(model)):
        trained.train()
        state = torch.get_rng_state()
        assert trained.network.training
        assert torch.equal(trained(x, 0.5, given).mean, expected)
        assert torch.equal(torch.get_rng_state(), state)
    model(x, 0.5, given.null()).mean.sum().backward()
    (table,) = (p for k, p in model.named_parameters() if k.endswith("embedding_table.weight"))
    assert table.grad[1000].any() and not table.grad[:1000].any()  # the null class still learns


@pytest.mark.parametrize("null_label", [5, -1, True, 2.0])
def test_the_null_label_is_a_class(null_label: Any) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    with pytest.raises(ValueError, match=r"null_label: expected a class of this UNet2DModel, 0 to 4, got"):
        interop.from_diffusers(
            {"unet": tiny.unet(num_class_embeds=5), "scheduler": scheduler}, null_label=null_label
        )
    with pytest.raises(ValueError, match="null_label: this UNet2DModel reads no labels"):
        interop.from_diffusers({"unet": smallest(), "scheduler": scheduler}, null_label=null_label)


def test_the_null_label_of_a_dit_may_be_its_own() -> None:
    assert interop.from_diffusers(pipeline("DiT"), null_label=1000).null_label == 1000
    with pytest.raises(ValueError, match="0 to 1000, got 1001"):
        interop.from_diffusers(pipeline("DiT"), null_label=1001)


# -------------------------------------------------------------------------------------- codec


@pytest.mark.parametrize(
    "config", [{}, {"shift_factor": 0.06}, {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}], ids=repr
)
@torch.no_grad()
def test_the_codec_is_their_autoencoder(config: dict[str, Any]) -> None:
    vae = tiny.vae(**config)
    codec = interop.LatentCodec(vae)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    law = vae.encode(x).latent_dist
    shift = config.get("latents_mean", [config.get("shift_factor", 0.0)])[0]
    scale = vae.config.scaling_factor / config.get("latents_std", [1.0])[0]
    z = (law.mode() - shift) * scale
    assert gap(codec.encode(x), z) < 1e-6
    assert gap(codec.decode(z), vae.decode(law.mode()).sample) < 1e-5
    assert gap(codec.law(x).scale, law.std) < 1e-6
    assert codec.pixels == 2
    with pytest.raises(ValueError, match="not a change of variables"):
        codec.log_abs_det(x)


def test_a_latent_process_reads_out_images() -> None:
    model = denoiser("Stable Diffusion")
    assert isinstance(model.process, spaces.Encoded)
    assert model.shape == (tiny.CHANNELS, 8, 8)
    assert ours(model, start(), 2, text=TEXTS).shape == (2, 3, 16, 16)


# ---------------------------------------------------------------------------------- precision


def test_states_stay_in_float32_beside_a_network_in_half() -> None:
    parts = {"unet": tiny.unet().to(torch.bfloat16), "scheduler": diffusers.DDIMScheduler(clip_sample=False)}
    model = interop.from_diffusers(parts)
    assert model.like(2).dtype == torch.float32
    whole = interop.from_diffusers({**parts, "unet": tiny.unet()})
    x = start("unconditional")
    found, expected = ours(model, x, 3), ours(whole, x, 3)
    assert found.dtype == torch.float32
    assert 1e-6 < gap(found, expected) < 0.1


# ----------------------------------------------------------------------------------- refusals


def refiner() -> Any:
    parts = {k: v for k, v in pipeline("Stable Diffusion XL").components.items() if v is not None}
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        **parts, requires_aesthetics_score=True, add_watermarker=False
    )


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: {"unet": tiny.text_unet(in_channels=9), "scheduler": tiny.ddim()}, "inpainting"),
        (
            lambda: {"unet": tiny.text_unet(class_embed_type="timestep"), "scheduler": tiny.ddim()},
            "class_embed_type",
        ),
        (lambda: {"unet": tiny.vae(), "scheduler": tiny.ddim()}, "network of diffusers 'AutoencoderKL'"),
        (lambda: {"unet": tiny.unet()}, "scheduler: nothing says which"),
        (lambda: {"scheduler": tiny.ddim()}, "expected a network"),
        (lambda: refiner(), "refiner"),
        (
            lambda: {"unet": tiny.unet(), "scheduler": tiny.ddim(rescale_betas_zero_snr=True)},
            "zero terminal SNR",
        ),
        (
            lambda: {"unet": tiny.unet(), "scheduler": diffusers.EDMEulerScheduler()},
            "no table of alphas_cumprod",
        ),
        (
            lambda: {"unet": tiny.unet(), "scheduler": diffusers.DDPMScheduler(prediction_type="x")},
            "'x'; accepted",
        ),
    ],
)
def test_what_is_not_read_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        interop.from_diffusers(make())


@pytest.mark.parametrize(
    "kind",
    "DDPM PNDM EulerDiscrete EulerAncestralDiscrete HeunDiscrete LMSDiscrete DPMSolverMultistep UniPCMultistep".split(),
)
def test_the_table_of_every_scheduler_is_read(kind: str) -> None:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    unclipped = {"clip_sample": False} if kind == "DDPM" else {}
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**betas, **unclipped)
    model = interop.from_diffusers({"unet": smallest(), "scheduler": scheduler})
    expected = tiny.ddim().alphas_cumprod.double()
    times = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    assert torch.allclose(model.process.at(times).alpha ** 2, expected, rtol=1e-6)
    assert len(interop.pipeline_grid(model, 10)) == 10


def test_the_grid_is_of_models_of_diffusers() -> None:
    with pytest.raises(ValueError, match="one of load_diffusers"):
        interop.pipeline_grid(orn.load("digits"), 10)
    with pytest.raises(ValueError, match="steps"):
        interop.pipeline_grid(denoiser("unconditional"), 0)
    model = interop.from_diffusers(tiny.stable_diffusion_3())
    model.scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchHeun"):
        interop.pipeline_grid(model, 10)


def test_the_table_is_met_exactly_and_falls_between() -> None:
    for zero in (False, True):
        scheduler = tiny.ddim(rescale_betas_zero_snr=zero)
        table = scheduler.alphas_cumprod.double()
        process = interop.TrainedSteps(table.tolist())
        times = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
        assert torch.allclose(process.at(times).alpha ** 2, table, rtol=1e-12, atol=1e-15)
        between = process.half_log_snr(torch.linspace(1e-4, 1, 7001, dtype=torch.float64))
        assert bool((between.diff() < 0).all())
    assert math.isinf(process.half_log_snr(1.0))
