"""The page as a whole: whole HTML, nothing loaded, nothing trusted, the same every time."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from onceforall.deploy.model_folder import MAX_RELATIVE_ERROR
from onceforall.errors import ConfigError
from onceforall.files import write_json
from onceforall.report import build_report, records, write_report
from onceforall.supernets.families import mobilenet_v3
from tests.report.make_run import STEPS, Story, make_run
from tests.report.parsing import Page

EVIL = "<script>alert(1)</script>"


def edited(source: Path, target: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Copy a run and change one JSON file in the copy."""
    shutil.copytree(source, target)
    for path in sorted(target.glob(name)):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return target


def test_finished_run_is_one_whole_page(finished: Path) -> None:
    page = Page(build_report(finished))
    assert "8 verified models" in page.text
    assert "Not finished" not in page.text
    for heading in ("Models", "Training", "Prediction and search", "Latency", "How this was made"):
        assert heading in page.text
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    pointed_at = {href[1:] for href in page.attributes("a", "href")}
    assert pointed_at == {f"m{i}" for i in range(8)}
    assert pointed_at <= set(ids)
    for name in ("aria-labelledby", "for"):
        assert {a[name] for _, a in page.elements if a.get(name)} <= set(ids)


def test_nothing_is_loaded(finished: Path) -> None:
    html = build_report(finished)
    assert not re.search(r"https?:|//cdn|@import|url\(|<iframe|<object|<img|@font-face", html)
    page = Page(html)
    assert not page.attributes("script", "src")
    assert page.attributes("link", "href") == ["data:,"]
    policy = page.attributes("meta", "content")[0]
    assert "default-src 'none'" in policy


def test_only_its_own_script_may_run(finished: Path) -> None:
    page = Page(build_report(finished))
    (allowed,) = re.findall(r"script-src '([^']+)'", page.attributes("meta", "content")[0])
    code = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(code) == 1
    digest = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    assert allowed == f"sha256-{digest}"
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]


def test_names_of_users_are_text(tmp_path: Path) -> None:
    story = Story(
        num_models=2,
        num_samples=8,
        num_front=6,
        classes=("cat", EVIL, '"><img src=x onerror=alert(2)>', "a & b"),
        data_name=f"{EVIL}</script></title>",
    )
    run = make_run(tmp_path / "run <b>&'\"", story)
    card_path = next((run / "models").glob("*/card.json"))
    card = json.loads(card_path.read_text())
    card["name"] = "model <b>&'\""
    card["target"]["hardware"]["device"] = f"CPU {EVIL}"
    card["checks"][EVIL] = True
    card["files"][EVIL] = {"bytes": 1, "sha256": "0" * 64}
    card_path.write_text(json.dumps(card))
    html = build_report(run)
    page = Page(html)
    assert {tag for tag, _ in page.elements} & {"img", "b", "iframe"} <= {"b"}
    assert len(page.scripts) == 2
    assert html.count("<script>") == 1
    assert EVIL in page.text
    assert "a & b" in page.text
    assert "model <b>&'\"" in page.text
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]


def test_data_cannot_leave_its_script(finished: Path, tmp_path: Path) -> None:
    page = Page(build_report(finished))
    ((_, data),) = [s for s in page.scripts if s[0].get("type") == "application/json"]
    assert not set(data) & set("<>&")
    points = json.loads(data)
    lines = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
    confirmed = json.loads((finished / "search" / "confirmed.json").read_text())["points"]
    tops = [line["top1"] for line in lines] + [point["valid_top1"] for point in confirmed]
    macs = [line["macs"] for line in lines + confirmed]
    assert [row[1] for row in points["samples"]] == [round(top1, 4) for top1 in tops]
    assert [row[3] for row in points["samples"]] == [float(f"{value:.3g}") for value in macs]
    # Evaluations name no latency: the table predicts it.
    assert all(row[2] > 0 for row in points["samples"])


def test_the_same_folder_gives_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)  # files are named as the command names them
    first = build_report(Path(finished.name))
    assert build_report(Path(finished.name)) == first
    copied = shutil.copytree(finished, tmp_path / finished.name)
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    # Another process has another hash seed.
    code = "import sys; from pathlib import Path; from onceforall.report import build_report; "
    code += "sys.stdout.write(build_report(Path(sys.argv[1])))"
    again = subprocess.run(
        [sys.executable, "-c", code, copied.name],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    assert again.stdout.decode() == first


def test_write_report_replaces_the_file_and_reads_nothing_of_it(
    finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "digits")
    path = write_report(run)
    assert path == run / "report.html"
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) & 0o444
    assert write_report(run).read_bytes() == before
    names = {path.name for path in run.iterdir()} - {path.name for path in finished.iterdir()}
    assert names <= {"report.html"}, "a temporary file is left"


