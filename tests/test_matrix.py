"""The composition matrix: every process with every solver with every guide, on exact denoisers.

A pair that works must give finite samples whose batch is its rows one by one; one that cannot work must be
refused with a clear error before the first network call, and is listed here.
"""

from __future__ import annotations

import pytest
import torch

from ornstein.alignment import BestOf
from ornstein.core import Guide, Keyed, Leafwise, Sampler, Solver, TimeGrid
from ornstein.denoisers import (
    Converted,
    Gauged,
    GaugeField,
    GaussianFit,
    InterpolantMixture,
    MixtureDenoiser,
)
from ornstein.guides import (
    AdaptiveGuidance,
    Clamp,
    ClassifierFree,
    ClassifierGradient,
    RewardGradient,
    Superposition,
    Tiled,
)
from ornstein.processes import (
    BrownianBridge,
    GaussianMixture,
    Interpolant,
    MeanReverting,
    RectifiedFlow,
    Shifted,
    SubVariancePreserving,
    VarianceExploding,
)
from ornstein.rewards import PosteriorValue
from ornstein.solvers import (
    DDIM,
    DEIS,
    LML,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    EVODiff,
    ExponentialAdams,
    Forward,
    FreeDiffusion,
    GaussianExponential,
    Heun,
    Hold,
    Langevin,
    MRSampler,
    Renoise,
    ReverseDiffusion,
    RungeKutta4,
    SASolver,
    SDEDPMSolverPP,
    Stochastic,
    UniPC,
    churned,
    predictor_corrector,
    recommended,
)

from .exact import AFFINE, DISCRETE, joint, mixture, table

FIT = GaussianFit(
    torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:2], torch.ones(2), 0.5
)


def interpolant() -> InterpolantMixture:
    """Between two mixtures, the far end drawn and unknown."""
    near, far = (
        GaussianMixture([0.4, 0.6], torch.randn(2, 3, generator=torch.Generator().manual_seed(k)), 0.3)
        for k in (0, 1)
    )
    return InterpolantMixture(near, Interpolant(base=far))


ANCHORED = {
    "mean-reverting": lambda: MeanReverting(),
    "bridge": lambda: BrownianBridge(),
    "shifted": lambda: Shifted(SubVariancePreserving()),
}
TURNS = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.5], [0.0, -0.5, 0.0]], dtype=torch.float64)
FURTHER = {
    **{name: lambda make=make: mixture(make()) for name, make in ANCHORED.items()},
    "sub-vp": lambda: mixture(SubVariancePreserving()),
    "converted": lambda: Converted(mixture(RectifiedFlow()), VarianceExploding(0.01, 50.0)),
    "gauged": lambda: Gauged(mixture(RectifiedFlow()), GaugeField(mixture(RectifiedFlow()), TURNS), 0.1),
}
PROCESSES = {
    **{name: lambda make=make: mixture(make()) for name, make in AFFINE.items()},
    **FURTHER,
    "interpolant": interpolant,
    **{name: lambda make=make: table(make(3)) for name, make in DISCRETE.items()},
    "tree-absorbing": lambda: joint(RectifiedFlow(), DISCRETE["absorbing"](2)),
    "tree-uniform": lambda: joint(RectifiedFlow(), DISCRETE["uniform"](2)),
}
CONTINUOUS = {*AFFINE, *FURTHER, "interpolant"}
SOLVERS = {
    "ddim": DDIM,
    "ddim-half": lambda: DDIM(0.5),
    "ancestral": Ancestral,
    "stochastic": lambda: Stochastic(0.5),
    "euler": Euler,
    "heun": Heun,
    "rk4": RungeKutta4,
    "dpm-solver-2": lambda: DPMSolver(2),
    "dpm-solver-3": lambda: DPMSolver(3),
    "dpm++2m": DPMSolverPP,
    "dpm++3m": lambda: DPMSolverPP(3),
    "adams": ExponentialAdams,
    "unipc": UniPC,
    "deis": DEIS,
    "gaussian": lambda: GaussianExponential(FIT, 3),
    "euler-maruyama": EulerMaruyama,
    "reverse-diffusion": ReverseDiffusion,
    "sde-dpm++2": SDEDPMSolverPP,
    "sde-dpm++3": lambda: SDEDPMSolverPP(3),
    "sa": SASolver,
    "mr": MRSampler,
    "evodiff": EVODiff,
    "lml": lambda: LML(DPMSolverPP()),
    "free-diffusion": lambda: FreeDiffusion(0.5),
    "renoise": Renoise,
    "langevin": None,  # ancestral steps, each corrected
    "churn": None,  # Heun, stirred by the kernel
    "travel": None,  # down, up by the kernel, down
    "recommended": None,
}
GUIDES = (
    "none",
    "classifier-free",
    "adaptive",
    "classifier",
    "reward",
    "clamp",
    "clamp-noised",
    "superposition",
    "best-of",
)

