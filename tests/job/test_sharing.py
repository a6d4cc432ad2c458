"""Ranks share out the subnets to measure: none is lost, none is measured twice."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onceforall.arch import Arch
from onceforall.artifacts import Evaluation
from onceforall.encoding import Encoding
from onceforall.job.clock import Clock
from onceforall.job.config import resolve
from onceforall.job.data import _num_workers
from onceforall.job.folder import RunFolder
from onceforall.job.recipes import recipe_for
from onceforall.job.steps import evaluate as predicting
from onceforall.job.steps.evaluate import archs_to_evaluate, evaluate_step
from onceforall.measure.costs import count_macs
from onceforall.training.ranks import Ranks
from tests.training.tiny import SPEC


@pytest.mark.parametrize(
    ("workers", "started", "world_size", "each"),
    [(8, 2, 2, 4), (1, 4, 4, 1), (0, 4, 4, 0), (8, 2, 1, 8), (8, 1, 16, 8)],
)
def test_ranks_of_a_run_share_its_readers_and_those_of_a_launcher_do_not(
    workers: int, started: int, world_size: int, each: int
) -> None:
    """After training one process is left, and has them all."""
    recipe = recipe_for("x", image_side=32, num_train=100, num_classes=2)
    config = resolve(recipe, flags=(f"data.num_workers={workers}", f"train.ranks={started}"))
    assert _num_workers(config, Ranks(world_size=world_size)) == each


@pytest.mark.parametrize("seed", range(3))
def test_the_ends_are_measured_first_whenever_time_is_up(seed: int) -> None:
    evaluate = SimpleNamespace(num_archs=20)
    run = SimpleNamespace(
        encoding=Encoding(SPEC.space),
        spec=SPEC,
        config=SimpleNamespace(seed=seed, evaluate=evaluate),
    )
    archs = archs_to_evaluate(run)  # type: ignore[arg-type]
    assert archs[:2] == [SPEC.space.largest, SPEC.space.smallest]
    whole = [dataclasses.replace(SPEC.space.largest, resolution=r) for r in SPEC.space.resolutions]
    assert set(whole) <= set(archs[: 1 + len(whole)]) and len(whole) <= 4
    assert len(set(archs)) == len(archs) >= 20
    macs = [count_macs(SPEC.blueprint(arch), resolution=arch.resolution) for arch in archs[2:]]
    assert macs not in (sorted(macs), sorted(macs, reverse=True))


@pytest.mark.parametrize("done_before", [0, 5])
def test_ranks_that_read_at_different_times_measure_every_subnet_once(
    done_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    archs = list(dict.fromkeys(SPEC.space.sample(rng) for _ in range(40)))[:21]
    asked = []

    def known(arch: Arch) -> Evaluation:
        return Evaluation(
            arch=arch, top1=0.5, top5=0.5, loss=1.0, images=10, macs=1, resolution=arch.resolution
        )

    def evaluation(session: Any, net: Any, arch: Arch) -> Evaluation:
        asked.append(arch)
        return known(arch)

    monkeypatch.setattr(predicting, "archs_to_evaluate", lambda run: archs)
    monkeypatch.setattr(predicting, "trained_subnets", lambda run: lambda arch: None)
    monkeypatch.setattr(predicting, "wait_for_all", lambda ranks: None)
    monkeypatch.setattr(predicting, "evaluation", evaluation)
    folder = RunFolder(path=tmp_path)
    for arch in archs[:done_before]:
        known(arch).append(folder.evaluations)
    for rank in (0, 1, 2):  # each reads what the one before it has written
        run = SimpleNamespace(
            folder=folder,
            ranks=Ranks(rank=rank, world_size=3),
            session=lambda: None,
            progress=lambda step, done, total: None,
            emit=lambda event: None,
            clock=Clock(),
            estimate=None,
        )
        evaluate_step(run)  # type: ignore[arg-type]
    assert sorted(map(str, asked)) == sorted(map(str, archs[done_before:]))
    assert len(folder.read_evaluations()) == len(archs)
