"""The shipped architectures trained alone, from fresh weights: was the supernet worth it?

Each is trained with the run's own settings and processes on the run's training images, for a share
of the time that the supernet took, and tested on the same images as the shipped models.

As a module it is a further process of such a training.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from onceforall.artifacts import Baseline, BaselineStart, Card
from onceforall.errors import ConfigError
from onceforall.job.context import Run
from onceforall.job.local_ranks import run_on_all, take_part
from onceforall.job.steps.alone import Alone, begin_alone, epochs_of, seconds_of, train_alone_for
from onceforall.measure.accuracy import evaluate
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.measure.comparison import minutes, supernet_seconds
from onceforall.measure.proportion import Share
from onceforall.supernets.nets import NetPlan, PlainNet, build_net
from onceforall.training.plan import alone_plan
from onceforall.versions import versions

_WARMUP_SHARE = 0.03


def train_alone(
    run: Run, names: Sequence[str] = (), *, budget_s: float | None = None
) -> list[Baseline]:
    """Train architectures of a run alone; what is done is found again.

    Args:
        run: A run with models.
        names: Names of models; by default all that were not fine-tuned.
        budget_s: Seconds of training for each; by default the time that the supernet took, shared
            equally by all models that were not fine-tuned.

    Returns:
        What ``baselines/<name>.json`` holds, in the order of the models.

    Raises:
        ConfigError: If there is no such model, or one was trained alone for another time.
        Interrupted: If it was asked to stop; the same call goes on.
    """
    cards = run.folder.read_cards()
    chosen = chosen_cards(run, cards, names)
    for card in chosen:
        _check_budget(run, card, budget_s)
    if run.config.train.init:
        text = f"the supernet started from {run.config.train.init}, networks alone do not"
        run.tell({"event": "warning", "text": text})
    share_s = budget_s
    results = []
    for number, card in enumerate(chosen, start=1):
        path = run.folder.baseline(card.name)
        if not _is_of(Baseline, path, card):
            share_s = share_s or _default_budget(run, cards)
            start = _start(run, card, share_s)
            text = f"alone from fresh weights for {minutes(start.budget_s)}"
            place = {"number": number, "of": len(chosen), "step": card.name}
            run.tell({"event": "step_started", "text": text, **place})
            _train_one(run, card, start).write(path)
            shutil.rmtree(_checkpoints(run, card))
        results.append(Baseline.read(path))
    return results


def chosen_cards(run: Run, cards: Sequence[Card], names: Sequence[str]) -> list[Card]:
    """Return the cards of the named models; of none, of all that were not fine-tuned.

    Raises:
        ConfigError: If there is no such model, or none at all.
    """
    by_name = {card.name: card for card in cards}
    if not by_name:
        raise ConfigError(f"{run.folder.path} has no models yet: run  ofa run")
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)[0]
            known = ", ".join(by_name)
            raise ConfigError(f"model {name!r} is not one of {known}; did you mean {near}?")
    if names:
        return [card for name, card in by_name.items() if name in names]
    return _own_models(cards)


def _own_models(cards: Sequence[Card]) -> list[Card]:
    """Return the models that are as the supernet left them."""
    return [card for card in cards if card.finetuned_from is None]


def _default_budget(run: Run, cards: Sequence[Card]) -> float:
    """Return one model's share of the seconds that the supernet took.

    Raises:
        ConfigError: If the run does not tell how long it took.
    """
    seconds = supernet_seconds(run.folder.read_events())
    if seconds is None:
        raise ConfigError(
            f"{run.folder.events} does not tell how long the supernet was trained: say --budget"
        )
    return round(seconds / max(1, len(_own_models(cards))), 3)


# -- what is there already ------------------------------------------------------------------------


def _checkpoints(run: Run, card: Card) -> Path:
    return run.folder.checkpoints / f"baseline-{card.name}"


def _started(run: Run, card: Card) -> Path:
    """Return the file that says for how long an unfinished training was started."""
    return _checkpoints(run, card) / "started.json"


def _is_of(kind: type[Baseline | BaselineStart], path: Path, card: Card) -> bool:
    """Say whether a file is there and of the very architecture of a card."""
    return path.is_file() and kind.read(path).arch == card.arch


def _check_budget(run: Run, card: Card, budget_s: float | None) -> None:
    """Raise ConfigError if a network was trained alone for another time than is asked for."""
    result = run.folder.baseline(card.name)
    places: tuple[tuple[type[Baseline | BaselineStart], Path, Path], ...] = (
        (Baseline, result, result),
        (BaselineStart, _started(run, card), _checkpoints(run, card)),
    )
    for kind, path, what in places:
        if budget_s is None or not _is_of(kind, path, card):
            continue
        before_s = kind.read(path).budget_s
        if before_s != budget_s:
            raise ConfigError(
                f"{card.name} was trained alone with --budget {before_s:g}s, not {budget_s:g}s; "
                f"remove {what} to train it again"
            )


def _start(run: Run, card: Card, budget_s: float) -> BaselineStart:
    """Return the time of a training: that of the unfinished one, or a new one."""
    path = _started(run, card)
    if not _is_of(BaselineStart, path, card):
        shutil.rmtree(path.parent, ignore_errors=True)
        begin_alone(run, "baseline", card.name)
        BaselineStart(arch=card.arch, budget_s=budget_s).write(path)
    return BaselineStart.read(path)


# -- one network ----------------------------------------------------------------------------------


def fresh_network(plan: NetPlan, *, seed: int) -> PlainNet:
    """Return the plain network of a blueprint with fresh weights, initialised as a supernet's.

    Convolutions are drawn from a normal distribution of variance ``2 / fan_out``, where a filter
    of a depthwise convolution has the fan-out of its own channel. Source: He et al., *Delving
    Deep into Rectifiers*, ICCV 2015, equation 14.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_net(plan)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    return net