ANY_PROCESS = {"ancestral", "renoise", "travel", "recommended"}
DISCRETE_NAMES = "Absorbing|UniformNoise"


def refused(process: str, solver: str, guide: str) -> str | None:
    """Why a triple cannot work: the pattern its error must match."""
    affine, tree = process in CONTINUOUS, process.startswith("tree")
    if guide in ("classifier", "reward") and not affine:
        return "needs an affine process, whose states have gradients"
    if guide in ("classifier", "reward") and process == "interpolant":
        return "is latent"
    if guide in ("classifier-free", "adaptive") and (not affine or process == "interpolant"):
        return "reads no condition|predicted noises"  # the exact tables and trees here are unconditional
    if not affine and solver not in ANY_PROCESS:
        return f"affine process, got ({DISCRETE_NAMES}|ProductProcess)|log-SNR"
    if process == "interpolant":
        if solver not in {*ANY_PROCESS, "stochastic", "ddim-half", "free-diffusion"}:
            return "latent|no deterministic step|log-SNR"
        if solver == "travel" or guide == "clamp-noised":
            return "no stochastic differential equation|needs its other end"
    if process == "bridge" and solver == "gaussian":
        return "ends in a point"
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
        "adaptive": lambda: AdaptiveGuidance(1.5, 0.9),
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
    if name == "langevin":
        return Sampler(Ancestral(), grid=predictor_corrector(model.process.grid(None, 4), Langevin()))
    if name == "churn":
        return Sampler(Heun(), grid=churned(model.process.grid(None, 4), model.process))
    if name != "travel":
        return Sampler(SOLVERS[name](), 4)
    down = TimeGrid.through([1.0, 0.7, 0.5])
    up = TimeGrid.through([0.5, 0.7], solver=Forward())
    return Sampler(Ancestral(), grid=down + up + TimeGrid.through([0.7, 0.3, 0.0]))


def _run(process: str, solver: str, guide: str, n, seed):
    model = PROCESSES[process]()
    guided, sampler = _guided(guide, model), _sampler(solver, model)
    count = n if isinstance(n, int) else 3
    fields = {"label": [0, 1, 1][:count]} if "label" in guided.fields else {}
    if process in ANCHORED:
        fields["anchor"] = torch.tensor([[0.5, -0.5, 1.0], [1.0, 0.0, 0.0], [0.0, 2.0, 1.0]])[:count]
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


@pytest.mark.parametrize(
    "solver", [name for name in SOLVERS if name != "gaussian"]
)  # whose fit is of vectors
def test_a_canvas_of_one_window_is_the_model_under_every_solver(solver):
    means = torch.tensor([[[0.0, 0.0, 0.0]], [[2.0, 1.0, 0.0]]])
    model = MixtureDenoiser([0.4, 0.6], means, 0.3, RectifiedFlow())
    sampler = _sampler(solver, model)
    tiled = Tiled((3,), stride=3)(model)
    torch.testing.assert_close(sampler(tiled, 2, seed=0), sampler(model, 2, seed=0), rtol=1e-9, atol=1e-9)
    assert sampler(Tiled((5,), stride=1)(model), 2, seed=0).isfinite().all()


def test_every_solver_and_guide_of_the_library_is_in_the_matrix():
    from ornstein import guides, solvers

    covered = {
        "DDIM", "DEIS", "LML", "Ancestral", "Churn", "DPMSolver", "DPMSolverPP", "EVODiff", "Euler", "EulerMaruyama",
        "ExponentialAdams", "Forward", "FreeDiffusion", "GaussianExponential", "Heun", "Langevin", "MRSampler",
        "Renoise", "ReverseDiffusion", "RungeKutta4", "SASolver", "SDEDPMSolverPP", "Stochastic", "UniPC",
    }  # fmt: skip
    found = {name for name in solvers.__all__ if _is_solver(getattr(solvers, name))}
    # an alias; two that wait for a leaf; one that needs Var(x_0 | x_t); one that needs a solver to go on from it
    # one whose denoiser is blockwise (tests/denoisers/test_blockwise.py)
    waiting = {"DDPM", "Hold", "Leafwise", "PreconditionedLangevin", "Teleport", "OneBlock"}
    assert found == covered | waiting
    # two need one choice for each row of their own grid, and one a joint model (tests/guides, tests/adapters)
    assert {name for name in guides.__all__ if _is_guide(getattr(guides, name))} == {
        "AdaptiveGuidance", "Clamp", "ClassifierFree", "ClassifierGradient", "RewardGradient", "Superposition",
        "GuidancePolicy", "LinearAdaptiveGuidance", "JointSeparate", "Tiled",
    }  # fmt: skip
    assert Hold and Leafwise


def _is_solver(thing) -> bool:
    return isinstance(thing, type) and issubclass(thing, Solver)


def _is_guide(thing) -> bool:
    return isinstance(thing, type) and issubclass(thing, Guide)
