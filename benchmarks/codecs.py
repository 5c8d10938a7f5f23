"""Codecs of scenes: what each term of the loss is worth at equal training, and the shipped one on larger canvases.

    OMP_NUM_THREADS=1 python -m benchmarks.codecs [--steps N] [--count N] [--only NAME ...]

All are trained alike: the same network, scenes, order, batch and learning rate. What is read is read by the parser of
the scenes in 32x32 reconstructions of held-out scenes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, metrics, networks, objectives, spaces, training
from ornstein.data import scenes as world

SEED = 2**24  # far from those that codecs are trained on
NETWORK: dict[str, Any] = {"factor": 4, "width": 32, "patch": 2, "blocks": (1, 3), "decoder_width": 32}
FIXED: dict[str, Any] = {"kl": 1.8e-3, "learn_scale": False}
# channels of the latent, kind, loss
VARIANTS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "kl, pixels": (8, "kl", FIXED),
    "kl, pixels and gradients": (8, "kl", {**FIXED, "gradients": 0.5}),
    "kl of 1e-6, learned scale": (8, "kl", {"gradients": 0.5}),
    "kl, 4 channels": (4, "kl", {**FIXED, "gradients": 0.5}),
    "vq, 512 codes": (8, "vq", {"gradients": 0.5, "learn_scale": False}),
}


def trained(name: str, steps: int) -> tuple[Any, float]:
    """A codec of that name, and the processor's seconds that its training took."""
    latent, kind, loss = VARIANTS[name]
    torch.manual_seed(0)
    network = networks.Autoencoder(3, latent, moments=kind == "kl", **NETWORK)
    codec = spaces.AutoencoderCodec(network, kind, codes=512)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit_codec(
            codec, data.load("scenes", count=16 * steps, combinations="all"), objectives.Reconstruction(**loss),
            steps=steps, batch=16, learning_rate=2.5e-3, precision="bf16", out=folder, ema=0.995, evaluate_every=0,
            sample_every=0, checkpoint_every=steps, progress=False,
        )  # fmt: skip
    learned: Any = run.denoiser
    return learned.codec, time.process_time() - began


def judged(codec: Any, count: int) -> dict[str, float]:
    """Of reconstructions of held-out scenes, and of the latents themselves."""
    scenes = world.draw_scenes(count, SEED)
    x = world.render(scenes)
    with torch.no_grad():
        z = codec.encode(x)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        shown, disturbed = (codec.decode(v).clamp(-1, 1) for v in (z, z + 0.1 * noise))
    score = metrics.scene_score(scenes, shown).estimates()
    return {
        "PSNR": float(metrics.psnr(shown, x).mean()),
        "PSNR, noise 0.1": float(metrics.psnr(disturbed, x).mean()),
        "SSIM": float(metrics.ssim(shown, x).mean()),
        **{name: score[name].value for name in ("binding", "texture", "style")},
        **shape_of(z),
    }


def shape_of(z: Tensor) -> dict[str, float]:
    """Kurtosis (3 of a Gaussian) and correlation of neighbours, means over channels, and the largest entry."""
    centred = z - z.mean((0, 2, 3), keepdim=True)
    variance = centred.square().mean((0, 2, 3))
    neighbours = (centred[..., 1:] * centred[..., :-1]).mean((0, 2, 3))
    return {
        "kurtosis": float(((centred**4).mean((0, 2, 3)) / variance**2).mean()),
        "neighbours": float((neighbours / variance).mean()),
        "largest": float(z.abs().max()),
    }


def canvases() -> list[str]:
    """The shipped codec on larger pictures, and decoding them in windows of 16 latents."""
    codec: Any = orn.load("scenes-codec").codec
    lines = [
        "| pixels | PSNR of the whole | margin | windows | largest difference | mean |",
        "|---" * 6 + "|",
    ]
    for size in (64, 128):
        x = world.render(world.draw_scenes(64, SEED), size)
        with torch.no_grad():
            z = codec.encode(x)
            whole = codec.decode(z)
            psnr = float(metrics.psnr(whole.clamp(-1, 1), x).mean())
            for margin in (0, 2, 4, 6) if size == 64 else (0, 2, 4, 6, codec.network.reach):
                window = min(z.shape[-1], max(12, 2 * margin + 2))
                found = spaces.decode_tiled(codec, z, window, window - 2 * max(margin, 1), margin=margin)
                gap = (found - whole).abs()
                lines.append(
                    f"| {size} | {psnr:.2f} | {margin} | {window} | {float(gap.max()):.2g} | {float(gap.mean()):.2g} |"
                )
    return lines


def main() -> None:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    asked = parser.parse_args()
    for i, name in enumerate(asked.only):
        codec, seconds = trained(name, asked.steps)
        found = {**judged(codec, asked.count), "seconds": seconds}
        if i == 0:
            print(f"| codec | {' | '.join(found)} |\n{'|---' * (len(found) + 1)}|")
        print(f"| {name} | {' | '.join(f'{value:.4g}' for value in found.values())} |", flush=True)
    print("\n" + "\n".join(canvases()))


if __name__ == "__main__":
    main()
