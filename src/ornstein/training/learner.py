"""All that training changes, and one step of it."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Denoiser

from .average import Average
from .lesson import Given, Lesson
from .options import Options

__all__ = ["Learner", "Window"]


class Window:
    """Sums since the last report, kept on the device so that no step waits for the host.

    `counts` holds the steps that were sound since the last report, the steps skipped so far, and the steps
    skipped in a row.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(0, device=device)
        self.counts = torch.zeros(3, device=device)
        self._sound = torch.tensor([1.0, 0.0, 0.0], device=device)
        self._unsound = torch.tensor([0.0, 1.0, 1.0], device=device)
        self._kept = torch.tensor([1.0, 1.0, 0.0], device=device)

    def add(self, values: Tensor, unsound: Tensor) -> None:
        """Count one step; what an unsound one measured is left out."""
        if not len(self.sums):
            self.sums = torch.zeros_like(values)
        self.sums += torch.where(unsound, 0.0, values)
        sound = self.counts * self._kept + self._sound  # ends the streak
        self.counts = torch.where(unsound, self.counts + self._unsound, sound)

    def means(self) -> list[float | None]:
        """The averages since the last call; None where every step was skipped."""
        sound, sums = float(self.counts[0]), self.sums.tolist()
        self.sums.zero_()
        self.counts[0] = 0.0
        return [s / sound if sound else None for s in sums]

    @property
    def skipped(self) -> int:
        """Steps skipped so far."""
        return int(self.counts[1])

    @property
    def streak(self) -> int:
        """Steps skipped in a row."""
        return int(self.counts[2])

    def state_dict(self) -> dict[str, Tensor]:
        """The sums and counts."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.sums = state["sums"].to(self.counts.device, copy=True)
        self.counts = state["counts"].to(self.counts.device, copy=True)


class Learner:
    """A lesson with its optimiser (AdamW, 1711.05101), its average and its window.

    A step whose gradient is not finite changes neither weights nor the optimiser's state: so weights are
    never poisoned, and every checkpoint is sound. The decision is made on the device.

    Args:
        lesson: what is trained, on its device.
        options: the numbers of the run.
        accelerator: of accelerate; wraps the lesson where several processes share the work.
    """

    def __init__(self, lesson: Lesson, options: Options, accelerator: Any) -> None:
        self.lesson, self.options, self.accelerator = lesson, options, accelerator
        self.module: nn.Module = accelerator.prepare_model(lesson)
        self.device: torch.device = accelerator.device
        self.parameters = lesson.learned()
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.average = None if options.ema is None else Average(lesson.denoiser, options.ema)
        self.window = Window(self.device)

    @property
    def model(self) -> Denoiser:
        """What one samples from: the average, or the denoiser itself where there is none."""
        return self.average.module if self.average else self.lesson.denoiser

    def step(self, index: int, given: Given) -> None:
        """Step `index` = 0, 1, ..."""
        self._seed(index)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(index)
        total, values = self.module(given)
        total.backward()
        largest = math.inf if self.options.clip is None else self.options.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, largest, foreach=True)
        unsound = ~norm.isfinite()
        setattr(self.optimizer, "found_inf", unsound.float())  # noqa: B010  as a GradScaler says it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        self.window.add(torch.cat([norm.detach().float().reshape(1), values]), unsound)

    def report(self, step: int) -> dict[str, Any]:
        """Means since the last report, after `step` steps; of all processes."""
        self.share()
        norm, *losses = self.window.means()
        return {
            "step": step,
            **dict(zip(self.lesson.names, losses, strict=True)),
            "learning_rate": self.options.rate(step - 1),
            "gradient_norm": norm,
            "skipped": self.window.skipped,
        }

    def share(self) -> None:
        """Let every process hold the mean of all processes' sums, so that one of them can speak for all.

        What a process adds afterwards is averaged with the rest the next time, so this may be done at any step.
        """
        if self.accelerator.num_processes > 1:
            self.window.sums = self.accelerator.reduce(self.window.sums, "mean")

    def _seed(self, index: int) -> None:
        """Whatever draws from torch's own generators (dropout) is a function of (seed, step, rank) too."""
        seed = zlib.crc32(f"{self.options.seed}/{index}/{self.accelerator.process_index}".encode())
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    # --- state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a later process needs to go on: tensors by name, and plain data."""
        tensors = {f"lesson.{k}": v for k, v in self.lesson.saved().items()}
        tensors |= {f"window.{k}": v for k, v in self.window.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
        plain: dict[str, Any] = {"names": list(self.lesson.names)}
        if self.average:
            average = self.average.state_dict()
            tensors |= {f"average.{k}": v for k, v in average["module"].items()}
            plain["updates"] = average["updates"]
        return tensors, plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is the state of another model.
        """
        try:
            self.lesson.restore(_under("lesson.", tensors))
            if self.average:
                own = {"updates": plain["updates"], "module": _under("average.", tensors)}
                self.average.load_state_dict(own)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"checkpoint: does not fit the model: {error}") from error
        groups = self.optimizer.state_dict()["param_groups"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value.clone()
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.window.load_state_dict(_under("window.", tensors))
        self.lesson.names = tuple(plain["names"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
