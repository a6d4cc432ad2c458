"""The train step of a run: weights to start from, probes along the way, the supernet at the end."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field

import torch

from onceforall.errors import CheckpointError
from onceforall.job.context import Event, Run
from onceforall.job.data import DataSession
from onceforall.job.weights import load_initial_weights, new_supernet
from onceforall.measure.subnet import evaluate_arch
from onceforall.supernets.supernet import Supernet
from onceforall.supernets.weights import save_supernet
from onceforall.training.budget import Pace
from onceforall.training.engine import train
from onceforall.training.ranks import agree, gather_numbers, sum_over_ranks, wait_for_all
from onceforall.training.settings import Callbacks, TrainOptions
from onceforall.training.step import Trainable


def train_step(run: Run) -> None:
    """Train the supernet, or go on training it."""
    if _is_trained(run):
        return
    session = run.session()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        net = new_supernet(run)
    load_initial_weights(run, net)
    if run.config.train.epochs != 0:
        _train(run, session, net)
    if run.ranks.is_main:
        bundle = run.bundle
        facts = {
            "classes": list(bundle.class_names),
            "mean": list(bundle.mean),
            "std": list(bundle.std),
            "crop_ratio": bundle.eval_crop_ratio,
            "data": bundle.name,
        }
        save_supernet(net, run.folder.supernet, facts=facts)
    wait_for_all(run.ranks)


def _train(run: Run, session: DataSession, net: Supernet) -> None:
    train(
        net,
        run.config.plan(run.spec),
        session.train,
        folder=run.folder.checkpoints,
        options=TrainOptions(
            seed=run.config.seed,
            autocast=bool(run.config.train.autocast),
            micro_batches=run.config.train.micro_batches,
            pace=_pace(run),
        ),
        callbacks=Callbacks(
            on_event=run.emit,
            should_stop=run.should_stop,
            after_epoch=Probes(run=run, session=session),
            change_batch=session.change_batch,
        ),
        ranks=run.ranks,
    )


def _is_trained(run: Run) -> bool:
    """Return whether the supernet is there; on every rank, or CheckpointError on every rank."""
    path = run.folder.supernet
    is_there = path.is_file() and path.with_suffix(".json").is_file()
    found = gather_numbers([int(is_there)], run.ranks, run.device)
    if len(set(found)) > 1:
        without = ", ".join(str(rank) for rank, (one,) in enumerate(found) if not one)
        raise CheckpointError(
            f"{path} is not there on rank {without}; all ranks need the same folder, on a disk "
            "that they share"
        )
    return bool(found[0][0])


def _pace(run: Run) -> Pace | None:
    """Return the time that training has, if the run has a budget."""
    estimate, clock = run.estimate, run.clock
    if math.isinf(clock.budget_s) or estimate is None or not estimate.step_seconds:
        return None
    after_s = estimate.evaluate_s + estimate.rest_s
    return Pace(
        seconds_left=lambda crowding: clock.left_s() - crowding * after_s,
        step_seconds=estimate.step_seconds,
        every_s=min(20.0, max(1.0, 0.02 * estimate.train_s)),
        may_grow=estimate.fills_budget,
    )


@dataclass(slots=True, kw_only=True)
class Probes:
    """Watches three subnets while a supernet trains: smallest, largest and a random one.

    Each is extracted, recalibrated and measured on the validation images after every epoch, as
    long as that takes at most a thirtieth of the time, and after the last. Ranks share the work.

    Attributes:
        run: The run that trains.
        session: Its data.
        started: When training started here.
        spent_s: Seconds spent on probes.
    """

    run: Run
    session: DataSession
    started: float = field(default_factory=time.monotonic)
    spent_s: float = 0.0

    def __call__(self, net: Trainable, epochs_done: int, is_last: bool) -> Event:
        """Return ``{"probes": {name: top-1}}`` for the epoch's event, or nothing."""
        run, started = self.run, time.monotonic()
        is_due = self.spent_s <= 0.03 * (started - self.started)
        is_due = agree(run.ranks.is_main and is_due, run.ranks, run.device)
        if not (is_due or is_last) or not isinstance(net, Supernet):
            return {}
        space = run.spec.space
        archs = {
            "smallest": space.smallest,
            "random": space.sample(random.Random(f"{run.config.seed}/probe")),
            "largest": space.largest,
        }
        top1 = torch.zeros(len(archs), dtype=torch.float64, device=run.device)
        for i, arch in enumerate(archs.values()):
            if i % run.ranks.world_size == run.ranks.rank:
                top1[i] = evaluate_arch(
                    net,
                    arch,
                    calibration=self.session.calibration_batches,
                    images=self.session.valid,
                ).top1
        found = sum_over_ranks(top1, run.ranks).tolist()
        self.spent_s += time.monotonic() - started
        return {"probes": dict(zip(archs, found, strict=True))}
