"""The one training loop, and what happens around its steps."""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ornstein.core import Denoiser, Objective, Tree, tree_map
from ornstein.denoisers.files import save_model, tensors_of, unbuildable

from .check import fields_of
from .evaluation import HeldOut
from .folder import RunFolder
from .learner import Learner
from .lesson import Lesson
from .options import Options
from .progress import Pace, Progress
from .run import Run
from .sheets import COLUMNS, default_draw, write_sheet
from .source import Source

__all__ = ["Training"]

FORMAT = 1


class Training:
    """A run: its parts, the loop, and reports, evaluations, sheets and checkpoints between steps.

    Args:
        denoiser: what is trained, in place.
        data: a data set that fits it.
        objective: what is minimised.
        options: the numbers of the run.
        folder: where it writes.
        accelerator: of accelerate.
        draw: model -> samples for a sheet; None for the default.
        callback: called with every line of metrics.jsonl.
    """

    def __init__(
        self, denoiser: Denoiser, data: Any, objective: Objective, options: Options, folder: RunFolder,
        accelerator: Any, draw: Callable[[Denoiser], Tree] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:  # fmt: skip
        self.denoiser, self.data, self.objective, self.options = denoiser, data, objective, options
        self.folder, self.accelerator, self.callback = folder, accelerator, callback
        self.main: bool = accelerator.is_main_process
        accepted, device = fields_of(denoiser, objective), accelerator.device
        self.draw = draw or default_draw(data, denoiser.fields | denoiser.process.fields, options.seed)
        share = accelerator.process_index, accelerator.num_processes
        self.source = Source(data, options.batch, options.seed, accepted, device, *share)
        self.held_out = HeldOut(data.held_out, objective, denoiser.process, accepted, device, options.batch)

    def run(self, resume: bool, progress: bool) -> Run:
        """Train to the end."""
        config = self.config()
        if not self.main:
            return self._run(progress)
        self.folder.check(config, resume)
        with self.folder.locked():
            self.folder.check(config, resume=True)  # again: another process may have written until now
            self.folder.write_config(config)
            return self._run(progress)

    def _run(self, progress: bool) -> Run:
        lesson = Lesson(self.denoiser, self.objective, self.options.precision).on(self.accelerator.device)
        self.learner = Learner(lesson.train(), self.options, self.accelerator)
        start = self._restored()
        with self._tracked(start):
            self._loop(start, progress)
        return self._finished()

    def _loop(self, start: int, progress: bool) -> None:
        options, pace = self.options, Pace(start, self.options.batch)
        batches = self.source.given(start, options.steps, options.workers)
        with Progress(progress and self.main, options.steps, pace) as bar:
            for step, given in enumerate(batches, start + 1):
                self.learner.step(step - 1, given)
                pace.tick(step)
                if step % options.patience == 0:
                    self._guard(step)
                self._report(step, pace, bar)
                with pace.pause():
                    self._keep(step)
                bar.update(step)

    def _guard(self, step: int) -> None:
        streak, kept = self.learner.window.streak, self.folder.checkpoints.folder
        if streak >= self.options.patience:
            raise FloatingPointError(
                f"steps {step - streak + 1} to {step} had a loss or gradient that is not finite and were "
                f"skipped (the last checkpoint in {kept} is sound). Try a lower learning_rate or a longer "
                "warmup, or look for such values in the data"
            )

    # --- reports

    def _report(self, step: int, pace: Pace, bar: Progress) -> None:
        record: dict[str, Any] = {}
        if self.options.due(step, self.options.report_every):
            record = self.learner.report(step)
            if self.main:
                speed = pace.items_per_second()
                timing = {"step": step, "items_per_second": speed, "seconds": pace.elapsed()}
                self.folder.timing.append(timing)
                bar.report(record, speed)
        if self.main and len(self.held_out) and self.options.due(step, self.options.evaluate_every):
            with pace.pause():
                record = {"step": step, **record, **self._evaluated()}
        if self.main and record:
            self._publish(record)

    def _evaluated(self) -> dict[str, Any]:
        with _evaluating(self.learner.model) as model:
            losses = self.held_out.losses(model)
        return {"held_out_loss": sum(losses) / len(losses), "held_out_levels": losses}

    def _publish(self, record: dict[str, Any]) -> None:
        self.folder.metrics.append(record)
        flat = {k: v for k, v in record.items() if isinstance(v, int | float)}
        flat |= {f"held_out_levels/{i}": v for i, v in enumerate(record.get("held_out_levels", ()))}
        self.accelerator.log(flat, step=flat.pop("step"))
        if self.callback:
            self.callback(record)

    @contextlib.contextmanager
    def _tracked(self, start: int) -> Iterator[None]:
        options = {"tensorboard": {"purge_step": start + 1}}  # what is trained again is not shown twice
        if self.main and self.accelerator.log_with:
            self.accelerator.init_trackers("tensorboard", init_kwargs=options)
        try:
            yield
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()

    # --- what is kept

    def _keep(self, step: int) -> None:
        if self.main and self.options.due(step, self.options.sample_every):
            self._sheet(step)
        if self.options.due(step, self.options.checkpoint_every):
            self.learner.share()  # a later run may have another number of processes
            if self.main:
                self._checkpoint(step)

    def _sheet(self, step: int) -> None:
        try:
            with torch.no_grad(), _evaluating(self.learner.model) as model:
                samples = tree_map(lambda leaf: leaf.cpu(), self.draw(model))
        except (TypeError, ValueError) as error:  # of a model that needs more than a count and labels
            warnings.warn(f"no sheet of samples: {error} (give fit a draw=, or sample_every=0)", stacklevel=2)
            return
        columns = getattr(self.draw, "columns", COLUMNS)
        write_sheet(self.folder.samples, step, self.data.decode(samples), columns)

    def _checkpoint(self, step: int) -> None:
        tensors, plain = self.learner.state()
        sizes = {"metrics": self.folder.metrics.sync(), "timing": self.folder.timing.sync()}
        self.folder.checkpoints.write(step, tensors, {**plain, "sizes": sizes})

    def _restored(self) -> int:
        """Go on from the latest checkpoint; a new run makes its first one, so that all begin alike."""
        checkpoints = self.folder.checkpoints
        if self.main:
            checkpoints.sweep()
            if not checkpoints.steps():
                self.folder.metrics.cut(0)
                self.folder.timing.cut(0)
                self._checkpoint(0)
        self.accelerator.wait_for_everyone()
        found = checkpoints.latest()
        if found is None:
            raise ValueError(f"out: no checkpoint in {checkpoints.folder} can be read; choose another folder")
        step, tensors, plain = found
        self.learner.restore(tensors, plain)
        if self.main:
            self.folder.metrics.cut(plain["sizes"]["metrics"])
            self.folder.timing.cut(plain["sizes"]["timing"])
        return step

    def _finished(self) -> Run:
        self.denoiser.eval()
        raw = tensors_of(self.denoiser) if self.learner.average else None
        if self.main:
            save_model(self.learner.model, self.folder.model, raw=raw, strict=False)
        return Run(self.folder.path, self.learner.model)

    # --- what was asked

    def config(self) -> dict[str, Any]:
        """All that decides the bits of the run, as plain data."""
        foreign = unbuildable(self.denoiser)
        if foreign:
            text = f"the weights will be saved without a config that rebuilds the model: {foreign}"
            warnings.warn(text, stacklevel=4)
        data = self.data
        sizes = {"train": len(data.train), "held_out": len(data.held_out), "digest": self.source.digest()}
        return {
            "format": FORMAT,
            "denoiser": _described(self.denoiser, foreign is None),
            "objective": _described(self.objective, unbuildable(self.objective) is None),
            "data": {"name": str(data.name), "options": getattr(data, "options", {}), **sizes},
            "training": self.options.as_dict(),
            "held_out": {"clock": self.held_out.clock, "edges": self.held_out.edges},
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }


def _described(module: Any, buildable: bool) -> Any:
    if buildable:
        return module.spec()
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return {"class": kind, "parameters": sum(p.numel() for p in module.parameters())}


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """The model in evaluation mode."""
    was: nn.Module = model
    training = was.training
    was.eval()
    try:
        yield model
    finally:
        was.train(training)
