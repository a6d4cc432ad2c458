"""Ranks share out the subnets to measure: none is lost, none is measured twice."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from onceforall import predicting
from onceforall.clock import Clock
from onceforall.files import append_jsonl
from onceforall.planning import NO_ESTIMATE
from onceforall.predicting import evaluate_step, read_evaluations
from onceforall.run import RunFolder
from onceforall.train.ranks import Ranks
from tests.train.tiny import SPEC


@pytest.mark.parametrize("done_before", [0, 5])
def test_ranks_that_read_at_different_times_measure_every_subnet_once(
    done_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    archs = list(dict.fromkeys(SPEC.space.sample(rng) for _ in range(40)))[:21]
    asked = []

    def evaluation(run, session, net, arch):
        asked.append(arch)
        return {"arch": arch.to_json(), "top1": 0.5}

    monkeypatch.setattr(predicting, "archs_to_evaluate", lambda run: archs)
    monkeypatch.setattr(predicting, "trained_supernet", lambda run: None)
    monkeypatch.setattr(predicting, "wait_for_all", lambda ranks: None)
    monkeypatch.setattr(predicting, "_evaluation", evaluation)
    folder = RunFolder(path=tmp_path)
    for arch in archs[:done_before]:
        append_jsonl(folder.evaluations, {"arch": arch.to_json(), "top1": 0.5})
    for rank in (0, 1, 2):  # each reads what the one before it has written
        run = SimpleNamespace(
            folder=folder,
            ranks=Ranks(rank=rank, world_size=3),
            session=lambda: None,
            progress=lambda step, done, total: None,
            emit=lambda event: None,
            clock=Clock(),
            estimate=NO_ESTIMATE,
        )
        evaluate_step(run)  # type: ignore[arg-type]
    assert sorted(map(str, asked)) == sorted(map(str, archs[done_before:]))
    assert len(read_evaluations(run)) == len(archs)  # type: ignore[arg-type]
