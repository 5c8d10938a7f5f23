"""Codecs of scenes: what each term of the loss is worth at equal training, and the shipped one, on larger canvases too.

    OMP_NUM_THREADS=1 python -m benchmarks.codecs [--steps N] [--count N] [--only NAME ...] [--shipped]

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


def kurtosis(z: Tensor) -> Tensor:
    """Of each channel; 3 of a Gaussian."""
    squares = (z - z.mean((0, 2, 3), keepdim=True)).square()
    return squares.square().mean((0, 2, 3)) / squares.mean((0, 2, 3)) ** 2


def shape_of(z: Tensor) -> dict[str, float]:
    """Kurtosis (3 of a Gaussian) and correlation of neighbours, means over channels, and the largest entry."""
    centred = z - z.mean((0, 2, 3), keepdim=True)
    variance = centred.square().mean((0, 2, 3))
    neighbours = (centred[..., 1:] * centred[..., :-1]).mean((0, 2, 3))
    return {
        "kurtosis": float(kurtosis(z).mean()),
        "neighbours": float((neighbours / variance).mean()),
        "largest": float(z.abs().max()),
    }


@torch.no_grad()
def shipped(count: int) -> list[str]:
    """What is read in reconstructions of the shipped codec, what noise in its latents costs, and their channels."""
    codec: Any = orn.load("scenes-codec").codec
    scenes = world.draw_scenes(count, SEED)
    x = world.render(scenes)
    z = codec.encode(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    shown = {sigma: codec.decode(z + sigma * noise).clamp(-1, 1) for sigma in (0.0, 0.1, 0.2)}
    quality = {sigma: metrics.psnr(images, x) for sigma, images in shown.items()}
    read = metrics.reading_error(scenes, world.parse(shown[0.0]))
    right = (f"{name} {100 * read.accuracy(name).value:.1f} %" for name in world.ATTRIBUTES)
    return [
        f"PSNR (dB) with noise of {', '.join(f'{s:g}: {v.mean():.2f}' for s, v in quality.items())}",
        f"of pictures without noise 5 % have less than {quality[0.0].quantile(0.05):.2f} dB",
        f"read rightly of {read.objects} objects, {read.missed} of them missed: {', '.join(right)}",
        f"deviation by channel: {numbers(z.std((0, 2, 3)))}",
        f"kurtosis by channel: {numbers(kurtosis(z))}",
        "of the latents: " + ", ".join(f"{name} {value:.2f}" for name, value in shape_of(z).items()),
    ]


def numbers(values: Tensor) -> str:
    return " ".join(f"{value:.2f}" for value in values.tolist())


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
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--shipped", action="store_true", help="train none, judge the shipped codec")
    asked = parser.parse_args()
    for i, name in enumerate([] if asked.shipped else asked.only):
        codec, seconds = trained(name, asked.steps)
        found = {**judged(codec, asked.count), "seconds": seconds}
        if i == 0:
            print(f"| codec | {' | '.join(found)} |\n{'|---' * (len(found) + 1)}|")
        print(f"| {name} | {' | '.join(f'{value:.4g}' for value in found.values())} |", flush=True)
    print("\n" + "\n".join([*shipped(asked.count), "", *canvases()]))


if __name__ == "__main__":
    main()
