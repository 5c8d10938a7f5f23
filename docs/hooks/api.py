"""Make an API page for every room of the library that exists, so that none can be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "src" / "ornstein"
ROOMS = (
    "core processes spaces conditions networks denoisers solvers guides objectives training "
    "rewards alignment distillation adapters diagnostics metrics data zoo interop"
).split()
CORE = (  # in the order in which one would explain it
    "tree space noise distribution condition process posterior denoiser grid solver sampler objective"
).split()


def on_config(config: Any) -> Any:
    """Add the rooms to the navigation."""
    pages = [{f"ornstein.{room}": f"api/{room}.md"} for room in existing_rooms()]
    config.nav.append({"API": ["api/index.md", *pages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each room."""
    for room in existing_rooms():
        files.append(File.generated(config, f"api/{room}.md", content=page(room)))
    return files


def existing_rooms() -> list[str]:
    return [room for room in ROOMS if (PACKAGE / room / "__init__.py").exists()]


def page(room: str) -> str:
    """A room's own docstring, then the public names of each of its modules."""
    name = f"ornstein.{room}"
    modules = [f"::: {name}.{module}\n" for module in modules_of(room)]
    return "\n".join([f"# {name}\n", f"::: {name}", "    options:", HEAD, "", *modules])


HEAD = "      {members: false, show_root_heading: false, show_root_toc_entry: false}"


def modules_of(room: str) -> list[str]:
    found = {path.stem for path in (PACKAGE / room).glob("*.py") if not path.stem.startswith("_")}
    return sorted(found, key=lambda name: (CORE.index(name) if name in CORE else len(CORE), name))
