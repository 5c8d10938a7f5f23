"""A model of ornstein as a module of diffusers. Importing this file imports diffusers, and lets its pipelines read
what `save_diffusers` wrote.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, build, suggest
from ornstein.denoisers import Converted

from .folder import imported
from .schedule import TrainedSteps

imported("diffusers")

from diffusers import ConfigMixin, DDIMScheduler, ModelMixin  # noqa: E402
from diffusers.configuration_utils import register_to_config  # noqa: E402
from diffusers.models.unets.unet_2d import UNet2DOutput  # noqa: E402

__all__ = ["OrnsteinModel", "scheduler_of"]


class OrnsteinModel(ModelMixin, ConfigMixin):
    """A denoiser of ornstein with the call of diffusers' UNet2DModel, so that its pipelines and schedulers run it.

    The denoiser is read under the variance-preserving table of N steps of `scheduler_of` at equal log-SNR
    (`denoisers.Converted`), and its posterior mean D given as the v-prediction

        v = (alpha x - D) / sigma

    which is finite where there is no signal.

    Args:
        spec: what `Module.spec` says of the denoiser.
        alphas_cumprod: the table.
        sample_size: pixels along each side, as diffusers' pipelines ask for.
        in_channels: of a sample.
    """

    @register_to_config
    def __init__(
        self, spec: dict[str, Any], alphas_cumprod: list[float], sample_size: list[int], in_channels: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and lost at once
            self.model = build(spec)
        # through a list, so that the denoiser's weights are not registered, and saved, twice
        self._converted = [Converted(self.model, TrainedSteps(alphas_cumprod))]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **fields: Any,
    ) -> Any:
        """v for states (B, C, H, W) at timesteps 0 to N - 1, fractions too.

        Args:
            sample: states.
            timestep: one, or (B,).
            class_labels: (B,), the field `label`; -1 for none.
            return_dict: as of diffusers' modules.
            **fields: other condition fields, tensors (B, ...); of texts, `model.tokenise("text", words)`.

        Raises:
            TypeError: a field that the model does not read, or words in place of their ids.
        """
        converted: Any = self._converted[0]
        t = (torch.as_tensor(timestep, device=sample.device).double() + 1) / converted.process.steps
        t = t.expand(len(sample)) if t.ndim == 0 else t
        level = converted.process.at(t)
        mean = converted(sample, t, _condition(self.model, class_labels, fields)).mean
        alpha, sigma = (
            v.reshape(-1, *[1] * (sample.ndim - 1)).to(sample.dtype) for v in (level.alpha, level.sigma)
        )
        v = (alpha * sample - mean) / sigma
        return UNet2DOutput(sample=v) if return_dict else (v,)


def _condition(denoiser: Any, labels: Tensor | None, fields: dict[str, Any]) -> Condition | None:
    given = {k: v for k, v in fields.items() if v is not None}
    for name in given:
        if name not in denoiser.fields:
            raise TypeError(suggest(name, denoiser.fields, "condition field"))
        if isinstance(given[name], str | list | tuple):
            raise TypeError(
                f'{name}: expected a tensor or features, got {given[name]!r}; of words, .model.tokenise("{name}", '
                '["a prompt for each row"]) gives ids'
            )
    if labels is None:
        return Condition(given) if given else None
    return Condition({**given, "label": labels.clamp(min=0)}, {"label": labels >= 0})


def scheduler_of(process: AffineProcess, steps: int) -> Any:
    """DDIM of diffusers on the variance-preserving table that has the process's log-SNR at times (k + 1) / steps.

    Spacing is "trailing", so that runs begin at time 1, and the last step goes to clean data.
    """
    times = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    alpha_bar = torch.sigmoid(2 * process.half_log_snr(times))
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    betas = (1 - alpha_bar / before).tolist()
    if not all(0 < beta <= 1 and math.isfinite(beta) for beta in betas):
        raise ValueError(
            f"process: {type(process).__name__} has no falling log-SNR at {steps} steps: nothing to tabulate"
        )
    return DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=betas,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
