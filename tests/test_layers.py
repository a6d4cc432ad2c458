"""The import graph points down, and the folder list is the architecture."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "onceforall"
# Branches of one line do not import each other.
LAYERS = [
    ["errors"],
    ["reading", "terminal"],
    ["files", "records", "versions", "yaml_text"],
    ["arch"],
    ["published_archs"],
    ["genes"],
    ["membership"],
    ["space"],
    ["blueprint", "graph", "arch_files", "grid"],
    ["artifacts"],
    ["encoding", "pareto"],
    ["ops"],
    ["supernets", "data"],
    ["measure"],
    ["predictors", "training", "search"],
    ["deploy", "zoo", "report"],
    ["job"],
    ["cli"],
    ["__main__"],
]
# The modules of the job, each of which imports those before it.
JOB = [
    "clock",
    "sections",
    "outside_nets",
    "config",
    "tasks.inspect_net",
    "machine",
    "transfer",
    "recipes",
    "choose_network",
    "planning",
    "data",
    "preflight",
    "folder",
    "lock",
    "tasks.latency_models",
    "tasks.choice",
    "changed_settings",
    "status",
    "context",
    "weights",
    "teacher",
    "interpolation",
    "start",
    "steps.training_phases",
    "steps.validation",
    "more_epochs",
    "local_ranks",
    "steps.interpolate",
    "steps.train",
    "steps.evaluate",
    "steps.predict",
    "shared_steps",
    "steps.latency",
    "steps.search",
    "tasks.published_search",
    "steps.confirm",
    "steps.prove",
    "steps.finetune",
    "steps.alone",
    "steps.tune",
    "steps.ship",
    "tasks.ship_found",
    "closing_table",
    "tuned_table",
    "tasks.compare",
    "tasks.baseline",
    "tasks.measure_models",
    "tasks.evaluate_any",
    "tasks.ship_published",
    "tasks.export_any",
    "tensorboard",
    "pipeline",
    "nets",
    "run",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
JOB_RANK = {name: rank for rank, name in enumerate(JOB)}
PURE = [
    "errors", "files", "records", "arch", "genes", "space", "blueprint", "graph", "published_archs",
    "grid", "membership",
]  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[tuple[str, ...]]:
    """Return what ``path`` imports, absolute, at any depth."""
    package = ("onceforall", *path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*base, *(node.module or "").split(".")) if node.module else base
            found |= {(*stem, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
    return found


def unit_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        return
    assert unit in RANK, f"{unit} has no layer"
    for name in imported(path):
        if name[0] == "onceforall" and len(name) > 1 and name[1] in RANK and name[1] != unit:
            assert RANK[name[1]] < RANK[unit], f"{unit} imports {'.'.join(name)}"


@pytest.mark.parametrize("path", sorted((ROOT / "job").rglob("*.py")), ids=lambda p: p.stem)
def test_imports_inside_the_job_point_down(path: Path) -> None:
    if path.stem == "__init__":
        return
    own = ".".join(path.relative_to(ROOT / "job").with_suffix("").parts)
    assert own in JOB_RANK, f"{own} has no place"
    for name in imported(path):
        if name[:2] == ("onceforall", "job") and len(name) > 2:
            found = ".".join(name[2:4]) if name[2] in ("steps", "tasks") else name[2]
            assert JOB_RANK[found] < JOB_RANK[own], f"{own} imports {found}"


@pytest.mark.parametrize("unit", PURE)
def test_the_lowest_layer_is_standard_library_only(unit: str) -> None:
    for name in imported(ROOT / f"{unit}.py"):
        assert name[0] in sys.stdlib_module_names or name[0] == "onceforall", name


def test_names_say_what_is_inside() -> None:
    said_nothing = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not [path for path in FILES if path.name in said_nothing]
