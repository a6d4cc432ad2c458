"""What is not proven is not shipped, takes nothing else with it, and makes the command fail."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from onceforall.artifacts import Confirmed, ConfirmedFile, Failed, Request
from onceforall.cli.app import app
from onceforall.deploy.model_folder import Checks, check_files, verify_folder
from onceforall.errors import ConfigError, InfeasibleError, VerificationError
from onceforall.files import read_jsonl
from onceforall.job.context import Run
from onceforall.job.pipeline import run_all
from onceforall.job.start import open_run
from onceforall.job.steps import prove
from onceforall.job.steps.ship import models_step, read_failed, specialize_arch
from onceforall.measure.costs import count_macs, count_params
from onceforall.measure.latency.measure import Candidate, Latency, measure_latency
from tests.job.tiny_run import SETTINGS, write_images

pytest.importorskip("onnxruntime")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has still to ship; what was confirmed is made up, each better and slower."""
    folder = tmp_path_factory.mktemp("searched")
    request = Request(source=str(write_images(folder / "images.npz")), flags=SETTINGS)
    run_all(request, folder / "run", tell=lambda event: None, until="search", device=CPU)
    run = open_run(folder / "run", tell=lambda event: None, device=CPU)
    space = run.spec.space
    archs = [space.smallest, *map(space.sample, map(random.Random, range(2))), space.largest]
    points = tuple(
        Confirmed(
            arch=arch,
            macs=count_macs(run.spec.blueprint(arch), resolution=arch.resolution),
            params=count_params(run.spec.blueprint(arch)),
            predicted_top1=0.8,
            cautious_top1=0.8,
            predicted_top1_std=0.0,
            predicted_latency_ms=1.0,
            latency_ms=1.0 + i / 4,
            valid_top1=0.6 + i / 10,
            valid_loss=1.0,
            valid_images=10_000,
        )
        for i, arch in enumerate(archs)
    )
    ConfirmedFile(points=points).write(run.folder.confirmed)
    return folder / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Run:
    shutil.copytree(searched, tmp_path / "run")
    return open_run(tmp_path / "run", tell=lambda event: None, device=CPU)


def breaking(names: Sequence[str]) -> Callable[..., Checks]:
    """Return a comparison that finds the models named like this wrong."""

    def check(folder: Path, *args: Any, **kwargs: Any) -> Checks:
        checks = check_files(folder, *args, **kwargs)
        if any(folder.name.startswith(name) for name in names):
            return dataclasses.replace(
                checks, extracted_bitwise=False, extracted_relative_error=0.02
            )
        return checks

    return check


def shipped(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder.models.iterdir())


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_jsonl(run.folder.events) if event["event"] == kind]


def test_a_model_that_fails_is_removed_and_the_others_are_shipped(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "check_files", breaking(["net01"]))
    models_step(run)
    (failed,) = read_failed(run)
    assert failed.name.startswith("net01") and "0.02 relative" in failed.problem
    (told,) = events(run, "model_failed")
    assert Failed(name=told["name"], problem=told["problem"]) == failed
    assert len(shipped(run)) == 2 and failed.name not in shipped(run)
    assert [card.name for card in run.folder.read_cards()] == shipped(run)
    for name in shipped(run):
        assert verify_folder(run.folder.models / name)["name"] == name

    # The same command tries only the failed one again, and nothing is left to say once it holds.
    before = {name: (run.folder.models / name / "card.json").stat() for name in shipped(run)}
    models_step(run)
    assert read_failed(run) == (failed,) and len(events(run, "model_failed")) == 2
    monkeypatch.setattr(prove, "check_files", check_files)
    models_step(run)
    assert read_failed(run) == () and shipped(run) == sorted([*before, failed.name])
    for name, stat in before.items():
        assert (run.folder.models / name / "card.json").stat().st_mtime_ns == stat.st_mtime_ns


