"""What a mixture of experts costs beside a dense network of equal active FLOPs: a whole training step of a transformer.

    OMP_NUM_THREADS=1 python -m benchmarks.experts [--rounds N] [--json FILE]

The dense network's feed-forward width is that of the experts that a token passes together, so that both multiply
alike; a third network has all experts' width. A step is forward, backward and AdamW. "Active" counts multiply-adds of
the linear layers and of attention for one image, forward.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch

from ornstein.networks import MoE, SelfAttention, Transformer

from .timing import Contestant, machine, quartiles, race, ratio

SIZES = {
    "small": (96, 4, 128, 16),
    "wide": (256, 3, 512, 8),
}  # width, depth, features of an expert, images a batch
EXPERTS, CHOSEN, SIDE, PATCH = 8, 2, 28, 2


def networks(width: int, depth: int, hidden: int) -> dict[str, Transformer]:
    """The mixture, the dense network of equal active width, and the one of equal total width."""
    made = {"mixture": {"hidden": hidden, "experts": {"experts": EXPERTS, "chosen": CHOSEN}}}
    made |= {
        "dense, active width": {"hidden": CHOSEN * hidden},
        "dense, total width": {"hidden": EXPERTS * hidden},
    }
    return {k: Transformer(1, patch=PATCH, width=width, depth=depth, heads=4, **v) for k, v in made.items()}  # type: ignore[arg-type]


def active(network: Transformer, side: int = SIDE) -> int:
    """Multiply-adds of one image, forward: linear layers on every token, the experts that a token passes, attention."""
    tokens = (-(-side // network.patch[0])) ** 2
    inside = {id(p) for m in network.modules() if isinstance(m, MoE) for p in (m.inner, m.outer)}
    linear = sum(p.numel() for p in network.parameters() if p.ndim == 2 and id(p) not in inside)
    once = sum(m.weight.numel() for m in network.conditioning.modules() if isinstance(m, torch.nn.Linear))
    once += (
        sum(block.modulation.weight.numel() for block in network.blocks) + network.modulation.weight.numel()
    )
    experts = sum(
        (m.inner[0].numel() + m.outer[0].numel()) * m.chosen for m in network.modules() if isinstance(m, MoE)
    )
    pairs = sum(2 * m.out.in_features for m in network.modules() if isinstance(m, SelfAttention)) * tokens**2
    return once + tokens * (linear - once + experts) + pairs


def contestant(name: str, network: Transformer, images: int) -> Contestant:
    """A training step of one network."""
    x, level = torch.randn(images, 1, SIDE, SIDE), torch.randn(images)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        collect: dict[str, Any] = {}
        loss = (network(x, level, collect=collect) - x).square().mean()
        (loss + sum(collect.get("balance", []))).backward()
        optimizer.step()

    return Contestant("ornstein", name, step, images)


def measured(size: str, rounds: int) -> list[dict[str, Any]]:
    """One row a network."""
    width, depth, hidden, images = SIZES[size]
    torch.manual_seed(0)
    made = networks(width, depth, hidden)
    racing = {name: contestant(name, network, images) for name, network in made.items()}
    race(list(racing.values()), rounds)
    dense = racing["dense, active width"]
    return [
        {
            "size": size,
            "network": name,
            "parameters": sum(p.numel() for p in made[name].parameters()),
            "active": active(made[name]),
            "milliseconds": asdict(quartiles(1e3 * s for s in racer.seconds)),
            "ratio": asdict(ratio(racer, dense)),
        }
        for name, racer in racing.items()
    ]


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in measured(size, options.rounds)]
    print("| size | network | parameters | active multiply-adds | ms an image | of the dense step |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['size']} | {row['network']} | {row['parameters']:,} | {row['active'] / 1e6:.1f} M "
            f"| {row['milliseconds']['median']:.2f} | {row['ratio']['median']:.2f} "
            f"({row['ratio']['low']:.2f} to {row['ratio']['high']:.2f}) |"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(["ornstein", "torch"]), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
