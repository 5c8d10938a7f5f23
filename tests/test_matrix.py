"""The composition matrix: every process with every solver with every guide, on exact denoisers.

A pair that works must give finite samples whose batch is its rows one by one; one that cannot work must be
refused with a clear error before the first network call, and is listed here.
"""

from __future__ import annotations

import pytest
import torch

from ornstein.alignment import BestOf
from ornstein.core import Keyed, Leafwise, Sampler, TimeGrid
from ornstein.guides import Clamp, ClassifierFree, ClassifierGradient, RewardGradient, Superposition
from ornstein.processes import RectifiedFlow
from ornstein.rewards import PosteriorValue
from ornstein.solvers import (
    DDIM,
    Ancestral,
    DPMSolverPP,
    Euler,
    Forward,
    Heun,
    Hold,
    Renoise,
    Stochastic,
    recommended,
)

from .exact import AFFINE, DISCRETE, joint, mixture, table

PROCESSES = {
    **{name: lambda make=make: mixture(make()) for name, make in AFFINE.items()},
    **{name: lambda make=make: table(make(3)) for name, make in DISCRETE.items()},
    "tree-absorbing": lambda: joint(RectifiedFlow(), DISCRETE["absorbing"](2)),
    "tree-uniform": lambda: joint(RectifiedFlow(), DISCRETE["uniform"](2)),
}
SOLVERS = {
    "ddim": DDIM,
    "ddim-half": lambda: DDIM(0.5),
    "ancestral": Ancestral,
    "stochastic": lambda: Stochastic(0.5),
    "euler": Euler,
    "heun": Heun,
    "dpm++2m": DPMSolverPP,
    "renoise": Renoise,
    "travel": None,  # down, up by the kernel, down
    "recommended": None,
}
GUIDES = (
    "none",
    "classifier-free",
    "classifier",
    "reward",
    "clamp",
    "clamp-noised",
    "superposition",
    "best-of",
)

AFFINE_ONLY = {"ddim", "ddim-half", "stochastic", "euler", "heun", "dpm++2m"}


def refused(process: str, solver: str, guide: str) -> str | None:
    """Why a triple cannot work: the pattern its error must match."""
    affine, tree = process in AFFINE, process.startswith("tree")
    if guide in ("classifier", "reward") and not affine:
        return "needs an affine process, whose states have gradients"
    if guide == "classifier-free" and not affine:
        return "reads no condition"  # the exact tables and trees here are unconditional
    if not affine and solver in AFFINE_ONLY:
        return "needs an affine process, got (Absorbing|UniformNoise)"
    if (
        guide == "superposition"
        and solver != "ancestral"
        and not (solver == "recommended" and not affine and not tree)
    ):
        return "densities of ancestral steps|densities are lost"
    return None


def _guided(name: str, model):
    tree = isinstance(model.shape, dict)
    mask = {"label": torch.tensor(True)} if tree else torch.tensor([True, False, False])
    values = {"label": torch.tensor(1)} if tree else torch.tensor([1, 0, 0])
    guides = {
        "classifier-free": lambda: ClassifierFree(1.5),
        "classifier": lambda: ClassifierGradient(lambda x, t, c: -(x**2).flatten(1).sum(1) * 1e-3),
        "reward": lambda: RewardGradient(lambda x, c: 0.1 * x.flatten(1).sum(1)),
        "clamp": lambda: Clamp(mask, values),
        "clamp-noised": lambda: Clamp(mask, values, noised=True),
        "superposition": lambda: Superposition([model], [0.3, 0.7]),
    }
    return guides[name]()(model) if name in guides else model


def _sampler(name: str, model) -> Sampler:
    if name == "recommended":
        return Sampler(recommended(model.process), 4)
    if name != "travel":
        return Sampler(SOLVERS[name](), 4)
    down = TimeGrid.through([1.0, 0.7, 0.5])
    up = TimeGrid.through([0.5, 0.7], solver=Forward())
    return Sampler(Ancestral(), grid=down + up + TimeGrid.through([0.7, 0.3, 0.0]))


def _run(process: str, solver: str, guide: str, n, seed):
    model = PROCESSES[process]()
    guided, sampler = _guided(guide, model), _sampler(solver, model)
    fields = {"label": [0, 1, 1][: n if isinstance(n, int) else 3]} if guided.fields else {}
    if guide == "best-of":

        def reward(x, c):
            return sum(
                v.double().flatten(1).sum(1) if v.ndim > 1 else v.double()
                for v in (x.values() if isinstance(x, dict) else [x])
            )

        return BestOf(PosteriorValue(reward, model), 3)(sampler, guided, n, seed=seed, **fields)
    return sampler(guided, n, seed=seed, **fields)


def _leaves(x):
    return list(x.values()) if isinstance(x, dict) else [x]


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_with_every_solver_with_every_guide(process, solver, guide):
    why = refused(process, solver, guide)
    if why:
        with pytest.raises(ValueError, match=why):
            _run(process, solver, guide, 3, 0)
        return
    batch = _leaves(_run(process, solver, guide, 3, 0))
    assert all(torch.isfinite(leaf.double()).all() for leaf in batch)
    if guide in ("clamp", "clamp-noised"):
        known = batch[-1] if len(batch) > 1 else batch[0][:, 0]
        assert (known == 1).all()
    last = _leaves(_alone(process, solver, guide))
    for whole, one in zip(batch, last, strict=True):
        torch.testing.assert_close(whole[:1], one, rtol=1e-9, atol=1e-9)


def _alone(process: str, solver: str, guide: str):
    return _run(process, solver, guide, 1, Keyed(0, torch.tensor([0])))


def test_every_solver_and_guide_of_the_library_is_in_the_matrix():
    from ornstein import guides, solvers

    covered = {"DDIM", "Ancestral", "Stochastic", "Euler", "Heun", "DPMSolverPP", "Renoise", "Forward"}
    besides = {"DDPM", "Hold", "Leafwise", "TimeGrid", "recommended", "sample"}
    assert set(solvers.__all__) == covered | besides
    assert set(guides.__all__) == {
        "Clamp", "ClassifierFree", "ClassifierGradient", "RewardGradient", "Superposition",
    }  # fmt: skip
    assert Hold and Leafwise
