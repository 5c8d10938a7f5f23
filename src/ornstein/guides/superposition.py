"""Several models at once, weighted by how likely each makes the trajectory so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ornstein.core import (
    Condition,
    Denoiser,
    Distribution,
    Guide,
    Posterior,
    Step,
    Time,
    Tree,
    average,
    batch_size,
    leaves,
)

__all__ = ["Superposition"]


class Superposition(Guide):
    """The OR of SuperDiff (Skreta et al. 2024, 2412.17762): a mixture of models from their denoisers alone.

    The exact mixture posterior weighs the models by responsibilities w_i q_i(x_t) / sum_j w_j q_j(x_t).
    Bayes' rule

        log q_s(x_s) = log q_t(x_t) + log p(x_s | x_t) - log q(x_t | x_s)

    gives them from the steps alone, since the forward term is the same for all: log q_i gains log p_i(x_s | x_t).
    Exact where the models' reverse kernels are (Gaussian data with `Ancestral("posterior")`), and to first order in
    the step with `Ancestral()`. Steps of another stochasticity reverse a kernel that depends on the model, so the
    weights would not converge, and a point mass has no density: both are refused. All models start from the same
    prior, so the weights are right from the first draw on.

    Args:
        others: denoisers of the same process, in addition to the one that is guided.
        weights: of all models, the guided one first; equal by default.
    """

    remembers = True

    def __init__(self, others: Sequence[Denoiser], weights: Sequence[float] | None = None) -> None:
        self.others = list(others)
        self.fields = frozenset().union(*(other.fields for other in self.others))
        weights = [1.0] * (len(self.others) + 1) if weights is None else list(weights)
        if not self.others or len(weights) != len(self.others) + 1 or min(weights) <= 0:
            raise ValueError(
                f"Superposition: expected at least one other model and {len(self.others) + 1} positive weights"
            )
        self.log_weights = torch.tensor(weights, dtype=torch.float64).log()

    def check(self, denoiser: Denoiser) -> None:
        """All models must be of the same process."""
        for other in self.others:
            if other.estimates != denoiser.estimates:
                raise ValueError(
                    f"others: {type(other).__name__} estimates a {other.estimates}, the guided model a "
                    f"{denoiser.estimates}: their laws cannot be weighed against each other"
                )
            if other.process is not denoiser.process and other.process.spec() != denoiser.process.spec():
                raise ValueError(
                    f"Superposition: the models are of different processes, {denoiser.process.spec()} and "
                    f"{other.process.spec()}"
                )

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """The models' posteriors mixed by their responsibilities so far; without a step, by the prior weights."""
        posteriors = [denoiser(x, t, condition, step), *(d(x, t, condition, step) for d in self.others)]
        if step is None:
            shares = self.log_weights.softmax(0).tolist()
            return average(posteriors, shares)
        if step.solver is not None and not step.solver.reverses:
            raise ValueError(
                f"Superposition reads the densities of ancestral steps; those of {step.solver!r} are not the reversed "
                "process's (a deterministic one is a point mass): use Ancestral()"
            )
        log_q = step.memory.get(self)
        if log_q is None:
            log_q = self.log_weights.expand(batch_size(x), -1)
        step.scratch[self] = log_q, [step.law(p) for p in posteriors]
        responsibilities = log_q.softmax(1)
        mixed = average(posteriors, list(responsibilities.unbind(1)))
        mixed.heads = {**(mixed.heads or {}), "responsibilities": responsibilities}
        return mixed

    def before_draw(self, distribution: Distribution, step: Step) -> Distribution:
        """Refuse rows that ask no posterior, such as noising up: the densities reached are not known."""
        if step.row is not None and not step.row.calls:
            raise ValueError(
                f"Superposition: rows of {step.solver!r} call no model, so densities are lost; leave them out"
            )
        return distribution

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """Add each model's log-probability of the step that was taken."""
        last = all(isinstance(s, float) and s == 0.0 for s in leaves(step.s))
        if self in step.scratch and not last:  # nothing is weighed after the last step, often a point mass
            log_q, laws = step.scratch[self]
            gained = torch.stack([law.log_prob(x) for law in laws], 1)
            step.memory[self] = log_q + gained.to(log_q)
        return x
