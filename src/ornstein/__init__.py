"""ornstein: stochastic processes that are simulated, learned, reversed, steered and inspected.

import ornstein as orn
model = orn.load("digits")
images = orn.sample(model, 16, steps=10, seed=0, label=7)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are loaded when first asked for, so that `import ornstein` costs no more than torch.
_ROOMS = (
    "adapters",
    "alignment",
    "conditions",
    "core",
    "data",
    "denoisers",
    "diagnostics",
    "guides",
    "interop",
    "metrics",
    "networks",
    "objectives",
    "papers",
    "processes",
    "rewards",
    "solvers",
    "spaces",
    "systems",
    "training",
    "zoo",
)
_NAMES = {
    "Condition": "core",
    "Keyed": "core",
    "Sampler": "core",
    "TimeGrid": "core",
    "fit": "training",
    "load": "zoo",
    "sample": "solvers",
    "simulate": "core",
}

__all__ = [*_NAMES, "__version__"]

if TYPE_CHECKING:
    from .core import Condition, Keyed, Sampler, TimeGrid, simulate
    from .solvers import sample
    from .training import fit
    from .zoo import load


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"ornstein.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"ornstein.{name}")
    raise AttributeError(f"module 'ornstein' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
