"""A model of patches on a larger canvas: overlapping windows, denoised each and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ornstein.conditions.spherical import slerp_grid
from ornstein.core import AffineProcess, Condition, Denoiser, Guide, Guided, Posterior, Step, Time, Tree
from ornstein.spaces.tiling import Tiling, whole

__all__ = ["Tiled"]


_tiling = lru_cache(maxsize=16)(Tiling)  # tables that every step reads


class Canvas(Guided):
    """A model of patches under `Tiled`: its samples have the canvas's shape."""

    def __init__(self, denoiser: Denoiser, guide: Tiled) -> None:
        super().__init__(denoiser, guide)
        self.shape, self.fit = (denoiser.shape[0], *guide.canvas), None

    def like(self, n: int) -> Tree:
        """Empty canvases."""
        return Denoiser.like(self, n)

    def _example(self) -> Tensor:
        return self.denoiser._example()


class Tiled(Guide):
    """D(x)(p) = sum_k w_k(p) D(window k of x)(p), the weights a partition of unity over the windows that hold p.

    Any sampler runs on the canvas; averaging posterior means is averaging scores or noise predictions, since the
    weights add to 1 at every place. Conditions are of three kinds: a field of the canvas's own size (an anchor, a
    measurement; never a `text`, whose tokens are no places) is cut as the state is; a field named in `grids` is a grid
    of vectors (B, h, w, E) over the canvas, of which each window gets the spherical interpolation at its centre; every
    other field goes to every window.

    Even with an exact denoiser of patches this is not the exact denoiser of the canvas: what is farther apart than a
    window is joined by the grid alone. A window counts as one evaluation. Guides of the posterior may lie inside (they
    see patches and no step); those that act on draws or remember lie outside.

    Graikos et al., "Learned representation-guided diffusion models for large-image generation", 2023 (arXiv
    2312.07330), where the windows are 64 places wide, their stride 16 and their weights equal.

    Args:
        canvas: the canvas's size, one number an axis of space.
        stride: places from window to window, at most the window, which is the model's own shape.
        grids: names of fields that are grids of embeddings.
        profile: of the weights, "uniform" or "gaussian".
        periodic: whether the canvas is a torus.
        chunk: rows a network call.

    Raises:
        ValueError: sizes that do not fit the model; a model of unknown shape or of another kind of state; a guide
            inside that belongs outside.
    """

    def __init__(
        self,
        canvas: Sequence[int],
        stride: int | Sequence[int],
        grids: Sequence[str] = (),
        profile: str = "uniform",
        periodic: bool = False,
        chunk: int = 256,
    ) -> None:
        self.canvas, self.grids = whole("canvas", canvas), tuple(grids)
        self.stride = whole("stride", stride, len(self.canvas))
        self.profile, self.periodic, self.chunk = profile, periodic, chunk
        if self.grids and len(self.canvas) != 2:
            raise ValueError(f"grids: embeddings lie on a canvas of 2 axes, this one has {len(self.canvas)}")

    def __call__(self, denoiser: Denoiser) -> Guided:
        """The model of canvases."""
        super().__call__(denoiser)
        self.tiling(denoiser)
        return Canvas(denoiser, self)

    def tiling(self, denoiser: Denoiser) -> Tiling:
        """The windows of a model of patches."""
        return _tiling(self.canvas, denoiser.shape[1:], self.stride, self.profile, self.periodic)

    def check(self, denoiser: Denoiser) -> None:
        """The model must be of patches of a known shape, and what is inside must see patches only."""
        if not isinstance(denoiser.process, AffineProcess) or not isinstance(denoiser.shape, tuple):
            raise ValueError(
                "Tiled: expected a model of an affine process whose patches have a known shape (C, ...), got "
                f"{type(denoiser).__name__} of {type(denoiser.process).__name__} with shape {denoiser.shape}"
            )
        missing = set(self.grids) - denoiser.fields
        if missing:
            raise ValueError(f"grids: the model reads {sorted(denoiser.fields)}, not {sorted(missing)}")
        inner: Any = denoiser
        while isinstance(inner, Guided):
            guide = type(inner.guide)
            acts = guide.after_draw is not Guide.after_draw or guide.before_draw is not Guide.before_draw
            if acts or guide.remembers:
                raise ValueError(
                    f"Tiled: {guide.__name__} acts on whole draws: put it outside, {guide.__name__}(...)(Tiled(...)(m))"
                )
            inner = inner.denoiser

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """The windows' posteriors, averaged."""
        tiling, n = self.tiling(denoiser), len(x)
        windows = tiling.cut(x).flatten(0, 1)
        rows = torch.arange(n, device=x.device).repeat_interleave(len(tiling))
        times = t[rows] if isinstance(t, Tensor) and t.ndim else t
        given = self.spread(condition, rows, tiling)
        pieces = torch.arange(len(rows), device=x.device).split(self.chunk)
        parts = [self._part(denoiser, windows, times, given, i) for i in pieces]
        mean = tiling.paste(torch.cat([part.mean for part in parts]).unflatten(0, (n, len(tiling))))
        calls = torch.cat(
            [torch.as_tensor(p.evaluations, device=x.device).expand(len(p.mean)) for p in parts]
        )
        total = calls.reshape(n, -1).sum(1)
        return Posterior(denoiser.process, x, t, mean, evaluations=total, condition=condition)

    def spread(self, condition: Condition | None, rows: Tensor, tiling: Tiling) -> Condition | None:
        """The condition of every window, (B K) rows."""
        if not condition:
            return condition
        fields = {k: self._of_windows(k, v, rows, tiling) for k, v in condition.items()}
        return Condition(fields, {k: m[rows] for k, m in condition.present.items()})

    def _of_windows(self, name: str, value: Any, rows: Tensor, tiling: Tiling) -> Any:
        if name in self.grids:
            if value.ndim != 4:
                raise ValueError(f"{name}: expected a grid (B, h, w, E), got shape {tuple(value.shape)}")
            nodes = torch.tensor(value.shape[1:3], device=value.device)
            scale = nodes / torch.tensor(self.canvas, device=value.device)
            places = (tiling.centres.to(value.device) + 0.5) * scale - 0.5  # nodes are cells' middles
            return slerp_grid(value, places).flatten(0, 1)
        on_canvas = name != "text" and isinstance(value, Tensor)
        if on_canvas and value.ndim > 2 and tuple(value.shape[2:]) == self.canvas:
            return tiling.cut(value).flatten(0, 1)
        return Condition({name: value}).rows(rows)[name]

    def _part(
        self, denoiser: Denoiser, windows: Tensor, t: Time, condition: Condition | None, index: Tensor
    ) -> Posterior:
        times = t[index] if isinstance(t, Tensor) and t.ndim else t
        return denoiser(windows[index], times, None if condition is None else condition.rows(index), None)
