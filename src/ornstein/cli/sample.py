"""`ornstein sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .application import app, examples

if TYPE_CHECKING:
    from ornstein.core import Solver

__all__ = ["GRIDS", "SOLVERS", "sample", "solver_named"]

SOLVERS = (
    "dpm++", "dpm++3m", "unipc", "deis", "adams", "dpm", "ddim", "heun", "rk4", "euler", "evodiff",
    "ddpm", "ancestral", "stochastic", "sde-dpm++", "sa", "euler-maruyama",
)  # fmt: skip
GRIDS = ("log-snr", "karras", "uniform")


@app.command(
    epilog=examples(
        ("ornstein sample digits --label 7", "sixteen sevens, in ten steps"),
        ("ornstein sample digits --label 0,1,2 --guidance 2 --seed 1 --out three.png", "one of each"),
        (
            "ornstein sample digits --steps 50 --solver stochastic --stochasticity 0.5",
            "between ODE and ancestral",
        ),
        ("ornstein sample words -n 100 --steps 8 --out words.txt", "discrete: ancestral steps"),
        ("ornstein sample digits-joint --given label=3 --out threes.npz", "one leaf of a tree state held"),
        (
            'ornstein sample scenes "a red circle left of two blue squares" --steps 15 --out out.png',
            "pictures from words",
        ),
        notes="[bold]Solvers[/bold] Without --solver a model that knows its data's Gaussian fit gets the most accurate "
        "sampler for that many calls, others what suits their process; discrete leaves always take ancestral steps. "
        "dpm++ is DPM-Solver++(2M); ddpm and ancestral are one. dpm and heun call the network twice a step, rk4 four "
        "times. The last six draw noise.",
    )
)
def sample(
    model: Annotated[
        str, typer.Argument(help="A model that ships, a run or model folder, or a hub id owner/name.")
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to draw, for models that read words; several take turns.", show_default=False
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Samples; 16, or one for each label or prompt.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Rows of the grid.")] = 10,
    solver: Annotated[str | None, typer.Option(help=f"{', '.join(SOLVERS)}.")] = None,
    eta: Annotated[float | None, typer.Option(help="Of ddim: 0 deterministic, 1 ancestral.")] = None,
    stochasticity: Annotated[
        float | None, typer.Option(help="Of stochastic: 0 follows the ODE, 1 is ancestral.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help=f"{', '.join(GRIDS)}.")] = None,
    label: Annotated[str | None, typer.Option(help="A class for all, or one each: 0,1,2.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Scale of classifier-free guidance; 1 is none. With a prompt, what the model's card says, and 2 for "
            "your own run that learned to go without prompts."
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LEAF=VALUE", help="A leaf of a tree state that is known: a number, or a .npy file."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Sample i of a seed is the same in any batch.")] = 0,
    weights: Annotated[str, typer.Option(help="ema or raw.")] = "ema",
    out: Annotated[
        Path | None,
        typer.Option(help=".png, .npy, .npz, .txt, or a folder. Pictures: samples.png; words: the screen."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Draw samples from a model and write them as pictures, arrays or text."""
    from ornstein.zoo import guidance_of, load

    from .draw import Draw
    from .results import Results

    chosen = solver_named(solver, eta, stochasticity)
    labels, known = _labels(label, n), _given(given or [])
    each = labels if isinstance(labels, list) else prompts if prompts and len(prompts) > 1 else [None] * 16
    count = n or len(each)
    _check_prompts(prompts or [], count)
    fields: dict[str, Any] = {} if labels is None else {"label": labels}
    if prompts:
        fields["text"] = [prompts[i % len(prompts)] for i in range(count)]
        guidance = guidance_of(model) if guidance is None else guidance
    denoiser = load(model, weights=weights)
    results = Results(denoiser, model, out, force)
    if guidance is not None:
        from ornstein.guides import ClassifierFree

        denoiser = ClassifierFree(guidance)(denoiser)
    draw = Draw(denoiser, steps, chosen, grid, seed)
    results.write(draw(count, fields, known), labels)
    from .screen import say

    guided = "" if guidance is None else f" at guidance {guidance:g}"
    told = f", of {', '.join(map(repr, prompts))}" if prompts else ""
    say(f"{count} sample{'s' * (count > 1)} in {draw.calls} network calls{guided}{told}{results.where()}")


def solver_named(
    name: str | None, eta: float | None = None, stochasticity: float | None = None
) -> Solver | None:
    """The solver of that name on the command line; None for what suits the process.

    Raises:
        ValueError: no such solver (with the nearest), or a number that it does not have.
    """
    from ornstein import solvers
    from ornstein.core import suggest

    name = name or ("ddim" if eta is not None else "stochastic" if stochasticity is not None else None)
    if name is not None and name not in SOLVERS:
        raise ValueError(suggest(name, SOLVERS, "--solver"))
    for option, value, owner in (("--eta", eta, "ddim"), ("--stochasticity", stochasticity, "stochastic")):
        if value is not None and name != owner:
            raise ValueError(f"{option}: belongs to --solver {owner}, got --solver {name}")
    makers = {
        "dpm++": lambda: solvers.DPMSolverPP(order=2),
        "ddim": lambda: solvers.DDIM(eta or 0.0),
        "ddpm": solvers.Ancestral,
        "ancestral": solvers.Ancestral,
        "stochastic": lambda: solvers.Stochastic(1.0 if stochasticity is None else stochasticity),
        "heun": solvers.Heun,
        "euler": solvers.Euler,
        "rk4": solvers.RungeKutta4,
        "dpm++3m": lambda: solvers.DPMSolverPP(order=3),
        "unipc": solvers.UniPC,
        "deis": solvers.DEIS,
        "adams": solvers.ExponentialAdams,
        "dpm": solvers.DPMSolver,
        "evodiff": solvers.EVODiff,
        "sde-dpm++": solvers.SDEDPMSolverPP,
        "sa": solvers.SASolver,
        "euler-maruyama": solvers.EulerMaruyama,
    }
    return None if name is None else makers[name]()


def _labels(text: str | None, n: int | None) -> int | list[int] | None:
    if text is None:
        return None
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--label: expected a class number, or several as 0,1,2; got {text!r}") from error
    if len(found) > 1 and n not in (None, len(found)):
        raise ValueError(f"--label: {len(found)} labels given for {n} samples; give one, or leave -n out")
    return found if len(found) > 1 else found[0]


def _check_prompts(prompts: list[str], count: int) -> None:
    from .screen import say

    if count < len(prompts):
        raise ValueError(
            f"-n: {len(prompts)} prompts given for {count} samples; give at least {len(prompts)}, and quote a prompt "
            "of several words"
        )
    if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
        whole = " ".join(prompts)
        say(
            f"{len(prompts)} prompts of one word each; quote a prompt of several words: {whole!r}",
            stderr=True,
        )


def _given(words: list[str]) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not name or not sign:
            raise ValueError(f"--given: expected LEAF=VALUE such as label=3, got {word!r}")
        value = torch.as_tensor(_value(text, word))
        found[name] = value[0] if value.shape == (1,) else value
    return found


def _value(text: str, word: str) -> Any:
    import numpy as np

    if text.endswith(".npy"):
        try:
            return np.load(text, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"--given: {text!r} cannot be read: {error}") from error
    try:
        return [int(part) if part.lstrip("-").isdigit() else float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--given: expected numbers or a .npy file, got {word!r}") from error
