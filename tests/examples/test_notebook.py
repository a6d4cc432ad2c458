"""``examples/pictures.ipynb``: ten clean cells, whose code runs as it stands, only shorter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.pages import ROOT
from tests.test_pages import REPLACED

FILE = ROOT / "examples" / "pictures.ipynb"
CELLS: list[dict[str, Any]] = json.loads(FILE.read_text())["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_it_has_ten_cells_without_results() -> None:
    assert len(CELLS) == 10
    for cell in CELLS:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        for link in re.findall(r"\]\(([^)\s]+)\)", source(cell)):
            assert (FILE.parent / link).exists()


def test_it_goes_from_pictures_to_a_chosen_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            text = source(cell)
            for long, short in REPLACED.items():
                text = text.replace(long, short)
            exec(compile(text, f"cell {cell['id']}", "exec"), names)
    assert names["chosen"].latency_ms <= names["limit_ms"]
    assert names["answer"].latency_ms <= names["limit_ms"]
    assert re.search(r"png: digit-\d, \d+%", capsys.readouterr().out)
