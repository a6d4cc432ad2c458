"""The train step of a run: weights to start from, validation on the way, the trained supernet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from onceforall.errors import CheckpointError
from onceforall.job.changed_settings import continued
from onceforall.job.context import Event, Run
from onceforall.job.data import DataSession, calibration_augmentation
from onceforall.job.interpolation import INTERPOLATION
from onceforall.job.more_epochs import train_on
from onceforall.job.steps.interpolate import find_interpolation, seconds_to_find
from onceforall.job.steps.training_phases import read_entry, write_phase
from onceforall.job.steps.validation import Validation
from onceforall.job.weights import fit_fresh_classifier, load_initial_weights, new_supernet
from onceforall.supernets.nets import ElasticNet
from onceforall.supernets.weights import save_supernet
from onceforall.training.budget import Pace
from onceforall.training.engine import train
from onceforall.training.plan import Plan
from onceforall.training.ranks import gather_numbers, wait_for_all
from onceforall.training.settings import Callbacks, EpochEnd, TrainOptions


def train_step(run: Run) -> None:
    """Train the supernet, or go on training it."""
    if _is_trained(run):
        return
    session, done = run.session(), continued(run.folder)
    if done is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.config.seed)
            net = new_supernet(run)
        load_initial_weights(run, net)
        _keep_network(run, net)
        if run.config.train.epochs != 0:
            fit_fresh_classifier(run, session, net)
            _train(run, session, net)
        _save(run, net, [])
    for number in range(len(done or []), len(run.config.train.more_epochs)):
        net = train_on(run, session, number, _facts(run))
        _save(run, net, run.config.train.more_epochs[: number + 1])


def _save(run: Run, net: ElasticNet, more_epochs: Sequence[float]) -> None:
    """Write the trained supernet, for how many epochs it was trained on, and where subnets lie."""
    is_trained = run.config.train.epochs != 0 or more_epochs
    found = find_interpolation(run, net) if is_trained else None
    if run.ranks.is_main:
        more: dict[str, Any] = {} if found is None else {INTERPOLATION: found.to_json()}
        more |= {"more_epochs": list(more_epochs)} if more_epochs else {}
        save_supernet(net, run.folder.supernet, facts={**_facts(run), **more})
    wait_for_all(run.ranks)


def _keep_network(run: Run, net: ElasticNet) -> None:
    """Write the traced network that training starts from; a run killed at its start lacks it."""
    if run.config.supernet.family == "graph" and run.ranks.is_main and not run.folder.has_network():
        save_supernet(net, run.folder.network)
    wait_for_all(run.ranks)


def _facts(run: Run) -> dict[str, Any]:
    """Return what is written beside weights: the classes, and how images are prepared."""
    bundle = run.bundle
    facts: dict[str, Any] = {
        "classes": list(bundle.class_names),
        "mean": list(bundle.mean),
        "std": list(bundle.std),
        "crop_ratio": bundle.eval_crop_ratio,
        "data": bundle.name,
    }
    varied = calibration_augmentation(run.config.data, bundle)
    return facts if varied is None else {**facts, "calibration_augmentation": asdict(varied)}


def _train(run: Run, session: DataSession, net: ElasticNet) -> None:
    plan, facts = run.config.plan(run.spec), _facts(run)
    teacher, average = read_entry(run, plan, net)
    validate = Validation(run=run, session=session, facts=facts)

    def after_epoch(end: EpochEnd) -> Event:
        if end.is_last and run.ranks.is_main:
            _write_length(run, plan, end.epochs)
        if end.ends_phase and run.ranks.is_main and len(plan.phases) > 1:
            write_phase(run, plan, end, facts)
        return validate(end)

    train(
        net,
        plan,
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
            after_epoch=after_epoch,
            change_batch=session.change_batch,
        ),
        ranks=run.ranks,
        teacher=teacher,
        start_at=run.config.train.start_at,
        average=average,
    )


def _write_length(run: Run, plan: Plan, epochs: float) -> None:
    """Note in ``run.yaml`` what became of the epochs that were asked for.

    Args:
        run: The run.
        plan: Its plan as it was asked for.
        epochs: Length of all phases in the time that there was.
    """
    asked = run.config.train.asked_epochs
    if asked is not None:
        share = epochs / sum(phase.epochs for phase in plan.phases)
        settings = run.folder.read_settings()
        trained = settings.model_copy(update={"epochs_trained": asked * share})
        trained.write(run.folder.settings)


def _is_trained(run: Run) -> bool:
    """Return whether the supernet is there; on every rank, or CheckpointError on every rank."""
    done = continued(run.folder)
    found = gather_numbers([-1 if done is None else len(done)], run.ranks, run.device)
    if len(set(found)) > 1:
        without = ", ".join(str(rank) for rank, (one,) in enumerate(found) if one < 0)
        raise CheckpointError(
            f"{run.folder.supernet} is not there on rank {without}; all ranks need the same "
            "folder, on a disk that they share"
        )
    return bool(found[0][0] >= len(run.config.train.more_epochs))


def _pace(run: Run) -> Pace | None:
    """Return the time that training has, if the run has a budget."""
    estimate, clock = run.estimate, run.clock
    if math.isinf(clock.budget_s) or estimate is None or not estimate.step_seconds:
        return None
    after_s = seconds_to_find(run) + estimate.evaluate_s + estimate.rest_s
    return Pace(
        seconds_left=lambda crowding: run.left_s() - crowding * after_s,
        step_seconds=estimate.step_seconds,
        every_s=min(20.0, max(1.0, 0.02 * estimate.train_s)),
        may_grow=estimate.fills_budget,
    )
