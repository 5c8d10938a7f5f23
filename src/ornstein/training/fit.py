"""The one training loop of the library."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ornstein.core import Denoiser, Objective, Tree, suggest

from .check import check, completed
from .folder import RunFolder
from .loop import Training
from .options import Options
from .run import Run
from .source import dataset, tokenised

__all__ = ["fit"]

TRACKERS = ("tensorboard",)


def fit(
    denoiser: Denoiser,
    data: Any,
    objective: Objective | None = None,
    *,
    steps: int,
    out: str | Path | None = None,
    batch: int = 128,
    learning_rate: float = 1e-3,
    warmup: int | None = None,
    schedule: str = "cosine",
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    ema: float | None = 0.999,
    precision: str = "no",
    seed: int = 0,
    resume: bool = True,
    report_every: int = 50,
    evaluate_every: int = 500,
    sample_every: int = 500,
    checkpoint_every: int = 500,
    keep: int = 2,
    patience: int = 20,
    workers: int = 0,
    draw: Callable[[Denoiser], Tree] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    trackers: str | None = None,
    progress: bool = True,
) -> Run:
    """Train a denoiser, in place, and keep the average of its weights.

    The run can be killed at any moment: the same call goes on from its last checkpoint. On a CPU it ends
    with the same bits (weights, average, metrics.jsonl) as one that was never interrupted, since the
    samples, the noise and the dropout of a step are functions of (seed, step, row) alone. Started by
    `torchrun`, processes share each batch.

    Args:
        denoiser: what is trained.
        data: a data set, or the name or path of one; its fields that the denoiser names become the condition, and
            its texts the ids that the denoiser's tokeniser makes of them.
        objective: what is minimised; default `objectives.Denoising()`.
        steps: how many batches are seen in all.
        out: the run folder; default runs/NAME of the data.
        batch: samples a step, of all processes together.
        learning_rate: of AdamW, at its highest.
        warmup: steps of linear rise to it; default a tenth of all, at most 100.
        schedule: after that, "cosine" falls to 0, "constant" stays.
        weight_decay: of AdamW, on all parameters.
        clip: largest norm of the gradient; None clips nothing.
        ema: decay of the average, see `Average`; None keeps none.
        precision: "bf16" evaluates the network under autocast; weights stay in float32.
        seed: of everything that is drawn.
        resume: go on with what is in the folder; False refuses a folder that is not empty.
        report_every: steps between lines of metrics.jsonl, which hold means over them.
        evaluate_every: steps between held-out losses by noise level, of the average; 0 for none.
        sample_every: steps between sheets in samples/; 0 for none.
        checkpoint_every: steps between checkpoints.
        keep: how many checkpoints stay.
        patience: a step whose gradient is not finite is skipped and counted; this many in a row end the run.
        workers: processes that read samples ahead; 0 reads in line.
        draw: model -> samples for a sheet, shown by `data.decode`; default 8 for each class.
        callback: called with every line of metrics.jsonl.
        trackers: "tensorboard", which writes to the folder tensorboard/, or None.
        progress: show speed and remaining time.

    Returns:
        The run; its `denoiser` has the averaged weights, `denoiser` itself the last ones.

    Raises:
        TypeError, ValueError: before any work, for arguments that cannot be used, and for a folder that
            another process writes, or that holds a run asked for differently.
        FloatingPointError: `patience` steps in a row were not finite. The last checkpoint is kept.
        OSError: the disk is full. The last checkpoint is kept.
    """
    options = Options.of(
        steps=steps, batch=batch, learning_rate=learning_rate, warmup=warmup,
        schedule=schedule, weight_decay=weight_decay, clip=clip, ema=ema, precision=precision, seed=seed,
        report_every=report_every, evaluate_every=evaluate_every, sample_every=sample_every,
        checkpoint_every=checkpoint_every, keep=keep, patience=patience, workers=workers,
    )  # fmt: skip
    objective = _objective(objective)
    data = tokenised(dataset(data), denoiser)
    folder = RunFolder(Path(out if out is not None else f"runs/{Path(str(data.name)).stem}"), keep)
    check(denoiser, data, objective)
    completed(denoiser, data, objective)
    accelerator = _accelerator(trackers, folder.path)
    with _own_generators(accelerator.device):
        run = Training(denoiser, data, objective, options, folder, accelerator, draw, callback)
        return run.run(resume, progress)


def _objective(objective: Objective | None) -> Objective:
    if objective is None:
        from ornstein.objectives import Denoising

        return Denoising()
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as Denoising(), got {objective!r}")
    return objective


def _accelerator(trackers: str | None, folder: Path) -> Any:
    from accelerate import Accelerator

    if trackers is not None and trackers not in TRACKERS:
        raise ValueError(suggest(trackers, TRACKERS, "trackers"))
    if trackers and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("trackers: tensorboard is not installed; pip install 'ornstein[tensorboard]'")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    without_float64 = device is not None and device.type == "mps"  # which schedules are computed in
    several_on_cpu = device is None and "LOCAL_RANK" in os.environ
    made = Accelerator(cpu=without_float64 or several_on_cpu, log_with=trackers, project_dir=str(folder))
    kind = made.distributed_type.name
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ValueError(f"accelerate: fit runs in one process, or in several that share a batch; got {kind}")
    if made.num_processes > 1:
        atexit.register(_leave_group)
    return made


def _leave_group() -> None:
    """Close the process group at the end; threads of gloo that outlive it can abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Leave torch's generators to the caller as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
