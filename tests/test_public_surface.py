"""The names and options that users rely on are pinned; the README's code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

import onceforall
from onceforall.cli.app import app

ROOT = Path(__file__).parents[1]

NAMES = [
    "Accuracy",
    "Arch",
    "Blueprint",
    "ElasticChoices",
    "Encoding",
    "Graph",
    "GraphNet",
    "GraphSupernet",
    "OFANet",
    "SearchSpace",
    "StaticNet",
    "Supernet",
    "__version__",
    "build",
    "compile_costs",
    "count_macs",
    "count_params",
    "elastic",
    "elasticize",
    "evaluate",
    "load_model",
    "load_specialized",
    "load_supernet",
    "measure_latency",
    "open_dataset",
    "peak_activation_bytes",
    "recalibrate_bn",
    "run",
    "ship",
    "specialize",
    "train",
]
VERBS = {
    "baseline",
    "choose",
    "compare",
    "data",
    "eval",
    "export",
    "finetune",
    "inspect",
    "latency",
    "predictor",
    "report",
    "run",
    "search",
    "specialize",
    "train",
    "verify",
    "zoo",
}


def test_the_public_names_are_these_and_resolve() -> None:
    assert onceforall.__all__ == NAMES == sorted(NAMES)
    for name in NAMES:
        assert getattr(onceforall, name) is not None
    assert set(NAMES) <= set(dir(onceforall))


def test_names_of_the_design_are_there() -> None:
    space = onceforall.load_supernet("ofa_mbv3_d234_e346_k357_w1.0", weights=None).space
    arch = space.uniform(kernel_size=5, expand_ratio=4, depth=3, resolution=160)
    published = arch.to_published()
    assert space.from_published(published, resolution=160) == arch
    assert space.from_published({"ks": 5, "e": 4, "d": 3}, resolution=160) == arch
    assert callable(onceforall.search.evolve) and callable(onceforall.search.nsga2)


def test_the_verbs_are_these_and_each_shows_an_example() -> None:
    groups = {group.name for group in app.registered_groups}
    commands = {command.name: command.callback for command in app.registered_commands}
    assert groups | set(commands) == VERBS
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            commands[f"{group.name} {command.name}"] = command.callback
    for name, function in commands.items():
        assert f"Example:  ofa {name}" in (function.__doc__ or ""), name


def test_importing_the_pure_layers_loads_no_heavy_package() -> None:
    code = (
        "import sys, onceforall.space, onceforall.blueprint, onceforall.cli.app; "
        "print([m for m in ('torch', 'numpy', 'onnxruntime', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_code_in_the_readme_runs(capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})
    assert "torch.Size([16, 1000])" in capsys.readouterr().out
