"""The Gaussian fit of data: what every sampler may know of them beforehand, and the flow it solves exactly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Time

from .analytic import GaussianDenoiser

__all__ = ["GaussianFit"]


class GaussianFit:
    """N(mean, sum_k variances_k axes_k axes_k^T + rest (I - sum_k axes_k axes_k^T)): the mean of data, their
    largest principal axes, and one variance for all other directions.

    Learned scores are nearly those of this Gaussian at high noise (Wang and Vastola 2024, 2412.09726), so the part
    of a sampler's work that it explains can be done in closed form.

    Args:
        mean: (*event).
        axes: (r, D), orthonormal rows, D the event's size; r may be 0.
        variances: (r,), of the data along the axes, >= 0.
        rest: variance along every other direction, >= 0.

    Raises:
        ValueError: shapes that do not fit, or axes that are not orthonormal.
    """

    def __init__(self, mean: Tensor, axes: Tensor, variances: Tensor, rest: float = 0.0) -> None:
        size = mean.numel()
        if axes.ndim != 2 or axes.shape[1] != size or variances.shape != axes.shape[:1]:
            raise ValueError(
                f"axes: expected (r, {size}) with as many variances, got {tuple(axes.shape)} and "
                f"{tuple(variances.shape)}"
            )
        gram = axes.double() @ axes.double().T
        if len(axes) and float((gram - torch.eye(len(axes), device=axes.device)).abs().max()) > 1e-4:
            raise ValueError("axes: expected orthonormal rows")
        if bool((variances < 0).any()) or not rest >= 0:
            raise ValueError("variances, rest: expected numbers of at least 0")
        self.mean, self.axes, self.variances, self.rest = mean, axes, variances, float(rest)
        self.flat = mean.reshape(1, -1)
        self.centre = self.flat @ axes.T  # coordinates of the mean along the axes

    @classmethod
    def of(cls, data: Tensor, rank: int | None = None) -> GaussianFit:
        """The fit to samples, by principal components.

        Costs O(N D min(N, D)) once; a thousand samples do.

        Args:
            data: (N, *event), N >= 2.
            rank: number of axes, by default 16 or what N samples determine. The variance they leave
                is spread evenly over the other directions.

        Raises:
            TypeError: not a tensor of samples.
            ValueError: values that are not finite, fewer than two samples, or a rank outside [0, min(N - 1, D)].
        """
        if not isinstance(data, Tensor) or data.ndim < 2:
            raise TypeError(f"data: expected a tensor of samples (N, *event), got {type(data).__name__}")
        if not bool(torch.isfinite(data).all()):
            raise ValueError("data: holds NaN or infinite values")
        n, size = len(data), data[0].numel()
        most = min(n - 1, size)
        if n < 2 or (rank is not None and not 0 <= rank <= most):
            raise ValueError(f"rank: expected 0 to {most} for {n} samples of {size} numbers, got {rank}")
        flat = data.flatten(1).double()
        mean = flat.mean(0)
        centred = (flat - mean) / (n - 1) ** 0.5
        kept = min(most, 16) if rank is None else rank
        variances, axes = _principal(centred, kept)
        spare = (float(centred.square().sum()) - float(variances.sum())) / max(size - kept, 1)
        rest = max(spare, 0.0) if kept < size else 0.0
        return cls._cast(mean.reshape(data.shape[1:]), axes, variances, rest, data)

    @classmethod
    def isotropic(cls, mean: Tensor, variance: float) -> GaussianFit:
        """One variance for all directions."""
        return cls(mean, mean.new_zeros(0, mean.numel()), mean.new_zeros(0), variance)

    @classmethod
    def _cast(cls, mean: Tensor, axes: Tensor, variances: Tensor, rest: float, like: Tensor) -> GaussianFit:
        return cls(mean.to(like), axes.to(like), variances.to(like), rest)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> GaussianFit:
        """From what `tensors` gives.

        Raises:
            ValueError: names or shapes that are not those.
        """
        if set(tensors) != {"mean", "axes", "variances", "rest"}:
            raise ValueError(f"fit: expected mean, axes, variances and rest, got {sorted(tensors)}")
        return cls(tensors["mean"], tensors["axes"], tensors["variances"], float(tensors["rest"]))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file."""
        rest = torch.tensor(self.rest, dtype=torch.float64)
        parts = {"mean": self.mean, "axes": self.axes, "variances": self.variances, "rest": rest}
        return {name: value.detach().cpu().contiguous() for name, value in parts.items()}

    def to(self, like: Tensor) -> GaussianFit:
        """The same fit on the device and in the dtype of a tensor."""
        return self._cast(self.mean, self.axes, self.variances, self.rest, like)

    @property
    def spectrum(self) -> Tensor:
        """All distinct variances in float64: along the axes, and last that of the rest. (r + 1,)"""
        rest = torch.tensor([self.rest], dtype=torch.float64)
        return torch.cat([self.variances.double().cpu(), rest])

    @property
    def scales(self) -> tuple[float, float]:
        """Standard deviations: along the widest direction, and along the one in the middle of them all."""
        others = torch.full((self.mean.numel() - len(self.axes),), self.rest, dtype=torch.float64)
        every = torch.cat([self.spectrum[:-1], others]).sqrt()
        return float(every.max()), float(every.median())

    def stretched(self, x: Tensor, factors: Tensor) -> Tensor:
        """x with its coordinate along axis k times factors_k, and all other directions times the last factor."""
        flat = x.flatten(1)
        factors = factors.to(flat)
        along = flat @ self.axes.T
        moved = torch.addmm(factors[-1] * flat, along * (factors[:-1] - factors[-1]), self.axes)
        return moved.reshape(x.shape)

    def flow(self, process: AffineProcess, x: Tensor, t: float, s: float) -> Tensor:
        """The exact probability-flow map from t to s of this Gaussian (Wang and Vastola 2023, 2303.02490):

        x_s = alpha_s m + sum_k a_k sqrt((alpha_s^2 L_k + sigma_s^2) / (alpha_t^2 L_k + sigma_t^2))
            a_k^T (x_t - alpha_t m)
        """
        return self.carried(x, process.at(t).alpha, process.at(s).alpha, self.growth(process, t, s))

    def carried(self, u: Tensor, alpha: float, alpha_s: float, growth: Tensor) -> Tensor:
        """alpha_s m + growth (u - alpha m)."""
        return alpha_s * self.mean + self.stretched(u - alpha * self.mean, growth)

    def growth(self, process: AffineProcess, t: float, s: float) -> Tensor:
        """The factor of each direction along the flow from t to s; (r + 1,) in float64."""
        return (self._spread(process, s) / self._spread(process, t)).sqrt()

    def log_det(self, process: AffineProcess, t: float, s: float) -> float:
        """log |d x_s / d x_t| of the flow."""
        logs = self.growth(process, t, s).log()
        others = self.mean.numel() - len(self.axes)
        return float(logs[:-1].sum() + (others * logs[-1] if others else 0.0))

    def denoiser(self, process: AffineProcess) -> GaussianDenoiser:
        """The exact denoiser of data with this law."""
        eye = torch.eye(self.mean.numel(), dtype=self.axes.dtype, device=self.axes.device)
        return GaussianDenoiser(self.mean, self.stretched(eye, self.spectrum), process)

    def _spread(self, process: AffineProcess, t: Time) -> Tensor:
        level = process.at(t)
        return level.alpha**2 * self.spectrum + level.sigma**2

    def __repr__(self) -> str:
        return f"GaussianFit(shape={tuple(self.mean.shape)}, rank={len(self.axes)}, rest={self.rest:.3g})"


def _principal(centred: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The largest principal variances (r,) and their axes (r, D), from the smaller of the two Gram matrices."""
    wide = centred.shape[0] < centred.shape[1]
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = values.flip(0)[:rank].clamp(min=0.0), vectors.flip(1)[:, :rank]
    if wide:
        vectors = torch.linalg.qr(centred.T @ vectors)[0]  # orthonormal also where a variance is 0
    return values, vectors.T.contiguous()
