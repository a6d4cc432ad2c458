"""The code of ``docs/python.md`` runs as it stands, in a shorter time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        code = block.replace('budget="2m"', 'settings={"train.epochs": 2, "latency.budget_s": 2}')
        exec(compile(code, str(PAGE), "exec"), names)
    assert names["card"].macs <= 400_000  # type: ignore[attr-defined]
    assert (tmp_path / "runs/own-models/small/model.onnx").is_file()
