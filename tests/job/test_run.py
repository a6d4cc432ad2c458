"""The whole job: resumable anywhere, nothing done twice, everything verified."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from onceforall.deploy.model_folder import model_folders, verify_folder
from onceforall.errors import ConfigError, Interrupted
from onceforall.files import read_jsonl
from onceforall.job.context import Run
from onceforall.job.folder import RunFolder
from onceforall.job.start import open_run
from onceforall.job.status import read_status, status_lines
from onceforall.job.steps.predict import fit_predictor
from onceforall.job.steps.search import problem_of
from onceforall.job.tasks.baseline import chosen_cards, train_alone
from tests.job.tiny_run import ENVIRONMENT, ROOT, command, write_images

pytest.importorskip("onnxruntime")
STEPS = ("train", "evaluate", "predictor", "latency", "search", "models")


def run_to_end(arguments: list[str]) -> str:
    done = subprocess.run(
        arguments, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_during(arguments: list[str], step: str, delay_s: float) -> bool:
    """Start the run and kill it ``delay_s`` after ``step`` has begun; say whether it still ran."""
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if f"] {step}:" in line:
            break
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("straight")
    stdout = run_to_end(command(write_images(folder / "images.npz"), folder / "run"))
    assert "test top-1" in stdout and "ofa verify" in stdout
    return folder / "run"


def test_a_run_ends_with_verified_models_and_a_report(straight: Path) -> None:
    folders = model_folders(straight)
    assert 1 <= len(folders) <= 3
    for folder in folders:
        card = json.loads((folder / "card.json").read_text())
        assert {"top1", "macs", "params", "latency_ms", "resolution", "arch"} <= card.keys()
        assert card["top1"] > 0.9
        assert card["checks"]["extracted_bitwise"] and card["checks"]["safetensors_bitwise"]
        assert verify_folder(folder)["onnx_relative_error"] <= 1e-4
    assert "<svg" in (straight / "report.html").read_text()


def test_killed_in_every_step_it_ends_with_the_same_files(straight: Path, tmp_path: Path) -> None:
    images = straight.parent / "images.npz"
    killed = tmp_path / "run"
    arguments = command(images, killed)
    rng = random.Random(11)
    for step in STEPS:
        if step == "search":  # the same measurements, as the machine itself never repeats them
            shutil.rmtree(killed / "latency", ignore_errors=True)
            shutil.copytree(straight / "latency", killed / "latency")
        kill_during(arguments, step, rng.uniform(0, 0.6))
    run_to_end(arguments)
    names = ["checkpoints/supernet.safetensors", "evaluations.jsonl", "predictor.safetensors"]
    for name in (*names, "search/front.json"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name


def test_finished_steps_are_not_done_again(straight: Path) -> None:
    names = ["checkpoints/supernet.safetensors", "evaluations.jsonl", "predictor.safetensors"]
    names += ["search/front.json", *(str(f / "card.json") for f in model_folders(straight))]
    before = [(straight / name).stat().st_mtime_ns for name in names]
    run_to_end(command(straight.parent / "images.npz", straight))
    assert [(straight / name).stat().st_mtime_ns for name in names] == before


def test_a_cautious_search_compares_lower_bounds(straight: Path) -> None:
    search = [sys.executable, "-m", "onceforall", "search", str(straight), "--json"]
    plain, cautious = (json.loads(run_to_end([*search, "--caution", c])) for c in ("0", "3"))
    assert plain["cautious_top1"] == plain["predicted_top1"]
    for found, caution in ((plain, 0), (cautious, 3)):
        bound = found["predicted_top1"] - caution * found["predicted_top1_std"]
        assert found["cautious_top1"] == pytest.approx(bound, abs=1e-5)
    # The best bound is at least that of the arch that a plain search prefers.
    assert cautious["cautious_top1"] >= plain["predicted_top1"] - 3 * plain["predicted_top1_std"]
    assert RunFolder(path=straight).read_front().caution == 0


def test_a_search_says_which_predictor_and_latency_it_used(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    run = open_run(folder, tell=lambda event: None)
    header = read_jsonl(folder / "search/journal.jsonl")[0]
    assert header["sources"] == problem_of(run, {}).sources
    path = run.folder.latency(run.config)
    path.write_text(path.read_text() + "\n")
    changed = problem_of(run, {}).sources
    assert [name for name in changed if changed[name] != header["sources"][name]] == ["latency_ms"]
    fit = run.config.model_copy(update={"seed": 1})
    fit_predictor(replace(run, config=fit))
    assert problem_of(run, {}).sources["predictor"] != header["sources"]["predictor"]


def test_the_output_of_a_verb_is_the_input_of_another(straight: Path, tmp_path: Path) -> None:
    """search | eval and specialize, export | eval, and published spellings."""
    ofa, images = [sys.executable, "-m", "onceforall"], str(straight.parent / "images.npz")
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    found = run_to_end([*ofa, "search", str(folder), "--json"])
    piped = subprocess.run(
        [*ofa, "eval", images, "--net", str(folder), "--arch", "-", "--json"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, input=found, timeout=240,
    )  # fmt: skip
    assert piped.returncode == 0, piped.stderr
    assert json.loads(piped.stdout)["arch"] == json.loads(found)["arch"]

    published = tmp_path / "published.json"
    published.write_text(json.dumps({"ks": 3, "e": 2, "d": 1, "image_size": 8}))
    card = json.loads(
        run_to_end(
            [*ofa, "specialize", str(folder), "--arch", str(published), "--name", "p", "--json"]
        )
    )
    assert card["arch"]["resolution"] == 8 and set(card["arch"]["depth"]) == {1}

    config, weights = tmp_path / "net.config", tmp_path / "net.pth"
    for form, out in (("config", config), ("published", weights)):
        run_to_end([*ofa, "export", str(folder / "models/p"), "--format", form, "--out", str(out)])
    again = [*ofa, "eval", images, "--net", str(config), "--weights", str(weights), "--json"]
    assert json.loads(run_to_end(again))["top1"] == pytest.approx(card["top1"])


def test_a_refined_search_measures_so_many_and_resumes(straight: Path, tmp_path: Path) -> None:
    """Interrupted by a kill or not, the same subnets are measured, and none twice."""
    images = straight.parent / "images.npz"
    refined, killed = tmp_path / "refined", tmp_path / "killed"
    for folder, is_killed in ((refined, False), (killed, True)):
        arguments = [*command(images, folder), "--set", "search.refine_evaluations=10"]
        shutil.copytree(straight, folder)
        settings = yaml.safe_load((folder / "run.yaml").read_text())
        settings["config"]["search"]["refine_evaluations"] = 10
        settings["request"]["flags"].append("search.refine_evaluations=10")
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
        shutil.rmtree(folder / "search")
        if is_killed:
            kill_during(arguments, "search", 2.0)
        run_to_end([*arguments, "--until", "search"])
    lines = read_jsonl(refined / "evaluations.jsonl")
    assert sum("refines" in line for line in lines) == 10
    assert len({json.dumps(line["arch"]) for line in lines}) == len(lines)
    for name in ("evaluations.jsonl", "search/front.json", "predictor.safetensors"):
        assert (killed / name).read_bytes() == (refined / name).read_bytes(), name
    # Measured subnets stand on the front with what was measured.
    opened = RunFolder(path=refined)
    measured = {line.arch: line.top1 for line in opened.read_evaluations()}
    on_front = [point for point in opened.read_front().points if point.arch in measured]
    assert on_front
    for point in on_front:
        assert point.predicted_top1 == pytest.approx(measured[point.arch])
        assert point.predicted_top1_std == 0


def test_a_model_is_finetuned_once_for_its_settings(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    before = status_lines(read_status(RunFolder(path=folder)))
    start = model_folders(folder)[0].name
    ofa = [sys.executable, "-m", "onceforall"]
    tune = [*ofa, "finetune", str(folder), start, "--epochs", "1", "--json"]
    card = json.loads(run_to_end([*tune, "--learning-rate", "0.01"]))
    assert card["name"] == f"{start}-finetune1" and card["finetuned_from"] == start
    assert verify_folder(folder / "models" / card["name"])["onnx_relative_error"] <= 1e-4
    # The training keeps its own events and status.
    assert status_lines(read_status(RunFolder(path=folder))) == before
    kinds = {line["event"] for line in read_jsonl(folder / "events.jsonl") if "model" in line}
    assert "finetune_epoch" in kinds
    assert json.loads(run_to_end([*tune, "--learning-rate", "0.01"])) == card
    other = subprocess.run(
        [*tune, "--learning-rate", "0.02"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert other.returncode == 2
    assert "was fine-tuned with learning_rate 0.01, not 0.02" in other.stderr


def stopped_run(folder: Path, *, after: int) -> Run:
    """Return a run that is asked to stop at the ``after``-th time it asks."""
    left = iter([False] * after)
    return open_run(folder, tell=lambda event: None, should_stop=lambda: next(left, True))


def test_architectures_are_trained_alone_and_stand_beside(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    before = status_lines(read_status(RunFolder(path=folder)))
    name = model_folders(folder)[0].name
    ofa = [sys.executable, "-m", "onceforall", "baseline", str(folder)]
    (found,) = json.loads(run_to_end([*ofa, "--model", name, "--budget", "2s", "--json"]))
    record = json.loads((folder / "baselines" / f"{name}.json").read_text())
    assert found == {**record, "verdict": found["verdict"]}
    assert record["images"] == 60 and record["epochs"] >= 1 and record["budget_s"] == 2
    assert record["top1_interval"][0] <= record["top1"] <= record["top1_interval"][1]
    assert 0 < record["seconds"] < 30
    assert not list((folder / "checkpoints").glob("baseline-*")), "it is done"
    assert status_lines(read_status(RunFolder(path=folder))) == before
    assert "Was the supernet worth it?" in (folder / "report.html").read_text()
    # Found again, and refused with another time before anything is trained.
    lines = run_to_end([*ofa, "--model", name, "--budget", "2s"])
    assert "trained alone" in lines and "Better than the same architecture trained alone" in lines
    run = open_run(folder, tell=lambda event: None)
    with pytest.raises(ConfigError, match=f"{name} was trained alone with --budget 2s, not 3s"):
        train_alone(run, [name], budget_s=3.0)
    assert json.loads((folder / "baselines" / f"{name}.json").read_text()) == record
    # Removed, as the message says, it is trained for all of another time.
    (folder / "baselines" / f"{name}.json").unlink()
    (shorter,) = train_alone(run, [name], budget_s=1.0)
    assert shorter.budget_s == 1.0 and 0.5 < shorter.seconds < 1.9


def test_training_alone_resumes_to_the_same_result(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a look at the clock, lengths are as planned and results the same.
    monkeypatch.setattr("onceforall.job.steps.alone._PLANNED_EPOCHS", 4.0)
    monkeypatch.setattr("onceforall.training.budget.Pacer.is_due", lambda *_: False)
    results = []
    for folder, after in ((tmp_path / "whole", 10**6), (tmp_path / "stopped", 17)):
        shutil.copytree(straight, folder)
        name = model_folders(folder)[0].name
        run = stopped_run(folder, after=after)
        if after < 10**6:
            with pytest.raises(Interrupted):
                train_alone(run, [name])
            assert not (folder / "baselines").exists()
            with pytest.raises(ConfigError, match="was trained alone with --budget"):
                train_alone(open_run(folder, tell=lambda event: None), [name], budget_s=1.0)
            run = open_run(folder, tell=lambda event: None)
        (record,) = train_alone(run, [name])
        results.append((record.top1, record.top5, record.epochs, record.arch))
    assert results[0] == results[1]


def test_only_models_of_the_run_are_trained_alone(straight: Path, tmp_path: Path) -> None:
    run = open_run(straight, tell=lambda event: None)
    cards = run.folder.read_cards()
    name = cards[0].name
    with pytest.raises(ConfigError, match=f"'{name}x' is not one of .*; did you mean {name}?"):
        train_alone(run, [f"{name}x"])
    tuned = cards[0].model_copy(update={"name": "tuned", "finetuned_from": name})
    assert chosen_cards(run, [*cards, tuned], []) == cards
    assert chosen_cards(run, [*cards, tuned], ["tuned"]) == [tuned]
    shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "models")
    with pytest.raises(ConfigError, match="has no models yet: run  ofa run"):
        train_alone(open_run(tmp_path / "run", tell=lambda event: None))
