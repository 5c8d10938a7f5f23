"""The schedulers of diffusers as a process, a prediction and a time grid."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from typing import Any, Protocol

from ornstein.core import AffineProcess, Process, Row, TimeGrid
from ornstein.processes import RectifiedFlow, Tabulated
from ornstein.solvers import Hold

__all__ = ["Recount", "TrainedSteps", "pipeline_grid"]

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")
CUTS = ("clip_sample", "thresholding")  # of schedulers, which change the estimate of x_0


class TrainedSteps(Tabulated):
    """The process of a network that was trained at N discrete steps, with alpha^2 given at each.

    Step k is at time (k + 1) / N, where the table is met exactly, and time 0 is clean data. Between steps alpha is a
    monotone cubic (`Tabulated`), so a time t is the fractional step N t - 1; times below 1 / N have less noise than
    step 0, the least that the network has seen, and are told to it as step 0.

    Args:
        alpha_bar: N numbers in [0, 1), falling: `alphas_cumprod` of a scheduler. The last may be 0.
    """

    def __init__(self, alpha_bar: list[float]) -> None:
        super().__init__([1.0, *(math.sqrt(float(value)) for value in alpha_bar)])
        self.steps = len(alpha_bar)

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """As of every affine process, its last call at step 0, the least noise that the network has seen."""
        if kind not in (None, "log-snr", "karras"):
            return super().grid(kind, steps)
        builder = TimeGrid.karras if kind == "karras" else TimeGrid.log_snr
        return builder(steps, self, smallest=math.exp(-self.half_log_snr(1 / self.steps)))


def process_of(scheduler: Any) -> AffineProcess:
    """The process that a scheduler of diffusers steps through.

    Raises:
        ValueError: it is neither a flow nor a table of `alphas_cumprod`.
    """
    if is_flow(scheduler):
        return RectifiedFlow()
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has no table of alphas_cumprod and is no flow; accepted are those "
            "of diffusers with beta_schedule or trained_betas, and FlowMatchEulerDiscreteScheduler"
        )
    return TrainedSteps(table.double().tolist())


def is_flow(scheduler: Any) -> bool:
    """Whether states are (1 - t) x_0 + t z and the network predicts z - x_0."""
    config = scheduler.config
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(flow) or type(scheduler).__name__.startswith("FlowMatch")


def prediction_of(scheduler: Any, process: AffineProcess) -> str:
    """What the network's output is: one of `PREDICTIONS`.

    Raises:
        ValueError: another prediction, or one that says nothing of the data where there is no signal.
    """
    if is_flow(scheduler):
        return "flow"
    found = str(scheduler.config.get("prediction_type", "epsilon"))
    if found not in PREDICTIONS:
        raise ValueError(f"scheduler: prediction_type {found!r}; accepted: {', '.join(PREDICTIONS[:3])}")
    if found == "epsilon" and process.at(1.0).alpha == 0:
        raise ValueError(
            "scheduler: prediction_type 'epsilon' with zero terminal SNR (rescale_betas_zero_snr) says nothing of the "
            "data at the first step; such models are trained with 'v_prediction' or 'sample'"
        )
    return found


def warn_unkept(scheduler: Any) -> None:
    """Say what a scheduler would do to the estimates of x_0 in diffusers' pipelines and is not done here."""
    read = inspect.signature(
        type(scheduler).__init__
    ).parameters  # a config may hold entries that it does not read
    unkept = [name for name in CUTS if name in read and scheduler.config.get(name)]
    if unkept:
        warnings.warn(
            f"scheduler: {' and '.join(f'{name}=True' for name in unkept)} of {type(scheduler).__name__} is not kept: "
            "there each estimate of x_0 is cut to its range before a step, here it is what the network says; samples "
            "differ from those of diffusers' pipeline",
            stacklevel=4,  # where the model is read
        )


# ------------------------------------------------------------------------------------- grids


class Recount(Hold):
    """The state stays as it is and from here on counts as one of another time; no network is called.

    DDIM of diffusers steps from k to k - N // steps, and then takes what it has for a state at its next timestep,
    which with "linspace" spacing is another one. `pipeline_grid` says so with this row.
    """

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """Identity rows, whatever their times."""
        return [Row(r.t, r.s, 1.0, 0.0, calls=False) for r in grid]


class Scheduled(Protocol):
    """A model that was read from diffusers."""

    scheduler: Any
    shape: Any
    process: AffineProcess
    patch: int
    kind: str


def pipeline_grid(model: Any, steps: int) -> TimeGrid:
    """The times of diffusers' own pipeline: those of its DDIM for a table, of its flow-match Euler for a flow.

    With `solvers.DDIM()` on this grid and the same first state, samples equal the pipeline's to rounding, unless its
    scheduler has `clip_sample` or `thresholding`, which are not done here. It keeps to the scheduler's
    `timestep_spacing`, `steps_offset`, `set_alpha_to_one`, and to a flow's `shift`, which may depend on the size of the
    samples, model.shape.

    Args:
        model: of `load_diffusers` or `from_diffusers`; a guided one too.
        steps: as `num_inference_steps`.

    Raises:
        ValueError: the model is not of diffusers, its scheduler refuses so many steps, or it is a flow's other than
            FlowMatchEulerDiscreteScheduler.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: expected an integer of at least 1, got {steps!r}")
    while not hasattr(model, "scheduler") and hasattr(model, "denoiser"):
        model = model.denoiser
    if not hasattr(model, "scheduler"):
        raise ValueError(f"model: expected one of load_diffusers, got {type(model).__name__}")
    return _flow_grid(model, steps) if is_flow(model.scheduler) else _table_grid(model, steps)


def _table_grid(model: Scheduled, steps: int) -> TimeGrid:
    import diffusers

    scheduler = diffusers.DDIMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    count = scheduler.config.num_train_timesteps
    last = 0.0 if scheduler.config.set_alpha_to_one else 1 / count
    rows: list[tuple[Any, ...]] = []
    for k, following in itertools.pairwise([*scheduler.timesteps.tolist(), None]):
        to = k - count // steps
        s = (to + 1) / count if to >= 0 else last
        rows.append(((k + 1) / count, s))
        if following is not None and s != (following + 1) / count:
            rows.append((s, (following + 1) / count, Recount()))
    grid = TimeGrid(rows)
    grid.process = model.process
    return grid


def _flow_grid(model: Scheduled, steps: int) -> TimeGrid:
    scheduler, options = model.scheduler, {}
    name, config = type(scheduler).__name__, scheduler.config
    if name != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(
            f"model: its scheduler {name} has other times than a grid; give load_diffusers a scheduler="
        )
    if config.get("use_dynamic_shifting"):
        tokens = math.prod(model.shape[1:]) // model.patch**2
        slope = (config.max_shift - config.base_shift) / (
            config.max_image_seq_len - config.base_image_seq_len
        )
        options["mu"] = config.base_shift + slope * (tokens - config.base_image_seq_len)
    if model.kind == "FluxTransformer2DModel":  # its pipeline ends at 1 / steps before the shift
        options["sigmas"] = [1.0 + (1 / steps - 1.0) * i / max(steps - 1, 1) for i in range(steps)]
    own = type(scheduler).from_config(config)  # the model's own is left as it is
    own.set_timesteps(steps, **options)
    return TimeGrid.through(own.sigmas.tolist())
