"""Subnets that were measured to be better than the predicted front are candidates too."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest
import torch

from onceforall.arch import Arch
from onceforall.artifacts import ConfirmedFile, Request
from onceforall.job.context import Run
from onceforall.job.pipeline import run_all
from onceforall.job.start import open_run
from onceforall.job.steps.confirm import confirm_step
from onceforall.job.steps.search import measured_above, problem_of
from tests.job.tiny_run import SETTINGS, write_images

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    request = Request(source=str(write_images(folder / "images.npz")), flags=SETTINGS)
    cpu = torch.device("cpu")
    run_all(request, folder / "run", tell=lambda event: None, until="search", device=cpu)
    return folder / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Run:
    """A run whose search expects half of all images to be told right, at most."""
    shutil.copytree(searched, tmp_path / "run")
    found = open_run(tmp_path / "run", tell=lambda event: None, device=torch.device("cpu"))
    front = found.folder.read_front()
    said = {"predicted_top1": 0.5, "predicted_top1_std": 0.1}
    points = tuple(point.model_copy(update=said) for point in front.points)
    front.model_copy(update={"points": points}).write(found.folder.front)
    return found


def say(run: Run, top1: dict[Arch, float]) -> None:
    """Write measurements: those given, of all other subnets 0."""
    measured = run.folder.read_evaluations()
    for path in run.folder.path.glob("evaluations*.jsonl"):
        path.unlink()
    for each in measured:
        told = each.model_copy(update={"top1": top1.get(each.arch, 0.0)})
        told.append(run.folder.path / "evaluations.jsonl")


def outside(run: Run) -> list[Arch]:
    """Return measured subnets that are not on the front, the largest first."""
    there = {point.arch for point in run.folder.read_front().points}
    found = [each for each in run.folder.read_evaluations() if each.arch not in there]
    return [each.arch for each in sorted(found, key=lambda each: -each.macs)]


def test_what_is_above_the_front_is_a_candidate_and_nothing_else(run: Run) -> None:
    front = run.folder.read_front().points
    big, middle, *_ = outside(run)
    say(run, {big: 1.0, middle: 0.0})
    assert [point.arch for point in measured_above(run, front)] == [big]
    say(run, {})
    assert measured_above(run, front) == []
    confirm_step(run)
    before = len(ConfirmedFile.read(run.folder.confirmed).points)
    run.folder.confirmed.unlink()
    say(run, {big: 1.0})
    confirm_step(run)
    after = ConfirmedFile.read(run.folder.confirmed).points
    assert len(after) == before + 1 and after[-1].arch == big


def test_a_front_may_be_a_deviation_worse_than_predicted(run: Run) -> None:
    front = run.folder.read_front().points
    big, *_ = outside(run)
    say(run, {big: 0.41})
    assert [point.arch for point in measured_above(run, front)] == [big]
    say(run, {big: 0.39})
    assert measured_above(run, front) == []


def test_one_that_another_beats_is_left_out(run: Run) -> None:
    front = run.folder.read_front().points
    big, *_, small = outside(run)
    say(run, {big: 0.98, small: 1.0})
    assert [point.arch for point in measured_above(run, front)] == [small]
    say(run, {big: 1.0, small: 0.98})
    found = {point.arch for point in measured_above(run, front)}
    assert found == {big, small}


def test_one_that_breaks_a_limit_neither_counts_nor_beats_another(run: Run) -> None:
    """Of two, the faster and better one has too many parameters: the other is chosen."""
    front = run.folder.read_front().points
    archs = outside(run)
    costs = problem_of(run, {}).costs
    rows = run.encoding.from_archs(archs)
    params, latency = (costs[name](rows) for name in ("params", "latency_ms"))
    pairs = itertools.permutations(range(len(archs)), 2)
    heavy, light = next(
        (i, j) for i, j in pairs if latency[i] < latency[j] and params[i] > params[j]
    )
    say(run, {archs[heavy]: 1.0, archs[light]: 0.9})
    assert [point.arch for point in measured_above(run, front)] == [archs[heavy]]
    search = run.config.search.model_copy(update={"limits": {"params": float(params[heavy]) - 1}})
    config = run.config.model_copy(update={"search": search})
    found = measured_above(dataclasses.replace(run, config=config), front)
    assert [point.arch for point in found] == [archs[light]]


def test_the_front_itself_is_not_said_twice(run: Run) -> None:
    front = run.folder.read_front().points
    known = {each.arch for each in run.folder.read_evaluations()}
    both = [point.arch for point in front if point.arch in known]
    say(run, dict.fromkeys(both, 1.0))
    assert not {point.arch for point in measured_above(run, front)} & set(both)


def test_without_measurements_there_is_none(run: Run) -> None:
    front = run.folder.read_front().points
    for path in run.folder.path.glob("evaluations*.jsonl"):
        path.unlink()
    assert measured_above(run, front) == []
