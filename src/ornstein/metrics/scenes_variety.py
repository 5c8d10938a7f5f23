"""How different the pictures of one prompt are, and whether pictures of one identity are alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .estimate import Estimate
from .scenes import mean_estimate

__all__ = ["IdentityScore", "diversity", "identity_score"]


def diversity(images: Tensor, prompts: Tensor) -> Tensor:
    """Mean distance (N,) of each image to the others of its prompt, root mean square over pixels; NaN if alone.

    Compare with the same number for rendered scenes of the same prompts: a model that always draws the same picture
    has 0, and noise has more than it should.

    Args:
        images: (N, ...).
        prompts: (N,) class of each image's prompt.

    Raises:
        ValueError: not one prompt an image.
    """
    if prompts.shape != (len(images),):
        raise ValueError(f"prompts: expected shape ({len(images)},), got {tuple(prompts.shape)}")
    flat, prompts = images.detach().flatten(1).to("cpu", torch.float64), prompts.cpu()
    out = torch.full((len(flat),), torch.nan, dtype=torch.float64)
    for prompt in prompts.unique():
        rows = (prompts == prompt).nonzero()[:, 0]
        distance = torch.cdist(flat[rows], flat[rows], compute_mode="donot_use_mm_for_euclid_dist")
        out[rows] = distance.sum(1) / (len(rows) - 1)
    return out / flat.shape[1] ** 0.5


@dataclass(frozen=True)
class IdentityScore:
    """How well images keep an identity.

    Attributes:
        consistency: (N,) 1 - (d_within - d_floor) / (d_between - d_floor), 1 as for two true pictures of one
            identity, 0 as for pictures of two.
        within: (N,) distance d_within of each image's embedding to that of its reference.
        between: (N,) mean distance d_between to the references of other identities.
        floor: d_floor, the mean distance of two true pictures of one identity.
        recalled: (N,) whether the own reference is the nearest of all.
        chance: recall of embeddings that know nothing, one over the number of references.
    """

    consistency: Tensor
    within: Tensor
    between: Tensor
    floor: float
    recalled: Tensor
    chance: float

    def estimates(self, resamples: int = 500, seed: int = 0) -> dict[str, Estimate]:
        """Means of consistency and recall with their 95 % intervals."""
        return {
            name: mean_estimate(getattr(self, name), resamples, seed) for name in ("consistency", "recalled")
        }


def identity_score(
    embed: Callable[[Tensor], Tensor],
    images: Tensor,
    identities: Tensor,
    references: Tensor,
    others: Tensor,
) -> IdentityScore:
    """Whether images show the identities of their references.

    Args:
        embed: from images (B, ...) to identity vectors (B, D), such as a regressor of the true ones.
        images: (N, ...) to judge.
        identities: (N,) number of each image's reference.
        references: (M, ...) true pictures, one an identity; the more there are, the harder recall is.
        others: (M, ...) second true pictures of the same identities, in other poses and places: they give the floor.

    Raises:
        ValueError: not one identity an image, fewer than two references, or other pictures than references.
    """
    if identities.shape != (len(images),) or len(references) < 2 or len(references) != len(others):
        raise ValueError(
            f"expected one identity an image and two references or more with as many other pictures, got "
            f"{len(images)} images, identities {tuple(identities.shape)}, {len(references)} references, "
            f"{len(others)} others"
        )
    with torch.no_grad():
        ours, known, again = (embed(v).to("cpu", torch.float64) for v in (images, references, others))
    identities = identities.cpu()
    distance = torch.cdist(ours, known, compute_mode="donot_use_mm_for_euclid_dist")
    within = distance.gather(1, identities[:, None])[:, 0]
    between = (distance.sum(1) - within) / (len(known) - 1)
    floor = float(torch.linalg.vector_norm(known - again, dim=1).mean())
    consistency = 1 - (within - floor) / (between - floor)
    recalled = (distance.argmin(1) == identities).double()
    return IdentityScore(consistency, within, between, floor, recalled, 1 / len(known))
