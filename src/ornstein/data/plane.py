"""Point sets in the plane, drawn anew at any size, with their densities.

The three of Deveney et al. 2023 (2311.15996): `Checkerboard`, `Rings` and `Blobs`, with that paper's sizes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.spec import suggest
from .dataset import Dataset, TensorSplit

__all__ = ["PLANE", "Blobs", "Checkerboard", "Plane", "Rings", "plane"]


class Plane:
    """A law on the plane. `half_width` is half the side of a box that holds all but a sliver of it."""

    half_width: float

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent draws, (n, 2)."""
        raise NotImplementedError

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), -inf outside its support."""
        raise NotImplementedError


class Checkerboard(Plane):
    """Uniform on the eight squares of one colour of a 4 x 4 board of side 6."""

    half_width = 3.5
    cell = 1.5

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """A square, then a place in it."""
        row, column = torch.randint(4, (n,), generator=generator), torch.randint(2, (n,), generator=generator)
        corner = torch.stack([2 * column + row % 2, row], 1)
        return self.cell * (corner + torch.rand(n, 2, generator=generator) - 2)

    def log_density(self, x: Tensor) -> Tensor:
        """-log 18 on the squares."""
        square = (x / self.cell + 2).floor()
        on = (square >= 0).all(1) & (square < 4).all(1) & (square.sum(1) % 2 == 0)
        return torch.where(on, -math.log(8 * self.cell**2), -torch.inf).to(x.dtype)


class Rings(Plane):
    """Two rings of radii 1.3 and 2.8, each a normal radius of standard deviation 0.2 with a uniform angle."""

    half_width = 3.5
    radii, width = (1.3, 2.8), 0.2

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """A ring, a radius and an angle."""
        radius = torch.tensor(self.radii)[torch.randint(2, (n,), generator=generator)]
        radius = radius + self.width * torch.randn(n, generator=generator)
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)

    def log_density(self, x: Tensor) -> Tensor:
        """That of the radius over the circle's length; negative radii have a chance of 4e-11."""
        r = x.norm(dim=1)
        z = (r.unsqueeze(1) - r.new_tensor(self.radii)) / self.width
        mixed = (-0.5 * z**2).logsumexp(1) - math.log(2 * self.width * math.sqrt(2 * math.pi))
        return mixed - (2 * math.pi * r).log()


class Blobs(Plane):
    """Nine round Gaussians on a diagonal lattice: centres 0.65 (2 i, 2 j) with i + j even, at most 2.6 from the middle;
    variance 0.65^2 / 5.
    """

    half_width = 5.5
    variance = 0.65**2 / 5

    @property
    def centres(self) -> Tensor:
        """(9, 2)."""
        unit = [
            (i, j) for i in range(-2, 3) for j in range(-2, 3) if (i + j) % 2 == 0 and abs(i) + abs(j) <= 2
        ]
        return 1.3 * torch.tensor(unit, dtype=torch.get_default_dtype())

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """A blob, then a place in it."""
        middle = self.centres[torch.randint(9, (n,), generator=generator)]
        return middle + self.variance**0.5 * torch.randn(n, 2, generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        """The mixture's."""
        square = torch.cdist(x, self.centres.to(x.dtype)) ** 2
        return (-0.5 * square / self.variance).logsumexp(1) - math.log(9 * 2 * math.pi * self.variance)


PLANE: dict[str, type[Plane]] = {"checkerboard": Checkerboard, "rings": Rings, "blobs": Blobs}


def plane(kind: str = "checkerboard", samples: int = 20_000, seed: int = 0) -> Dataset:
    """A set of points drawn from one of the laws, a tenth of them held out.

    Args:
        kind: "checkerboard", "rings" or "blobs".
        samples: number of points, at least 10.
        seed: of the draw.

    Raises:
        ValueError: unknown kind, or too few samples.
    """
    if kind not in PLANE:
        raise ValueError(suggest(kind, PLANE, "kind"))
    if samples < 10:
        raise ValueError(f"samples: expected at least 10, got {samples}")
    points = PLANE[kind]().sample(samples, torch.Generator().manual_seed(seed))
    held = samples // 10
    return Dataset("plane", TensorSplit(points[held:]), TensorSplit(points[:held]), shape=(2,))
