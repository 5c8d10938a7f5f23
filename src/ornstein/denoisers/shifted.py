"""A frozen denoiser whose mean is shifted by what a code of the clean data adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import AffineProcess, Condition, Denoiser, Posterior, Step, Time, Tree, align
from ornstein.networks.taps import tapped

__all__ = ["ShiftedDenoiser"]


class ShiftedDenoiser(Denoiser):
    """E[x_0 | x_t, z] as that of a frozen base plus a learned shift, in noise and in mean:

        eps + s_t G(x_t, t, z),    s_t = -(alpha_t / alpha_s) sigma_s^2 / sigma_t
        D + (sigma_s^2 / alpha_s) G(x_t, t, z),    s = t - spacing,

    where G reads as the gradient of log p(z | x_t). `spacing` is one training step of the discrete-time papers, whose
    sampling code uses spacing 0 instead: s_t = -sigma_t, the continuous-time coefficient. Their ratio is near 1 but for
    the last steps, where the first goes to 0.

    Rows whose condition has neither a code nor an image are those of the base. Zhang et al. 2022 (PDAE, arXiv
    2212.12990); with `mask`, Yue et al. 2024 (DiTi, arXiv 2401.11430).

    Args:
        denoiser: the base, frozen here; unconditional.
        branch: G, such as `networks.ShiftBranch`.
        encoder: images to codes, such as `networks.Encoder`; it sees the clean image.
        mask: (z, t) -> what time t is shown of z, such as `conditions.TimeMasked`; all of it if None.
        spacing: see above, in [0, 1).

    Raises:
        ValueError: a process that is not affine, or has no signal at time 1, where no noise prediction gives a mean.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        branch: nn.Module,
        encoder: nn.Module,
        mask: nn.Module | None = None,
        spacing: float = 1e-3,
    ) -> None:
        super().__init__()
        process: Any = denoiser.process
        if not isinstance(process, AffineProcess) or process.at(1.0).alpha == 0:
            raise ValueError(
                f"denoiser: a shift needs some signal at time 1, which {type(process).__name__} has not; "
                "VariancePreserving('linear') has"
            )
        if not 0 <= spacing < 1:
            raise ValueError(f"spacing: expected a time step in [0, 1), got {spacing}")
        self.denoiser = denoiser.requires_grad_(False)
        self.branch, self.encoder, self.mask, self.spacing = branch, encoder, mask, spacing
        self.process, self.shape, self.estimates = process, denoiser.shape, denoiser.estimates
        self.prediction, self.scale = (
            "noise",
            getattr(denoiser, "scale", 1.0),
        )  # what objectives weigh errors by
        self.fields = denoiser.fields | {"image", "code"}

    def train(self, mode: bool = True) -> ShiftedDenoiser:
        """Training mode for all but the base."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def prepare(self, condition: Condition) -> Condition:
        """Images are encoded once a run."""
        return self.denoiser.prepare(self.coded(condition))

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The base's."""
        return self.denoiser.tokenise(name, words)

    def coded(self, condition: Condition) -> Condition:
        """The condition with the codes of its images in their place; codes that are given come first."""
        if "image" not in condition:
            return condition
        image, present = condition["image"], condition.present["image"]
        rest, made = condition.without("image"), self.encoder(image)
        if "code" in rest:
            given = rest.present["code"]
            made, present = torch.where(given.unsqueeze(1), rest["code"], made), present | given
        return Condition({**rest, "code": made}, {**rest.present, "code": present})

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The base's posterior, shifted; one evaluation."""
        condition = self.coded(condition) if condition else condition
        if not condition or "code" not in condition:
            return self.denoiser(x, t, condition, step)
        with tapped(self.denoiser, self.branch.taps) as taken:  # type: ignore[arg-type]
            base = self.denoiser(x, t, condition, step)
        z = condition["code"].to(base.mean)
        z = z if self.mask is None else self.mask(z, t)
        shift = align(condition.present["code"].to(base.mean), x) * self.branch(taken, z)
        return base.with_mean(base.mean + align(self.coefficient(t), x) * shift, condition=condition)

    def coefficient(self, t: Time) -> Any:
        """sigma_s^2 / alpha_s at s = max(t - spacing, 0)."""
        s = (t - self.spacing).clamp(min=0.0) if isinstance(t, Tensor) else max(t - self.spacing, 0.0)
        process: Any = self.process
        level = process.at(s)
        return level.sigma**2 / level.alpha