def _alone(run: Run, card: Card, start: BaselineStart) -> Alone:
    return Alone(
        kind="baseline",
        name=card.name,
        folder=_checkpoints(run, card),
        resolution=card.resolution,
        budget_s=start.budget_s,
    )


def _train(run: Run, card: Card, start: BaselineStart) -> PlainNet:
    """Train the architecture of a card from fresh weights as one of the run's ranks."""
    network = fresh_network(card.blueprint, seed=run.config.seed)
    model: PlainNet = network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The run's settings, a single phase without a teacher.
    plan = alone_plan(run.config.plan(run.spec), epochs=1.0, warmup_epochs=0.0)
    plan = dataclasses.replace(plan, head_factor=1.0)
    train_alone_for(run, model, plan, _alone(run, card, start), warmup_share=_WARMUP_SHARE)
    return model


def take_part_alone(run: Run, names: Sequence[str]) -> None:
    """Train the named model alone as a further rank."""
    (card,) = (card for card in run.folder.read_cards() if card.name == names[0])
    _train(run, card, BaselineStart.read(_started(run, card)))


def _train_one(run: Run, card: Card, start: BaselineStart) -> Baseline:
    """Train one network to its end and test it just as shipped models are."""
    with run_on_all(run, "onceforall.job.tasks.baseline", [card.name]) as together:
        model = _train(together, card, start)
    session, arch = run.session(), card.arch
    model = model.to(run.device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    recalibrate_bn(model, session.calibration_batches(arch.resolution))
    accuracy = evaluate(model, session.test.batches(arch.resolution))
    return Baseline(
        name=card.name,
        arch=arch,
        top1=accuracy.top1,
        top1_interval=Share(value=accuracy.top1, count=accuracy.images).interval,
        top5=accuracy.top5,
        images=accuracy.images,
        epochs=epochs_of(run, _alone(run, card, start)),
        seconds=seconds_of(run, _alone(run, card, start)),
        budget_s=start.budget_s,
        seed=run.config.seed,
        resolution=arch.resolution,
        processes=run.config.train.ranks,
        threads=torch.get_num_threads(),
        versions=versions(),
    )


if __name__ == "__main__":
    sys.exit(take_part(take_part_alone))
