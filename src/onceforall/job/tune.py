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
import time
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from onceforall.arch import Arch
from onceforall.artifacts import BaselineStart, Confirmed, FinetuneSettings, Tuned
from onceforall.deploy.finetune import finetune, finetune_plan
from onceforall.job.context import Event, Run
from onceforall.job.local_ranks import run_on_all, take_part
from onceforall.job.weights import trained_supernet
from onceforall.measure.accuracy import evaluate
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.nets import PlainNet
from onceforall.supernets.weights import load_plain, save_plain
from onceforall.training.budget import Pace
from onceforall.training.plan import Plan
from onceforall.training.settings import Callbacks, TrainOptions

# Epochs that a training is planned with before its first look at the clock: more than it will get,
# so that the learning rate has not gone far by then.
_PLANNED_EPOCHS = 1000
_WARMUP_SHARE = 0.05
# What shipping the winners takes, of what was expected of all steps after training; their number
# of images and files is known, and estimates of them were too long so far.
_SHIPPING_SHARE = 0.6
# Of what was planned for it: a run that was faster than planned trains its winners for longer.
_MOST_SHARE = 2.0
# Less training than this is not worth the start of further processes.
_LEAST_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunedNet:
    """A winner as it was trained on.

    Attributes:
        model: The network, recalibrated, in eval mode, on the processor.
        facts: What came of it.
    """

    model: PlainNet
    facts: Tuned


def tune_winners(run: Run, winners: Sequence[Confirmed]) -> None:
    """Train winners on, each for an equal part of the time there is; what is done is found again.

    Args:
        run: A run with a trained supernet; without a time, or a share of it, nothing is done.
        winners: Confirmed candidates of the front.

    Raises:
        Interrupted: If it was asked to stop; the same call goes on.
    """
    if not run.config.search.finetune_share or math.isinf(run.clock.budget_s):
        return
    before = {_key(run, point.arch): point for point in winners}
    left = [key for key in before if not (run.folder.winner(key) / "tuned.json").is_file()]
    if not _begin(run, before, left):
        return
    models: dict[str, PlainNet] = {}
    with run_on_all(run, "onceforall.job.tune", left) as together:
        for number, key in enumerate(left, start=1):
            seconds = BaselineStart.read(run.folder.winner(key) / "started.json").budget_s
            place = {"number": number, "of": len(left), "step": key}
            text = f"trained on alone for {seconds:.0f} s"
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
            epochs=_last(run, key)["epochs_done"],
            seconds=_seconds(run, key),
            valid_top1_before=point.valid_top1,
            valid_top1=accuracy.top1,
        )
        tuned.write(folder / "tuned.json")
        for path in folder.glob("*.pt"):
            path.unlink()


def tuned_net(run: Run, arch: Arch) -> TunedNet | None:
    """Return a winner as it was trained on; None if it was not, or is no better for it."""
    folder = run.folder.winner(_key(run, arch))
    if not (folder / "tuned.json").is_file():
        return None
    facts = Tuned.read(folder / "tuned.json")
    if facts.arch != arch or not facts.is_better:
        return None
    model = load_plain(run.spec.blueprint(arch), folder / "tuned.safetensors")
    return TunedNet(model=model, facts=facts)


def tuning_settings(run: Run) -> FinetuneSettings:
    """Return how winners are trained on: with the run's usual rate, and without a teacher.

    In the same seconds more passes without one are worth more (docs/results/pictures.md).
    """
    return FinetuneSettings(learning_rate=run.config.grid.finetune_rate, distill=False)


def _key(run: Run, arch: Arch) -> str:
    """Return the name of a winner's folder, the same whatever its place in the front."""
    text = json.dumps([arch.to_json(), tuning_settings(run).model_dump()], sort_keys=True)
    return f"{arch.resolution}px-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _begin(run: Run, winners: Mapping[str, Confirmed], left: Sequence[str]) -> bool:
    """Write down what each winner's training is given; say whether there is any to do.

    What was begun before an interruption keeps its time.
    """
    paths = {key: run.folder.winner(key) / "started.json" for key in left}
    fresh = [key for key, path in paths.items() if not path.is_file()]
    estimate = run.estimate
    planned_s = 0.0 if estimate is None else estimate.tune_s
    rest_s = 0.0 if estimate is None else estimate.rest_s
    free_s = run.clock.left_s() - _SHIPPING_SHARE * rest_s
    each_s = min(free_s, _MOST_SHARE * planned_s) / max(1, len(winners))
    if fresh and each_s < _LEAST_S:
        return False
    for key in fresh:
        start = BaselineStart(arch=winners[key].arch, budget_s=round(each_s, 3))
        start.write(paths[key])
    return bool(left)


# -- one network ----------------------------------------------------------------------------------


def _plan(run: Run) -> Plan:
    train, how = run.config.train, tuning_settings(run)
    plan = finetune_plan(
        epochs=_PLANNED_EPOCHS,
        learning_rate=how.learning_rate,
        reference_batch=train.reference_batch,
        distill=how.distill,
        label_smoothing=train.label_smoothing,
        weight_decay=train.weight_decay,
    )
    (phase,) = plan.phases
    phase = dataclasses.replace(phase, warmup_epochs=_WARMUP_SHARE * _PLANNED_EPOCHS)
    return dataclasses.replace(plan, phases=(phase,), train_side=train.side)


def _train(run: Run, key: str) -> PlainNet:
    """Train a winner on as one of the run's ranks."""
    folder = run.folder.winner(key)
    start = BaselineStart.read(folder / "started.json")
    session = run.session()
    model = trained_supernet(run).extract(start.arch).to(memory_format=torch.channels_last)
    end = time.monotonic() + start.budget_s - _seconds(run, key)
    finetune(
        model,
        _plan(run),
        session.train,
        resolution=start.arch.resolution,
        num_classes=run.bundle.num_classes,
        folder=folder,
        options=TrainOptions(
            seed=run.config.seed,
            autocast=bool(run.config.train.autocast),
            micro_batches=run.config.train.micro_batches,
            pace=Pace(
                seconds_left=lambda crowding: end - time.monotonic(),
                step_seconds=(1.0,),
                every_s=min(20.0, 0.02 * start.budget_s),
            ),
        ),
        callbacks=Callbacks(
            on_event=partial(_tell, run, key),
            should_stop=run.should_stop,
            change_batch=session.change_batch,
        ),
        ranks=run.ranks,
    )
    return model


def take_part_in_tuning(run: Run, keys: Sequence[str]) -> None:
    """Train the named winners as a further rank."""
    for key in keys:
        _train(run, key)


def _tell(run: Run, key: str, event: Event) -> None:
    """Show an event; keep it as one of this winner, beside those of the supernet's training."""
    run.tell(event)
    if event["event"] != "step":
        run.emit({**event, "event": f"winner_{event['event']}", "model": key})


def _events(run: Run, key: str, *kinds: str) -> list[Event]:
    return [event for event in run.folder.read_events(*kinds) if event["model"] == key]


def _last(run: Run, key: str) -> Event:
    return _events(run, key, "winner_epoch")[-1]


def _seconds(run: Run, key: str) -> float:
    """Return the seconds of a winner's training, those before interruptions included."""
    told = _events(run, key, "winner_epoch", "winner_checkpoint")
    return max((float(event.get("seconds", 0.0)) for event in told), default=0.0)


if __name__ == "__main__":
    sys.exit(take_part(take_part_in_tuning))