def test_a_write_that_fails_leaves_the_old_report(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "digits")
    (run / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("onceforall.files.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(run)
    assert (run / "report.html").read_text() == "old"


@pytest.mark.parametrize("until", ["none", *STEPS])
def test_unfinished_runs_say_what_is_missing(tmp_path: Path, until: str) -> None:
    story = Story(num_models=2, num_samples=12, num_front=6, until=until)
    page = Page(build_report(make_run(tmp_path / "run", story)))
    done = () if until == "none" else STEPS[: STEPS.index(until) + 1]
    expected = {
        "train": "Training: no finished epoch",
        "evaluate": "no subnet has been evaluated",
        "predictor": "predictor.json is not there yet",
        "latency": "no table in latency/",
        "search": "search/front.json is not there yet",
        "models": "none has been exported yet",
    }
    for step, words in expected.items():
        assert (words in page.text) == (step not in done), step
    assert ("Not finished" in page.text) == (until != "models")
    assert ("No model has been exported yet." in page.text) == (until != "models")


def test_an_empty_folder_gives_a_report(tmp_path: Path) -> None:
    page = Page(build_report(tmp_path))
    assert "run.yaml is not there yet." in page.text


def test_a_folder_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        build_report(tmp_path / "nothing")


def test_damaged_files_are_named(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "search" / "front.json").write_text('{"points": [')
    (run / "predictor.json").write_text("[1, 2]")
    (run / "run.yaml").write_text("a: [1\n")
    (run / "evaluations.jsonl").write_bytes(b"\xff\xfe\n")
    with (run / "events.jsonl").open("a") as file:
        file.write('{"event": "epo')
    text = Page(build_report(run)).text
    assert "search/front.json is damaged" in text
    assert re.search(r"predictor\.json.{,20}its content", text)
    assert "run.yaml is damaged" in text
    assert "evaluations.jsonl is damaged" in text
    assert "events.jsonl is damaged" not in text, "a line that was cut off is normal"


def test_a_model_without_a_card_is_not_finished(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "models" / "net99").mkdir()
    page = Page(build_report(run))
    assert "Model net99: not finished" in page.text
    assert "8 verified models" in page.text


def test_a_failed_check_is_no_verified_model(finished: Path, tmp_path: Path) -> None:
    def fail(card: Any) -> Any:
        return {**card, "checks": {**card["checks"], "onnx_relative_error": 2e-4}}

    run = edited(finished, tmp_path / "run", "models/net03*/card.json", fail)
    page = Page(build_report(run))
    assert "7 verified models" in page.text
    assert "1 more model did not pass the checks" in page.text
    assert "check failed" in page.text
    assert "relative error 2.0e-04, allowed 1e-04" in page.text
    run = edited(
        finished, tmp_path / "unchecked", "models/*/card.json", lambda c: {**c, "checks": {}}
    )
    assert "8 unverified models" in Page(build_report(run)).text


def test_the_bound_is_that_of_deployment() -> None:
    assert records.MAX_RELATIVE_ERROR == MAX_RELATIVE_ERROR


def test_it_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = mobilenet_v3(num_classes=10)
    story = Story(num_models=30, num_samples=500, num_front=100, epochs=100, spec=spec)
    path = write_report(make_run(Path("big"), story))
    assert path.stat().st_size <= 300_000


def test_architectures_trained_alone_stand_beside_the_models(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)
    before = Page(build_report(Path(finished.name))).text
    assert "Was the supernet worth it? Not known yet: ofa baseline digits" in before
    run = shutil.copytree(finished, tmp_path / "digits")
    paths = sorted(run.glob("models/*/card.json"))
    for path, hits in zip(paths[:3], (0, 360, 360), strict=True):
        card = json.loads(path.read_text())
        alone = {**card, "top1": hits / 360, "top1_interval": [0, 1], "seconds": 30.0}
        alone |= {"epochs": 1, "budget_s": 30, "seed": 0, "processes": 1, "threads": 1}
        write_json(run / "baselines" / f"{path.parent.name}.json", alone)
    write_json(run / "baselines" / f"{paths[3].parent.name}.json", {"top1": 0.5})
    html = build_report(run)
    text = Page(html).text
    assert "Better than the same architecture trained alone: 1 of 3 models" in text
    assert "Training alone took 1.5 min together, the supernet 8.5 min." in text
    assert "trained alone, 1 outside the axis" in text
    assert html.count('class="alone"') == 3 * 2
    (run / "baselines" / f"{paths[0].parent.name}.json").write_text("[")
    assert f"baselines/{paths[0].parent.name}.json is damaged" in Page(build_report(run)).text


def test_many_classes_are_cut(tmp_path: Path) -> None:
    classes = [f"class number {i}" for i in range(1000)]
    story = Story(num_models=1, num_samples=4, num_front=4, classes=classes)
    html = build_report(make_run(tmp_path / "run", story))
    assert "and 880 more" in html
    assert "class number 119<" in html and "class number 120<" not in html
    assert len(html) < 150_000


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside a JSON value; of lists, of both ends."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif value and isinstance(value, list):
        for index in {0, len(value) - 1}:
            yield from leaves(value[index], (*path, index))


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    return changed


@pytest.mark.parametrize(
    "name", ["models/{m}/card.json", "search/front.json", "predictor.json",
             "latency/ort-cpu-1t.json", "run.yaml"],
)  # fmt: skip
def test_no_record_can_break_the_report(tmp_path: Path, name: str) -> None:
    """Whatever stands in a field, there is a report."""
    story = Story(num_models=2, num_samples=3, num_front=3, epochs=2, generations=3)
    run = make_run(tmp_path / "run", story)
    path = run / name.format(m=next((run / "models").iterdir()).name)
    is_yaml = path.suffix == ".yaml"
    value = yaml.safe_load(path.read_text()) if is_yaml else json.loads(path.read_text())
    junk = [None, "text", -1, 0, 1.5, True, [], {}, [None], float("nan"), {"a": {"b": 1}}]
    places = list(leaves(value))
    for position, place in enumerate(places[:: 1 + len(places) // 60]):
        # Every kind of junk comes by; all of them in every place would take minutes.
        changed = replaced(value, place, junk[position % len(junk)])
        path.write_text(yaml.safe_dump(changed) if is_yaml else json.dumps(changed))
        Page(build_report(run))


@pytest.mark.parametrize("junk", [None, [], {"type": "MBConvSpec"}, {"type": "Path"}, "spec"])
def test_a_supernet_of_another_version_is_left_out(
    finished: Path, tmp_path: Path, junk: Any
) -> None:
    run = edited(finished, tmp_path / "run", "checkpoints/supernet.json", lambda _: {"spec": junk})
    page = Page(build_report(run))
    assert "8 verified models" in page.text
    whole = Page(build_report(finished))
    # MACs are in every record; params and latency of most subnets come from the stage table.
    numbers = [
        [int(count) for count in re.findall(r"(\d+) evaluated subnets", text)]
        for text in (whole.text, page.text)
    ]
    assert len(set(numbers[0])) == 1 and len(numbers[0]) == 3
    latency, macs, params = numbers[1]
    assert macs == numbers[0][0]
    assert latency == params < macs - 100


def test_no_event_can_break_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Story(num_models=1, num_samples=4, num_front=4, epochs=2))
    lines: list[Any] = [
        {"event": "epoch"},
        {"event": "epoch", "epochs_done": "x", "loss": None},
        {"event": "epoch", "epochs_done": 3, "loss": float("nan"), "top1": 2, "probes": [1]},
        {"event": "rollback"},
        {"event": "step_done", "step": 3, "seconds": "x"},
        {"no": "event"},
    ]
    with (run / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    with (run / "evaluations.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in [{"arch": 3, "top1": 0.5}, {}, 7])
    text = Page(build_report(run)).text
    assert "Training" in text
    assert re.search(r"events\.jsonl is damaged: loss", text)
    assert re.search(r"evaluations\.jsonl line 5 is damaged: arch", text)


def selected(folder: Path) -> str:
    """Return the id of the one model that a page opens on."""
    articles = [a for tag, a in Page(build_report(folder)).elements if tag == "article"]
    (chosen,) = (a["id"] for a in articles if "selected" in (a["class"] or "").split())
    return str(chosen)


def with_limits(run: Path, limits: object) -> None:
    path = run / "run.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["config"]["search"] = {**settings["config"].get("search", {}), "limits": limits}
    path.write_text(yaml.safe_dump(settings))


def test_it_opens_on_the_model_that_keeps_the_limits(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    cards = [json.loads(path.read_text()) for path in sorted(run.glob("models/*/card.json"))]
    cards.sort(key=lambda card: card["latency_ms"])
    assert selected(run) == "m7", "without limits the best on the validation images"
    with_limits(run, {"latency_ms": cards[3]["latency_ms"]})
    assert selected(run) == "m3"
    with_limits(run, {"latency_ms": 1e-6})
    assert selected(run) == "m0", "the fastest, where none keeps them"
    for damaged in ({"latency_ms": "fast"}, [1], None):
        with_limits(run, damaged)
        assert selected(run) == "m7"
    # The luckiest on the test images is not the best.
    path = next(run.glob("models/net01*/card.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top1": 1.0}))
    assert selected(run) == "m7"
