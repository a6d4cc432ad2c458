"""A run grows: what a change decides is done again, what it does not is kept to the byte."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from onceforall.job import more_epochs as more
from tests.cli.command import Answer, ofa
from tests.cli.places import TINY

COMMAND = (*TINY, "--set", "train.epochs=3")


@pytest.fixture
def run(places: dict[str, str], tmp_path: Path) -> Path:
    shutil.copytree(places["run"], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def again(run: Path, places: dict[str, str]) -> Callable[..., Answer]:
    """Give the command that began the run, with more options."""

    def give(*more_options: object) -> Answer:
        return ofa("run", places["images"], "--out", run, *COMMAND, *more_options)

    return give


def digests(run: Path) -> dict[str, str]:
    """Return the digest of each result, by its path; not of what tells how the run went."""
    told = {"events.jsonl", "progress.json", "report.html"}
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in told
    }


def kept(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name, digest in before.items() if after.get(name) == digest}


def changes(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == "changed"]


def test_a_longer_search_keeps_all_that_was_measured(
    run: Path, places: dict[str, str], again: Callable[..., Answer]
) -> None:
    before = digests(run)
    answer = again("--set", "search.generations=12")
    assert answer.status == 0, answer.err
    assert "search.generations: 8 -> 12" in answer.err
    assert "done anew: search, models; kept: train, evaluate, predictor, latency" in answer.err
    assert f"what was there is in {run}/earlier/01" in answer.err
    after = digests(run)
    for name in before:
        if name.startswith(("checkpoints", "evaluations", "predictor", "latency", "models/second")):
            assert after[name] == before[name], name
    assert after["earlier/01/search/front.json"] == before["search/front.json"]
    generations = [
        len(json.loads((folder / "search" / "front.json").read_text())["hypervolume"])
        for folder in (run / "earlier" / "01", run)
    ]
    assert generations[1] == generations[0] + 4
    assert list((run / "models").glob("net01*/card.json"))
    assert ofa("verify", run).status == 0

    # The same command once more, and one that says less, change nothing.
    assert again("--set", "search.generations=12").status == 0
    assert digests(run) == after
    assert ofa("run", places["images"], "--out", run).status == 0
    assert digests(run) == after
    settings = yaml.safe_load((run / "run.yaml").read_text())
    assert settings["config"]["search"]["generations"] == 12
    assert len(changes(run)) == 1


def test_more_archs_are_added_to_those_that_were_evaluated(
    run: Path, again: Callable[..., Answer]
) -> None:
    before, lines = digests(run), (run / "evaluations.jsonl").read_text()
    answer = again("--set", "evaluate.num_archs=40")
    assert answer.status == 0, answer.err
    grown = (run / "evaluations.jsonl").read_text()
    assert grown.startswith(lines) and grown.count("\n") >= 40 > lines.count("\n")
    after = digests(run)
    assert after["predictor.safetensors"] != before["predictor.safetensors"]
    assert {"latency/ort-cpu-1t.json", "checkpoints/supernet.safetensors"} <= kept(before, after)


def test_a_limit_that_comes_later_ships_one_model_under_it(
    run: Path, again: Callable[..., Answer], places: dict[str, str]
) -> None:
    before = digests(run)
    answer = again("--limit", f"macs={places['macs']}")
    assert answer.status == 0, answer.err
    (model,) = (run / "models").glob("net*/card.json")
    assert json.loads(model.read_text())["macs"] <= float(places["macs"])
    assert {"predictor.safetensors", "latency/ort-cpu-1t.json"} <= kept(before, digests(run))
    # And it can be taken away again.
    assert "search.limits" in again("--set", "search.limits={}").err
    assert yaml.safe_load((run / "run.yaml").read_text())["config"]["search"]["limits"] == {}
    assert (run / "earlier" / "02").is_dir()
    # And be given again.
    assert "search.limits: {} -> " in again("--limit", f"macs={places['macs']}").err
    (model,) = (run / "models").glob("net*/card.json")
    assert json.loads(model.read_text())["macs"] <= float(places["macs"])


def test_a_latency_limit_that_cannot_be_kept_takes_nothing_away(
    run: Path, again: Callable[..., Answer]
) -> None:
    before = digests(run)
    refused = again("--limit", "latency_ms=1e-6")
    assert refused.status == 2 and digests(run) == before
    assert "latency_ms=1e-06 cannot be kept: the smallest reachable value is" in refused.err
    assert "as measured" not in refused.err

    # A model may be faster than is predicted of any: it is named.
    card = next((run / "models").glob("net*/card.json"))
    card.write_text(json.dumps(json.loads(card.read_text()) | {"latency_ms": 1e-6}))
    before = digests(run)
    refused = again("--limit", "latency_ms=2e-6")
    assert refused.status == 2 and digests(run) == before
    named = f"{card.parent.name}, shipped, keeps it as measured: ofa choose {run} --limit"
    assert f"{named} latency_ms=2e-06" in refused.err
    refused = ofa("search", run, "--limit", "latency_ms=2e-6")
    assert refused.status == 2 and named in refused.err


def test_a_longer_measurement_goes_on_from_the_last(
    run: Path, again: Callable[..., Answer]
) -> None:
    before, journal = digests(run), (run / "latency" / "ort-cpu-1t.jsonl").read_text()
    answer = again("--set", "latency.budget_s=2")
    assert answer.status == 0, answer.err
    assert "done anew: latency, search, models; kept: train, evaluate, predictor" in answer.err
    assert (run / "latency" / "ort-cpu-1t.jsonl").read_text().startswith(journal)
    assert {"predictor.safetensors", "evaluations.jsonl"} <= kept(before, digests(run))


def test_more_models_need_no_other_search(run: Path, again: Callable[..., Answer]) -> None:
    before = digests(run)
    answer = again("--set", "search.num_models=2")
    assert answer.status == 0, answer.err
    after = digests(run)
    assert {"search/front.json", "search/confirmed.json"} <= kept(before, after)
    assert len(list((run / "models").glob("net*/card.json"))) <= 2


def test_a_file_of_settings_may_change_too(
    run: Path, again: Callable[..., Answer], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("search: {caution: 1.0}\n")
    assert "search.caution: 0.0 -> 1.0" in again("--config", mine).err
    mine.write_text("search: {caution: 1.0, num_candidates: 3}\n")
    assert "search.num_candidates: 32 -> 3" in again("--config", mine).err
    mine.write_text("train: {learning_rate: 0.2}\n")
    refused = again("--config", mine)
    assert refused.status == 2 and "train.learning_rate 0.1, not 0.2: that would" in refused.err


# -- more epochs ----------------------------------------------------------------------------------


def test_more_epochs_train_on_and_the_rest_is_done_again(
    run: Path, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[dict[str, Any]] = []
    validation = more.Validation
    monkeypatch.setattr(
        more, "Validation", lambda **facts: watched.append(facts) or validation(**facts)
    )
    before, models = digests(run), {path.name for path in (run / "models").iterdir()}
    answer = ofa("train", run, "--more-epochs", "2")
    assert answer.status == 0, answer.err
    assert "done anew: train, evaluate, predictor, search, models; kept: latency" in answer.err
    assert f"next:    ofa run {places['images']} --out {run}" in answer.out
    after = digests(run)
    assert after["checkpoints/supernet.safetensors"] != before["checkpoints/supernet.safetensors"]
    assert {path.name for path in (run / "earlier" / "01" / "models").iterdir()} == models
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    epochs = [event["epochs_done"] for event in lines if event["event"] == "epoch"]
    assert epochs == [1, 2, 3, 4, 5]
    (validated,) = watched
    assert validated["epochs_before"] == 3
    assert validated["facts"].keys() >= {"classes", "mean", "std", "crop_ratio"}

    done = ofa("run", places["images"], "--out", run)
    assert done.status == 0, done.err
    assert {"latency/ort-cpu-1t.json"} <= kept(before, digests(run))
    assert len((run / "evaluations.jsonl").read_text().splitlines()) >= 24
    assert ofa("verify", run).status == 0
    assert "trained: " in ofa("train", "--status", run).out


def test_training_on_that_is_stopped_ends_with_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "other")
    assert ofa("train", run, "--more-epochs", "2").status == 0

    def stopped(*args: Any, callbacks: Any, **kwargs: Any) -> None:
        asked = iter([False] * 5 + [True] * 100)
        stopping = dataclasses.replace(callbacks, should_stop=lambda: next(asked))
        train(*args, callbacks=stopping, **kwargs)

    train = more.train
    monkeypatch.setattr(more, "train", stopped)
    first = ofa("train", tmp_path / "other", "--more-epochs", "2")
    assert first.status == 130, first.err
    assert ofa("train", tmp_path / "other", "--more-epochs", "3").status == 2
    monkeypatch.setattr(more, "train", train)
    assert ofa("train", tmp_path / "other", "--more-epochs", "2").status == 0
    one, other = (
        (folder / "checkpoints" / "supernet.safetensors").read_bytes()
        for folder in (run, tmp_path / "other")
    )
    assert one == other
    # Once more is two more again.
    assert ofa("train", run, "--more-epochs", "2").status == 0
    beside = json.loads((run / "checkpoints" / "supernet.json").read_text())
    assert beside["more_epochs"] == [2.0, 2.0]


# -- the settings of another run ------------------------------------------------------------------


def test_run_yaml_is_a_configuration(places: dict[str, str], tmp_path: Path) -> None:
    first = Path(places["run"]) / "run.yaml"
    for images in ("images", "images_b"):
        out = tmp_path / images
        plan = ofa("run", places[images], "--out", out, "--config", first, "--until", "plan")
        assert plan.status == 0, plan.err
        one, other = (
            yaml.safe_load(path.read_text())["config"] for path in (first, out / "run.yaml")
        )
        assert other["data"].pop("source") == places[images] and one["data"].pop("source")
        assert one == other


def test_a_run_is_repeated_for_as_long_as_it_could_train(
    run: Path, places: dict[str, str], tmp_path: Path
) -> None:
    """A time may have made training shorter than it was planned."""
    settings = yaml.safe_load((run / "run.yaml").read_text())
    assert settings["epochs_trained"] == 3
    (run / "run.yaml").write_text(yaml.safe_dump(settings | {"epochs_trained": 2}))
    more = ("--config", run / "run.yaml", "--until", "plan")
    assert ofa("run", places["images"], "--out", tmp_path / "again", *more).status == 0
    again = yaml.safe_load((tmp_path / "again" / "run.yaml").read_text())
    assert again["config"]["train"]["epochs"] == 2 and "epochs_trained" not in again
