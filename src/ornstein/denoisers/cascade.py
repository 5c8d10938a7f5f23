"""Two stages as one model: a codec shows what a code stands for, and a denoiser refines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Denoiser, Posterior, Step, Time, Tree

from .analytic import MixtureDenoiser

__all__ = ["Cascade", "code_mixture"]


class Cascade(Denoiser):
    """A denoiser given an image, told by a code what that image is (DiffuseVAE, Pandey et al. 2022, 2201.00308):

        x_hat = decode(code),        x ~ refiner given x_hat

    `orn.sample(model, n, code=z)` refines the images of codes z, drawn from any prior: `torch.randn`, an exact
    mixture (`code_mixture`), or a small diffusion model of codes. The image is decoded once a run.

    Args:
        refiner: reads `field`, or its process does: `networks.Concatenated` (the paper's Form 1), `processes.Shifted`
            (Form 2).
        codec: decodes codes, (B, k) to data.
        field: the condition field.

    Raises:
        ValueError: a refiner that does not read the field.
    """

    def __init__(self, refiner: Denoiser, codec: Any, field: str = "anchor") -> None:
        super().__init__()
        read = refiner.fields | refiner.process.fields
        if field not in read:
            raise ValueError(f"field: the refiner does not read {field!r}; it reads {sorted(read)}")
        self.refiner, self.codec, self.field = refiner, codec, field
        self.process, self.estimates, self.shape = refiner.process, refiner.estimates, refiner.shape
        self.fields = refiner.fields | {"code", field}

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The refiner's."""
        return self.refiner(x, t, condition, step)

    def many(
        self, x: Tree, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """The refiner's, in one network call where it can."""
        return self.refiner.many(x, t, conditions, step)

    def prepare(self, condition: Condition) -> Condition:
        """Decode the codes."""
        if "code" in condition:
            shown, rest = self.codec.decode(condition["code"]), condition.without("code")
            present = condition.present["code"]
            condition = Condition({**rest, self.field: shown}, {**rest.present, self.field: present})
        return self.refiner.prepare(condition)

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The refiner's."""
        return self.refiner.tokenise(name, words)


def code_mixture(
    codes: Tensor, process: AffineProcess, components: int = 10, seed: int = 0
) -> MixtureDenoiser:
    """A Gaussian mixture fitted to codes by expectation maximisation, as an exact model of them: `.sample_data(n)`, or
    any sampler. The prior "Ex-PDE" of DiffuseVAE (2201.00308), whose script has ten components.

    Args:
        codes: (N, k), of the training data; draws of q(z | x), so that their spread is the prior's.
        process: affine, of the denoiser that is returned.
        components: at least 1; with 1 it is the Gaussian of the codes' mean and covariance.
        seed: of where the fit begins.
    """
    from sklearn.mixture import GaussianMixture

    fit = GaussianMixture(components, covariance_type="full", random_state=seed).fit(codes.double().numpy())
    weights, means, covariances = (
        torch.from_numpy(v).to(codes.dtype) for v in (fit.weights_, fit.means_, fit.covariances_)
    )
    return MixtureDenoiser(weights, means, covariances, process)
