"""The networks of diffusers that are read: what each is told, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ornstein.core import suggest

__all__ = ["KINDS", "Kind", "kind_of"]

Given = Mapping[str, Any]  # what the network is told beside x and the time: label, text, guidance, size
PIXELS = 8  # of an image for each of a latent, where no autoencoder says so


def _unet(network: Any, x: Tensor, told: Tensor, given: Given) -> Tensor:
    output: Tensor = network(x, told, class_labels=given.get("label")).sample
    return output


def _text_unet(network: Any, x: Tensor, told: Tensor, given: Given) -> Tensor:
    added = None
    if network.config.addition_embed_type == "text_time":
        added = {"text_embeds": given["pooled"], "time_ids": _sizes(x, given["pixels"])}
    tokens = given["tokens"]
    output: Tensor = network(x, told, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
    return output


def _sizes(x: Tensor, pixels: int) -> Tensor:
    """Original size, crop and target size of Stable Diffusion XL, (B, 6): uncropped images of the size asked for."""
    height, width = (pixels * side for side in x.shape[-2:])
    numbers = (height, width, 0, 0, height, width)
    return torch.stack(
        [x.new_full((len(x),), v) for v in numbers], 1
    )  # filled where x is: copying would wait for it


def _dit(network: Any, x: Tensor, told: Tensor, given: Given) -> Tensor:
    output: Tensor = network(x, timestep=told, class_labels=given["label"]).sample
    return output


def _sd3(network: Any, x: Tensor, told: Tensor, given: Given) -> Tensor:
    options = {"encoder_hidden_states": given["tokens"], "pooled_projections": given["pooled"]}
    output: Tensor = network(hidden_states=x, timestep=told, **options).sample
    return output


def _flux(network: Any, x: Tensor, told: Tensor, given: Given) -> Tensor:
    """Latents go in as one token for each square of 2 x 2, with the square's row and column."""
    b, c, h, w = x.shape
    squares = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 4 * c)
    rows, columns = (torch.arange(side // 2, device=x.device) for side in (h, w))
    places = torch.cartesian_prod(torch.zeros(1, device=x.device).long(), rows, columns).to(x.dtype)
    output = network(
        hidden_states=squares,
        timestep=told / 1000,  # which the network multiplies by 1000
        guidance=given.get("guidance"),
        pooled_projections=given["pooled"],
        encoder_hidden_states=given["tokens"],
        txt_ids=x.new_zeros(given["tokens"].shape[1], 3),
        img_ids=places,
    ).sample
    return output.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


class Kind(NamedTuple):
    """One class of networks.

    Attributes:
        call: (network, x, timesteps (B,), given) -> output, perhaps with more channels than x.
        fields: condition fields of all of them.
        text: which of `text.ENCODINGS` its pipeline uses; None where it reads no text.
    """

    call: Callable[[Any, Tensor, Tensor, Given], Tensor]
    fields: frozenset[str]
    text: str | None = None


WORDS = frozenset({"text", "negative"})
KINDS: dict[str, Kind] = {
    "UNet2DModel": Kind(_unet, frozenset()),
    "UNet2DConditionModel": Kind(_text_unet, WORDS, "last"),
    "DiTTransformer2DModel": Kind(_dit, frozenset({"label"})),
    "SD3Transformer2DModel": Kind(_sd3, WORDS, "three"),
    "FluxTransformer2DModel": Kind(_flux, WORDS, "pooled"),
}


def kind_of(network: nn.Module) -> Kind:
    """How to call a network of diffusers.

    Raises:
        ValueError: a class, or a variant of it, that is not read here.
    """
    name = type(network).__name__
    if name not in KINDS:
        raise ValueError(suggest(name, KINDS, "network of diffusers"))
    config: Any = network.config
    _check_channels(name, config)
    kind = KINDS[name]
    if name == "UNet2DModel" and labels_of(network):
        return kind._replace(fields=frozenset({"label"}))
    if name == "UNet2DConditionModel":
        return _text_kind(kind, config)
    if name == "FluxTransformer2DModel" and config.guidance_embeds:
        return kind._replace(fields=kind.fields | {"guidance"})
    return kind


def _check_channels(name: str, config: Any) -> None:
    outputs, inputs = config.out_channels or config.in_channels, config.in_channels
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f"{name}: reads {inputs} channels and gives {outputs}: networks that are shown a mask or another image "
            "beside the state (inpainting, editing, upscaling) are not read here"
        )


def _text_kind(kind: Kind, config: Any) -> Kind:
    odd = {
        "class_embed_type": config.class_embed_type,
        "num_class_embeds": config.num_class_embeds,
        "encoder_hid_dim_type": config.encoder_hid_dim_type,
        "time_cond_proj_dim": config.get("time_cond_proj_dim"),
        "addition_embed_type": None
        if config.addition_embed_type == "text_time"
        else config.addition_embed_type,
    }
    for name, value in odd.items():
        if value is not None:
            raise ValueError(f"UNet2DConditionModel: {name}={value!r} is not read here, only text is")
    return kind._replace(text="penultimate") if config.addition_embed_type else kind


def labels_of(network: nn.Module) -> int | None:
    """How many classes a network knows, its null class left out; None where it reads no label."""
    config: Any = network.config
    found: int | None = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    return found


def shape_of(network: nn.Module) -> tuple[int, ...] | None:
    """Event shape of a state, where the config says it."""
    config: Any = network.config
    if type(network).__name__ == "FluxTransformer2DModel":
        return (
            config.in_channels // 4,
            128,
            128,
        )  # 1024 pixels square, as its pipeline draws unless told otherwise
    size = config.sample_size
    sides = (size, size) if isinstance(size, int) else size
    return None if size is None else (config.in_channels, *sides)
