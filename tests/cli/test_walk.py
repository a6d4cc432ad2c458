"""The walk of a user: from an answer to the next step, each step a command that was printed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import onceforall
from tests.cli.command import ofa


def cards(run: str | Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in Path(run).glob("models/*/card.json")]


# -- which one should I take? ---------------------------------------------------------------------


def test_choose_names_a_model_that_can_be_used_as_it_says(places: dict[str, str]) -> None:
    slowest = max(float(str(card["latency_ms"])) for card in cards(places["run"]))
    answer = ofa("choose", places["run"], "--limit", f"latency_ms={slowest}")
    assert answer.status == 0, answer.err
    (call,) = re.findall(r"ofa\.(load_model)\('(.*)'\)", answer.out)
    card = getattr(onceforall, call[0])(call[1]).card
    best = max(float(str(each["valid_top1"])) for each in cards(places["run"]))
    assert card.valid_top1 == best and f"latency_ms={slowest:g}: {card.name}, " in answer.out
    assert "no shipped model is better" in answer.out

    # Models that no search found were measured on the validation images too.
    assert all(each["valid_top1"] is not None for each in cards(places["run"]))
    assert {each["name"] for each in cards(places["run"])} >= {"second"}


def test_choose_says_what_a_looser_limit_would_gain(places: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(places["run"], tmp_path / "run")
    for path in (tmp_path / "run").glob("models/*/card.json"):
        card = json.loads(path.read_text())
        card |= {"valid_top1": 0.9, "top1": 0.9} if card["name"] == "second" else {
            "valid_top1": 0.5, "top1": 0.4, "latency_ms": 0.02
        }  # fmt: skip
        card |= {"latency_ms": 0.045} if card["name"] == "second" else {}
        path.write_text(json.dumps(card))
    answer = ofa("choose", tmp_path / "run", "--limit", "latency_ms=0.03,0.05", "--json")
    tight, loose = json.loads(answer.out)
    assert tight["model"]["valid_top1"] == 0.5 and loose["model"]["name"] == "second"
    (gain,) = tight["gains"]
    assert gain == {
        "name": "second", "limits": {"latency_ms": 0.045}, "points": 50.0, "beyond_noise": True
    }  # fmt: skip
    said = ofa("choose", tmp_path / "run", "--limit", "latency_ms=0.03").out
    assert "with latency_ms=0.045: second, 90" in said and "+50.0 points, beyond noise" in said


# -- compare --------------------------------------------------------------------------------------


def test_two_runs_are_compared_in_the_terminal_and_on_a_page(
    places: dict[str, str], tmp_path: Path
) -> None:
    runs = places["run"], places["run_b"]
    answer = ofa("compare", *runs)
    assert answer.status == 0, answer.err
    assert re.search(r"train\.epochs +3\.0 +1\.0", answer.out)
    names = [f"{Path(run).name}/{card['name']}" for run in runs for card in cards(run)]
    for name in names:
        assert name in answer.out
    found = json.loads(ofa("compare", *runs, "--json").out)
    assert found["settings"]["seed"] == {"run": "0", "run_b": "1"}

    page = tmp_path / "both.html"
    assert ofa("report", *runs, "--out", page).out == f"{page}\n"
    assert all(name in page.read_text() for name in names)
    assert "Settings that differ" in page.read_text()
