"""Tiny pipelines of diffusers with random weights, made without a network."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

WORDS = ("red", "blue", "circle", "square")
CHANNELS = 4
SIDE = 8  # of a latent
LENGTH = 12  # of a prompt, in tokens


def seeded(make: Any, seed: int = 0, **config: Any) -> Any:
    """A module with random weights that are not its initial zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make(**config).eval()
        for parameter in module.parameters():
            if not parameter.any():  # last layers that start at zero would hide what comes before them
                torch.nn.init.normal_(parameter, std=0.05)
    return module


def clip_tokenizer(length: int = LENGTH) -> Any:
    """The alphabet, and a few words of it as one token each."""
    letters = list(string.ascii_lowercase)
    pieces, merges = [*letters, *(f"{c}</w>" for c in letters)], []
    for word in WORDS:
        made = word[0]
        for i, letter in enumerate(word[1:], 2):
            end = f"{letter}</w>" if i == len(word) else letter
            merges.append(f"{made} {end}")
            made += end
            pieces.append(made)
    vocabulary = {
        piece: i for i, piece in enumerate(dict.fromkeys(["!", *pieces, "<|startoftext|>", "<|endoftext|>"]))
    }
    with tempfile.TemporaryDirectory() as name:
        words, rules = Path(name) / "vocab.json", Path(name) / "merges.txt"
        words.write_text(json.dumps(vocabulary))
        rules.write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
        return transformers.CLIPTokenizer(str(words), str(rules), model_max_length=length)


def clip(tokenizer: Any, width: int = 16, projected: bool = False, seed: int = 1) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return seeded(kind, seed, config=config)


def t5() -> tuple[Any, Any]:
    """(tokenizer, encoder)."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
    vocabulary += [(c, -3.0) for c in string.ascii_lowercase] + [(f"▁{word}", -1.0) for word in WORDS]
    tokenizer = transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=16)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return tokenizer, seeded(transformers.T5EncoderModel, 2, config=config)


def vae(**config: Any) -> Any:
    options = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "latent_channels": CHANNELS,
        "sample_size": 2 * SIDE,
        "scaling_factor": 0.18215,
        **config,
    }
    return seeded(diffusers.AutoencoderKL, 3, **options)


def unet(**config: Any) -> Any:
    options = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        **config,
    }
    return seeded(diffusers.UNet2DModel, 4, **options)


def text_unet(width: int = 16, **config: Any) -> Any:
    options = {
        "sample_size": SIDE,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": width,
        **config,
    }
    return seeded(diffusers.UNet2DConditionModel, 5, **options)


def ddim(**config: Any) -> Any:
    """The scheduler of Stable Diffusion, unless told otherwise."""
    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **config,
    }
    return diffusers.DDIMScheduler(**options)


def ddpm(**config: Any) -> Any:
    """An unconditional pipeline."""
    return diffusers.DDIMPipeline(unet=unet(**config), scheduler=diffusers.DDIMScheduler(clip_sample=False))


def stable_diffusion(scheduler: Any = None) -> Any:
    tokenizer = clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(tokenizer),
        tokenizer=tokenizer,
        unet=text_unet(),
        scheduler=ddim() if scheduler is None else scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(zeros: bool = True) -> Any:
    one, two = clip_tokenizer(), clip_tokenizer()
    two.pad_token = "!"  # the two pad with different tokens there too
    network = text_unet(
        width=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(one),
        text_encoder_2=clip(two, projected=True, seed=6),
        tokenizer=one,
        tokenizer_2=two,
        unet=network,
        scheduler=ddim(),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def dit() -> Any:
    network = seeded(
        diffusers.DiTTransformer2DModel,
        7,
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        num_embeds_ada_norm=1000,  # which its pipeline takes for granted
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.DiTPipeline(transformer=network, vae=vae(), scheduler=scheduler)


def stable_diffusion_3(long: bool = True, **config: Any) -> Any:
    tokenizer = clip_tokenizer()
    tokenizer_3, encoder_3 = t5()
    network = seeded(
        diffusers.SD3Transformer2DModel,
        8,
        sample_size=SIDE,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=SIDE,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config}),
        vae=vae(shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(tokenizer, width=8, projected=True),
        text_encoder_2=clip(tokenizer, width=8, projected=True, seed=9),
        text_encoder_3=encoder_3 if long else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer_3 if long else None,
    )


def flux(guided: bool = True, **config: Any) -> Any:
    tokenizer = clip_tokenizer()
    tokenizer_2, encoder_2 = t5()
    network = seeded(
        diffusers.FluxTransformer2DModel,
        10,
        patch_size=1,
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    options = {"shift": 3.0, "use_dynamic_shifting": True, **config}
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**options),
        vae=vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=network,
    )
