"""Validation while a supernet trains: of three subnets often, of a whole grid now and then."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from onceforall.arch import Arch
from onceforall.files import read_json_file
from onceforall.job.context import Event, Run
from onceforall.job.data import DataSession
from onceforall.supernets.nets import ElasticNet
from onceforall.supernets.weights import save_supernet
from onceforall.training.optimizer import averaged_weights
from onceforall.training.plan import Phase
from onceforall.training.ranks import agree, sum_over_ranks
from onceforall.training.settings import EpochEnd


@dataclass(slots=True, kw_only=True)
class Validation:
    """Measures subnets on the validation images after epochs. Ranks share the work.

    Three, the smallest, the largest and a random one, as often as takes at most a thirtieth of the
    time; the grid, as far as the phase has opened it, every so many epochs and at the end of a
    phase, and the state of a phase with the best mean over it is kept.

    Attributes:
        run: The run that trains.
        session: Its data.
        facts: What is written beside the best state.
        epochs_before: Epochs of the training that this one goes on from.
        started: When training started here.
        spent_s: Seconds spent on the three.
    """

    run: Run
    session: DataSession
    facts: Mapping[str, Any]
    epochs_before: int = 0
    started: float = field(default_factory=time.monotonic)
    spent_s: float = 0.0

    def __call__(self, end: EpochEnd) -> Event:
        """Return ``probes`` and ``grid`` for the epoch's event: validation top-1 by name."""
        if not isinstance(end.net, ElasticNet):
            return {}
        with averaged_weights(end.net, end.average):  # those that training ends with
            return {**self._probes(end.net, end.is_last), **self._grid(end.net, end)}

    def _probes(self, net: ElasticNet, is_last: bool) -> Event:
        run, started = self.run, time.monotonic()
        is_due = self.spent_s <= 0.03 * (started - self.started)
        is_due = agree(run.ranks.is_main and is_due, run.ranks, run.device)
        if not (is_due or is_last):
            return {}
        space = run.spec.space
        watched = {"largest": space.largest}
        if space.size > 1:
            sampled = space.sample(random.Random(f"{run.config.seed}/probe"))
            watched = {"smallest": space.smallest, "random": sampled, **watched}
        found = self._top1(net, watched)
        self.spent_s += time.monotonic() - started
        return {"probes": found}

    def _grid(self, net: ElasticNet, end: EpochEnd) -> Event:
        every = self.run.config.grid.every
        if not every or not (end.ends_phase or end.epochs_done % every == 0):
            return {}
        found = self._top1(net, self._opened(end.phase))
        mean = sum(found.values()) / len(found)
        if self.run.ranks.is_main and mean > self._best_so_far(end.phase):
            notes = {"phase": end.phase.name, "epochs_done": self.epochs_before + end.epochs_done}
            facts = {**self.facts, **notes, "grid": found, "mean_top1": mean}
            save_supernet(net, self.run.folder.best, facts=facts)
        return {"grid": found, "grid_mean": round(mean, 5)}

    def _opened(self, phase: Phase) -> dict[str, Arch]:
        """Return what the phase has opened of the grid; where that is nothing, its largest."""
        space = phase.opened.restrict(self.run.spec.space)
        grid = self.run.config.grid_archs(self.run.spec.space)
        opened = {name: arch for name, arch in grid.items() if space.contains(arch)}
        return opened or {"largest": space.largest}

    def _best_so_far(self, phase: Phase) -> float:
        beside = self.run.folder.best.with_suffix(".json")
        known = read_json_file(beside) if beside.is_file() else {}
        return float(known["mean_top1"]) if known.get("phase") == phase.name else -1.0

    def _top1(self, net: ElasticNet, archs: Mapping[str, Arch]) -> dict[str, float]:
        run = self.run
        top1 = torch.zeros(len(archs), dtype=torch.float64, device=run.device)
        for i, arch in enumerate(archs.values()):
            if i % run.ranks.world_size == run.ranks.rank:
                top1[i] = self.session.valid_accuracy(net, arch).top1
        return dict(zip(archs, sum_over_ranks(top1, run.ranks).tolist(), strict=True))