@pytest.mark.parametrize("broken", [["net01"], ["net"]])
def test_the_command_says_what_is_not_proven_and_exits_1(
    searched: Path, run: Run, monkeypatch: pytest.MonkeyPatch, broken: list[str]
) -> None:
    monkeypatch.setattr(prove, "check_files", breaking(broken))
    flags = [part for setting in SETTINGS for part in ("--set", setting)]
    images, out = searched.parent / "images.npz", run.folder.path
    command = ["run", str(images), "--out", str(out), *flags]
    for _ in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        failed = read_failed(run)
        assert failed
        for each in failed:
            assert f"not shipped: {each.name}: the extracted network differs" in result.stdout
        assert (out / "report.html").is_file()
        assert bool(run.folder.read_cards()) == (broken == ["net01"])
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["failed"] == [
        f.to_json() for f in failed
    ]
    monkeypatch.setattr(prove, "check_files", check_files)
    assert CliRunner().invoke(app, command).exit_code == 0
    # Steps before the models have nothing to do with models.
    monkeypatch.setattr(prove, "check_files", breaking(broken))
    assert CliRunner().invoke(app, [*command, "--until", "search"]).exit_code == 0


def test_an_arch_that_fails_leaves_nothing_behind(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "check_files", breaking(["mine"]))
    with pytest.raises(VerificationError, match="mine: the extracted network differs"):
        specialize_arch(run, run.spec.space.smallest, "mine")
    assert shipped(run) == []
    monkeypatch.setattr(prove, "check_files", check_files)
    assert specialize_arch(run, run.spec.space.smallest, "mine").name == "mine"
    with pytest.raises(ConfigError, match="use another --name"):
        specialize_arch(run, run.spec.space.smallest, "mine")


def test_what_an_interrupted_run_left_is_cleared(run: Run) -> None:
    half = run.folder.models / "net77-1M-8px"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    (half / ".model.safetensors.abc.tmp").write_bytes(b"half")
    other = run.folder.models / "notes"
    other.mkdir()
    (other / "mine.txt").write_text("not a model")
    models_step(run)
    assert not half.exists() and (other / "mine.txt").is_file()


def slow_as_shipped(slow: int) -> Callable[..., list[Latency]]:
    """Return a measurement: 3 ms for the first ``slow`` models, 1 ms for the others."""
    measured = itertools.count()

    def measure(candidates: Sequence[Candidate], **settings: Any) -> list[Latency]:
        found = measure_latency(candidates, target=settings["target"], repeats=3)
        return [
            dataclasses.replace(each, latency_ms=3.0 if next(measured) < slow else 1.0)
            for each in found
        ]

    return measure


def limited(run: Run, latency_ms: float) -> Run:
    search = run.config.search.model_copy(update={"limits": {"latency_ms": latency_ms}})
    return dataclasses.replace(run, config=run.config.model_copy(update={"search": search}))


def test_a_model_that_breaks_the_limit_gives_way_to_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = limited(run, 2.0)
    monkeypatch.setattr(prove, "measure_latency", slow_as_shipped(2))
    models_step(run)
    (card,) = run.folder.read_cards()
    assert card.latency_ms <= 2 and card.name.startswith("net03")
    assert shipped(run) == [card.name] and read_failed(run) == ()
    rejected = events(run, "model_rejected")
    assert [event["name"][:5] for event in rejected] == ["net01", "net02"]
    assert all("takes 3 ms as it ships" in event["problem"] for event in rejected)
    assert card.valid_top1 == pytest.approx(0.7)  # the third best
    models_step(run)
    assert shipped(run) == [card.name] and len(events(run, "model_rejected")) == 2


def test_a_limit_that_no_model_keeps_as_it_ships_is_infeasible(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = limited(run, 2.0)
    monkeypatch.setattr(prove, "measure_latency", slow_as_shipped(99))
    for _ in range(2):
        with pytest.raises(InfeasibleError, match=r"latency_ms=2: no candidate .* takes 3 ms"):
            models_step(run)
        assert shipped(run) == []


def test_under_a_limit_the_next_is_shipped_for_one_that_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = limited(run, 2.0)
    monkeypatch.setattr(prove, "measure_latency", slow_as_shipped(0))
    monkeypatch.setattr(prove, "check_files", breaking(["net01"]))
    for _ in range(2):
        models_step(run)
        assert [each.name[:5] for each in read_failed(run)] == ["net01"]
        assert [name[:5] for name in shipped(run)] == ["net02"]
