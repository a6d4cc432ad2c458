"""``ofa latency``, from the command line, on this machine and on one over (a fake) ssh."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from onceforall.cli import _status
from onceforall.cli.measuring import latency
from onceforall.job.tasks import latency_models as devices
from onceforall.measure.latency.fit import LatencyReport
from onceforall.measure.latency.ssh import SSH_VARIABLE
from onceforall.measure.latency.targets import TARGETS
from onceforall.supernets import families
from tests.measure.fake_ssh import fake_ssh, num_calls, without

__all__ = ["fake_ssh"]

pytest.importorskip("onnxruntime")
SPEC = families.small_images(num_classes=5, width_mults=(1.0,), widths=(16, 24))
Ofa = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ofa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ofa:
    """Call the command with a tiny network behind every NET."""
    monkeypatch.setattr(devices, "spec_of", lambda net: SPEC)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ofa", *map(str, arguments)])
        status = _status()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_table_over_ssh_is_built_shown_and_compared(
    ofa: Ofa, fake_ssh: Path, tmp_path: Path
) -> None:
    board, here = tmp_path / "board.json", tmp_path / "here.json"
    build = ("latency", "build", "tiny", "--budget", "2s", "--json")
    status, stdout, stderr = ofa(*build, "--target", "ssh:pi@board", "--out", board)
    assert status == 0, stderr
    built = json.loads(stdout)
    assert built["target"] == "ssh:pi@board" and built["threads"] == 1
    assert built["device"] and built["runtime"].startswith("onnxruntime ")
    assert built["unseen_num_networks"] >= 20
    # What the journal holds is not measured again.
    measured = board.with_suffix(".jsonl").read_text()
    before = num_calls(fake_ssh)
    assert ofa(*build, "--target", "ssh:pi@board", "--out", board)[0] == 0
    added = board.with_suffix(".jsonl").read_text().removeprefix(measured)
    assert '"block"' not in added and '"header"' not in added
    assert before < num_calls(fake_ssh) < 2 * before

    status, stdout, _ = ofa("latency", "show", board, "--net", "tiny", "--json")
    covered, of, *_ = json.loads(stdout)["covered"].replace(" layers", "").split(" of ")
    assert status == 0 and covered == of.split()[0]

    assert ofa(*build, "--out", here)[0] == 0
    status, stdout, _ = ofa("latency", "compare", here, board, "--json")
    facts = json.loads(stdout)
    assert status == 0 and facts["common_entries"] == built["entries"]
    # It is one machine, measured in two ways, while others use it too.
    assert 0.5 < facts["median_ratio"] < 2 and facts["kendall_tau"] > 0.5
    assert facts["second"].startswith("ssh:pi@board 1t, ")


WRONG = {
    "unreachable": ("ssh:nowhere", "ssh:nowhere: ssh cannot connect: "),
    "no python": ("ssh:bare", "ssh:bare: python3 is not installed there"),
    "no host": ("ssh:", "'ssh:' is not of the form ssh:USER@HOST"),
    "an option": ("ssh:-oProxyCommand=x", "is not of the form ssh:USER@HOST"),
    "no onnxruntime": ("ssh:board", "run there python3 -m pip install onnxruntime"),
    "unknown": ("tpu", "openvino, torch-cuda:N, ssh:USER@HOST"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_measured_is_one_line_and_writes_nothing(
    case: str, ofa: Ofa, fake_ssh: Path, tmp_path: Path
) -> None:
    target, expected = WRONG[case]
    if case == "no onnxruntime":
        without(fake_ssh, "onnxruntime")
    out = tmp_path / "tables" / "t.json"
    status, stdout, stderr = ofa("latency", "build", "tiny", "--target", target, "--out", out)
    assert (status, stdout) == (2, "")
    assert stderr.startswith("ofa: ") and stderr.count("\n") == 1 and expected in stderr, stderr
    assert not out.parent.exists()


def test_a_broken_connection_writes_no_table_and_the_same_command_goes_on(
    ofa: Ofa, fake_ssh: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t.json"
    (fake_ssh / "lives").write_text("1")
    build = ("latency", "build", "tiny", "--target", "ssh:dying", "--out", out, "--budget", "1s")
    status, _, stderr = ofa(*build)
    assert status == 2 and "ended while measuring" in stderr.splitlines()[-1]
    assert not out.exists()
    kept = out.with_suffix(".jsonl").read_text()
    (fake_ssh / "lives").write_text("1000000")
    assert ofa(*build)[0] == 0
    assert out.with_suffix(".jsonl").read_text().startswith(kept) and len(kept) > 100


def test_the_page_about_latency_names_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "latency.md").read_text()
    assert len(page.splitlines()) <= 120
    for target in (*TARGETS, "ssh:USER@HOST"):
        assert f"| `{target}` |" in page
    verbs = {command.name for command in latency.registered_commands}
    assert set(re.findall(r"ofa latency (\w+)", page)) == verbs
    for name in ("entries", *(f"unseen_{field.name}" for field in fields(LatencyReport))):
        assert f"| `{name}` |" in page
    for variable in re.findall(r"`([A-Z]+_[A-Z]+)`", page):
        assert variable == SSH_VARIABLE
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
