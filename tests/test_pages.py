"""The Python of the pages in ``docs`` runs as it stands, in a shorter time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from onceforall.job.nets import net_flags
from onceforall.supernets.spec import MBConvSpec
from onceforall.supernets.weights import spec_from_json

DOCS = Path(__file__).parents[1] / "docs"
SHORTER = {'budget="2m"': 'settings={"train.epochs": 2, "latency.budget_s": 2}'}


def run_page(name: str) -> dict[str, object]:
    """Run all Python blocks of a page one after the other; return the names that they leave."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        exec(compile(block, name, "exec"), names)
    return names


def test_from_python_and_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names = run_page("python.md")
    assert names["card"].macs <= 400_000  # type: ignore[attr-defined]
    assert (tmp_path / "runs/own-models/small/model.onnx").is_file()
    (table,) = (tmp_path / "runs/digits/latency").glob("*.json")
    for device in ("phone", "laptop"):
        shutil.copy(table, f"{device}.json")
    names = run_page("latency.md")
    assert names["best"].limits == {"latency_ms@phone": 20, "latency_ms@laptop": 5}  # type: ignore[attr-defined]


def test_coming_from_the_released_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("coming-from-ofa.md")
    assert names["config"]["name"] == "MobileNetV3"  # type: ignore[index]


def test_own_stage_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("stage-tables.md")
    (table,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "stage-tables.md").read_text(), re.DOTALL)
    Path("mynet.yaml").write_text(table)
    (family, value) = net_flags("mynet.yaml")
    assert family == "supernet.family=table"
    spec = spec_from_json(yaml.safe_load(value.partition("=")[2]))
    assert isinstance(spec, MBConvSpec)
    assert [stage.block for stage in spec.stages] == ["residual", "fused_mbconv", "mbconv"]


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names = run_page("own-network.md")
    assert names["net"].space.size > 1e6  # type: ignore[attr-defined]


def test_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("search.md")
    assert names["best"].costs["macs"] <= 4e6  # type: ignore[attr-defined]


def test_the_reference_is_what_the_code_says() -> None:
    check = [sys.executable, str(DOCS / "reference.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["settings", "files"])
def test_nothing_of_the_reference_is_without_a_word(name: str) -> None:
    for line in (DOCS / "reference" / f"{name}.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        assert not line.startswith("| `") or cells[2], line


def test_every_page_with_python_is_run() -> None:
    with_python = {page.name for page in DOCS.glob("*.md") if "```python" in page.read_text()}
    source = Path(__file__).read_text()
    assert with_python == set(re.findall(r'run_page\("([^"]+)"\)', source))
