"""Winners of the search train on for a share of the run's time, each alone, before they ship.

A few passes give a subnet back what sharing its weights cost it. One that is no better for it on
the validation images ships as the supernet left it.

As a module it is a further process of such a training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from onceforall.arch import Arch
from onceforall.artifacts import BaselineStart, Confirmed, FinetuneSettings, Tuned
from onceforall.deploy.finetune import finetune_plan
from onceforall.job.context import Run
from onceforall.job.interpolation import trained_subnets
from onceforall.job.local_ranks import run_on_all, take_part
from onceforall.job.steps.alone import Alone, begin_alone, epochs_of, seconds_of, train_alone_for
from onceforall.measure.accuracy import evaluate
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.nets import PlainNet
from onceforall.supernets.weights import load_plain, save_plain

_WARMUP_SHARE = 0.05
# What shipping the winners takes, of what was expected of all steps after training; their number
# of images and files is known, and estimates of them were too long so far.
_SHIPPING_SHARE = 0.6
# Of what was planned for it: a run that was faster than planned trains its winners for longer.
_MOST_SHARE = 2.0
# Less training than this is not worth the start of further processes.
_LEAST_S = 2.0


def tune_winners(run: Run, winners: Mapping[str, Confirmed]) -> None:
    """Train winners on, each for an equal part of the time there is; what is done is found again.

    Args:
        run: A run with a trained supernet; without a time, or a share of it, nothing is done.
        winners: Confirmed candidates of the front, by the names of their models.

    Raises:
        Interrupted: If it was asked to stop; the same call goes on.
    """
    if not run.config.search.finetune_share or math.isinf(run.clock.budget_s):
        return
    names = {_key(run, point.arch): name for name, point in winners.items()}
    before = {key: winners[name] for key, name in names.items()}
    left = [key for key in before if not (run.folder.winner(key) / "tuned.json").is_file()]
    if not _begin(run, before, left):
        return
    models: dict[str, PlainNet] = {}
    with run_on_all(run, "onceforall.job.steps.tune", left) as together:
        for number, key in enumerate(left, start=1):
            place = {"number": number, "of": len(left), "step": names[key]}
            text = f"trained on alone for {_alone(run, key).budget_s:.0f} s"
            run.tell({"event": "step_started", "text": text, **place})
            models[key] = _train(together, key)
    session = run.session()
    for key, model in models.items():
        point, folder = before[key], run.folder.winner(key)
        model = model.to(run.device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        recalibrate_bn(model, list(session.calibration_batches(point.arch.resolution)))
        accuracy = evaluate(model, session.valid.batches(point.arch.resolution))
        save_plain(model.cpu(), folder / "tuned.safetensors")
        tuned = Tuned(
            arch=point.arch,
            epochs=epochs_of(run, _alone(run, key)),
            seconds=seconds_of(run, _alone(run, key)),
            valid_top1_before=point.valid_top1,
            valid_top1=accuracy.top1,
        )
        tuned.write(folder / "tuned.json")
        for path in folder.glob("*.pt"):
            path.unlink()


def tuned_net(run: Run, arch: Arch) -> tuple[PlainNet, Tuned] | None:
    """Return a winner as it was trained on, and what came of it; None if it is no better for it.

    The network is recalibrated, in eval mode, on the processor.
    """
    folder = run.folder.winner(_key(run, arch))
    if not (folder / "tuned.json").is_file():
        return None
    facts = Tuned.read(folder / "tuned.json")
    if facts.arch != arch or not facts.is_better:
        return None
    return load_plain(run.spec.blueprint(arch), folder / "tuned.safetensors"), facts


def tuning_settings(run: Run) -> FinetuneSettings:
    """Return how winners are trained on: with the run's usual rate, and without a teacher.

    In the same seconds more passes without one are worth more (docs/results/pictures.md).
    """
    return FinetuneSettings(learning_rate=run.config.grid.finetune_rate, distill=False)


def _key(run: Run, arch: Arch) -> str:
    """Return the name of a winner's folder, the same whatever its place in the front."""
    text = json.dumps([arch.to_json(), tuning_settings(run).model_dump()], sort_keys=True)
    return f"{arch.resolution}px-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _started(run: Run, key: str) -> Path:
    """Return the file that says for how long a winner's training was begun."""
    return run.folder.winner(key) / "started.json"


def _begin(run: Run, winners: Mapping[str, Confirmed], left: Sequence[str]) -> bool:
    """Write down what each winner's training is given; say whether there is any to do.

    What was begun before an interruption keeps its time.
    """
    fresh = [key for key in left if not _started(run, key).is_file()]
    estimate = run.estimate
    planned_s = 0.0 if estimate is None else estimate.tune_s
    rest_s = 0.0 if estimate is None else estimate.rest_s
    free_s = run.clock.left_s() - _SHIPPING_SHARE * rest_s
    each_s = min(free_s, _MOST_SHARE * planned_s) / max(1, len(winners))
    if fresh and each_s < _LEAST_S:
        return False
    for key in fresh:
        begin_alone(run, "winner", key)
        start = BaselineStart(arch=winners[key].arch, budget_s=round(each_s, 3))
        start.write(_started(run, key))
    return bool(left)


# -- one network ----------------------------------------------------------------------------------


def _alone(run: Run, key: str) -> Alone:
    start = BaselineStart.read(_started(run, key))
    return Alone(
        kind="winner",
        name=key,
        folder=run.folder.winner(key),
        resolution=start.arch.resolution,
        budget_s=start.budget_s,
    )


def _train(run: Run, key: str) -> PlainNet:
    """Train a winner on as one of the run's ranks."""
    train, how = run.config.train, tuning_settings(run)
    plan = finetune_plan(
        epochs=1,
        learning_rate=how.learning_rate,
        reference_batch=train.reference_batch,
        distill=how.distill,
        label_smoothing=train.label_smoothing,
        weight_decay=train.weight_decay,
    )
    plan = dataclasses.replace(plan, train_side=train.side)
    arch = BaselineStart.read(_started(run, key)).arch
    model = trained_subnets(run)(arch).extract(arch).to(memory_format=torch.channels_last)
    train_alone_for(run, model, plan, _alone(run, key), warmup_share=_WARMUP_SHARE)
    return model


def take_part_in_tuning(run: Run, keys: Sequence[str]) -> None:
    """Train the named winners as a further rank."""
    for key in keys:
        _train(run, key)


if __name__ == "__main__":
    sys.exit(take_part(take_part_in_tuning))
