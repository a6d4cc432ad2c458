"""Several runs beside one another: what each comes to by hand, the page, what does not compare."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from onceforall.artifacts import Card
from onceforall.errors import ConfigError
from onceforall.job.tasks.compare import comparison_json, comparison_lines
from onceforall.report import build_comparison, compare_runs, write_comparison
from tests.report.make_run import Story, make_run
from tests.report.parsing import Page


def small_run(folder: Path, **story: Any) -> Path:
    return make_run(folder, Story(num_samples=4, num_front=6, epochs=2, num_models=3, **story))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [small_run(tmp_path / "one"), small_run(tmp_path / "two", seed=1)]


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def mean_of_the_best(cards: list[Card], limit_ms: float, steps: int = 20_000) -> float:
    """Return the mean top-1 of the best model over latency limits, by trying many."""
    total = 0.0
    for i in range(steps):
        limit = limit_ms * (i + 0.5) / steps
        total += max((card.top1 for card in cards if card.latency_ms <= limit), default=0.0)
    return total / steps


def test_hypervolume_is_the_mean_top1_over_latency_limits(runs: list[Path]) -> None:
    compared = compare_runs(runs)
    assert compared.names == ("one", "two") and compared.limit_ms is not None
    slowest = max(card.latency_ms for card in compared.cards)
    assert compared.limit_ms == pytest.approx(1.1 * slowest)
    for run, volume in zip(compared.runs, compared.volumes, strict=True):
        cards = [model.card for model in run.models]
        assert volume == pytest.approx(mean_of_the_best(cards, compared.limit_ms), abs=1e-3)
    assert 0 < sum(compared.on_front) <= len(compared.cards) == 6


def test_a_run_that_is_better_everywhere_has_the_whole_front(runs: list[Path]) -> None:
    for path in runs[1].glob("models/*/card.json"):
        change(path, latency_ms=0.01, latency_p90_ms=0.02, top1=1.0)
    for path in runs[0].glob("models/*/card.json"):
        change(path, top1=0.5)
    compared = compare_runs(runs)
    assert compared.on_front == (0, 3) and compared.volumes[1] > 0.98 > compared.volumes[0]
    for path in runs[0].glob("models/*/card.json"):
        change(path, top1=0.99)  # within noise of the others
    assert compare_runs(runs).on_front == (3, 3)
    for path in runs[0].glob("models/*/card.json"):
        change(path, top1=0.5)
    lines = "\n".join(comparison_lines(compared))
    assert re.search(r"not beaten", lines) and "measures all models side by side" in lines
    assert set(compared.beaten) >= {f"one/{model.folder}" for model in compared.runs[0].models[:1]}


def test_settings_that_differ_and_no_others(runs: list[Path]) -> None:
    path = runs[1] / "run.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["config"]["train"]["epochs"] = 77
    settings["epochs_trained"] = 70
    settings["config"]["search"] = {**settings["config"].get("search", {}), "limits": {"macs": 5.0}}
    path.write_text(yaml.safe_dump(settings))
    compared = compare_runs(runs)
    assert compared.epochs[1] == "70"
    found = dict(compared.settings)
    assert found.pop("train.epochs")[1] == "77"
    assert found.pop("search.limits.macs") == ("-", "5.0")
    assert set(found) <= {"seed"}
    lines = "\n".join(comparison_lines(compare_runs(runs)))
    assert re.search(r"train\.epochs +\S+ +77", lines)
    assert comparison_json(compare_runs(runs))["settings"]["train.epochs"]["two"] == "77"
    same = compare_runs([runs[0], runs[0]])
    assert same.settings == () and same.names == (str(runs[0]), str(runs[0]))
    assert comparison_lines(same)[-1] == "the settings are the same"


def test_what_does_not_compare_is_said(runs: list[Path]) -> None:
    assert compare_runs(runs).warnings == ()
    path = runs[1] / "run.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["data"]["fingerprint"] = "another"
    path.write_text(yaml.safe_dump(settings))
    for card in runs[1].glob("models/*/card.json"):
        target = json.loads(card.read_text())["target"]
        change(card, target={**target, "threads": 2})
    images, targets = compare_runs(runs).warnings
    assert "different images" in images and "2 threads" in targets
    assert images in Page(build_comparison(runs)).text


def test_the_page_is_whole_and_names_in_it_are_text(runs: list[Path], tmp_path: Path) -> None:
    evil = runs[1].rename(tmp_path / "<script>alert(1)<")
    path = write_comparison([runs[0], evil])
    assert path == tmp_path / "comparison.html"
    html = path.read_text()
    page = Page(html)
    assert "<script" not in html and "<script>alert(1)<" in page.text
    assert not re.search(r"https?:|@import|url\(|<img", html)
    for run in compare_runs([runs[0], evil]).runs:
        for model in run.models:
            assert model.card.name in page.text
    circles = [a["class"] for tag, a in page.elements if tag == "circle"]
    assert circles == ["dot-series-0"] * 3 + ["dot-series-1"] * 3
    assert html == build_comparison([runs[0], evil])


def test_runs_without_models_are_compared_by_their_settings(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / name, until="train", seed=n) for n, name in enumerate("ab")]
    compared = compare_runs(runs)
    assert compared.limit_ms is None and compared.volumes == (0.0, 0.0)
    assert "Settings that differ" in Page(build_comparison(runs)).text
    assert comparison_lines(compared)


def test_what_is_no_run_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 run is nothing to compare"):
        compare_runs(runs[:1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty is not the folder of a run: run\.yaml is not"):
        compare_runs([runs[0], tmp_path / "empty"])
