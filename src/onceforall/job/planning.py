"""What a run does in its time, decided before it starts: network, precision, processes, lengths."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from onceforall.artifacts import Estimate
from onceforall.errors import ConfigError
from onceforall.job.choose_network import Task, choose_network
from onceforall.job.config import RunConfig
from onceforall.job.machine import usable_cores
from onceforall.job.sections import SupernetConfig
from onceforall.training.plan import Plan
from onceforall.training.speed import Speed, phase_step_seconds

# Sides below the largest at which the largest subnet is measured, at most.
FURTHER_SIDES = 3
# Passes below which no network of the ladder gets anywhere.
_FEWEST_PASSES = 0.5
# Shares of a time for the steps after training, where the user says nothing.
_EVALUATE_SHARE, _LATENCY_SHARE, _CONFIRM_SHARE = 0.05, 0.03, 0.03
# What an image of an evaluation takes at most, of a forward pass as it was timed. Runs of 5 to 60
# minutes saw 0.5 to 0.65 of the ladder's networks, and 0.9 of a traced one.
_OF_FORWARD = 1.15
# Images of a process in a step: batch norm sees no others.
_FEWEST_IMAGES = 16
# Processes that read for one GPU, at most.
_MOST_READERS = 8
# A process takes some seconds to start: below this much training it is not worth another.
_WORTH_RANKS_S = 20.0
# Runs of a network whose latency is measured, those that warm it up included.
_TIMING_RUNS = 50
# Images that go through supernet, plain network and both files of a model that ships, in all.
_COMPARED_IMAGES = 64
# Steps of processes side by side take longer than those of one alone, which are timed: they share
# memory and caches.
_SIDE_BY_SIDE = 1.1
# What further processes take to start.
_START_RANKS_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A configuration with nothing left open.

    Attributes:
        config: With its network, precision, processes and lengths.
        budget_s: Seconds of the whole command; infinity where the user gave the epochs.
        estimate: What it is expected to take.
        why: One line that says what was chosen and why.
    """

    config: RunConfig
    budget_s: float
    estimate: Estimate
    why: str


def plan_config(
    config: RunConfig,
    ladder: Sequence[SupernetConfig],
    task: Task,
    *,
    elapsed_s: float,
    device: torch.device,
) -> Planned:
    """Choose what a configuration leaves open: network, precision, processes, lengths.

    Args:
        config: What recipe and user say.
        ladder: Networks to choose from where the user names none; empty for the configuration's.
        task: Data and wishes.
        elapsed_s: Seconds that the command has taken so far.
        device: Where to train.

    Raises:
        ConfigError: If the time is too short for anything sensible, or an effort has no effect.
    """
    ladder = _open_ladder(config, ladder, task)
    budget_s = task.budget_s or math.inf
    is_open = math.isinf(budget_s) and (config.train.asked_epochs is None or len(ladder) > 1)
    if task.effort is not None and not is_open:
        given = "a time is" if math.isfinite(budget_s) else "epochs and network are"
        raise ConfigError(f"effort {task.effort!r} has no effect where {given} given")
    usual_s = effort_seconds(
        task.effort or "balanced", num_train=task.num_train, image_side=task.image_side
    )
    if math.isinf(budget_s) and config.train.asked_epochs is None:
        budget_s = usual_s
    _check_lengths(config, budget_s)
    config = _with_readers(config, task, device)
    cores = usable_cores() if device.type == "cpu" else 1
    cores = min(cores, max(1, config.train.batch_size // _FEWEST_IMAGES))
    wants_ranks = config.train.ranks == 0 and task.world_size == 1 and not config.train.threads
    num_processes = cores if wants_ranks else max(config.train.ranks, task.world_size)
    # Where the user gave the epochs: as if for an effort.
    choosing_s = usual_s if math.isinf(budget_s) and len(ladder) > 1 else budget_s
    with _threads_of_a_process(config, device, num_processes):
        network, speed, why = choose_network(
            config,
            ladder,
            task,
            train_s=0.8 * choosing_s,
            num_processes=num_processes,
            device=device,
        )
    if wants_ranks and _alone_seconds(config, network, speed, task, budget_s) < _WORTH_RANKS_S:
        wants_ranks, num_processes = False, 1
        network, speed, why = choose_network(
            config, (network,), task, train_s=choosing_s, num_processes=1, device=device
        )
    config = _with(config, "train", autocast=speed.autocast)
    config = config.model_copy(update={"supernet": network})
    config = _with_processes(config, num_processes if wants_ranks else config.train.ranks or 1)
    if math.isfinite(budget_s):
        config = _fit_steps_after_training(config, task, speed, budget_s, num_processes)
    return _fit_training(
        config, task, speed, why=why, budget_s=budget_s, left_s=budget_s - elapsed_s
    )


def _check_lengths(config: RunConfig, budget_s: float) -> None:
    """Raise ConfigError if what is said of times and epochs does not go together."""
    if config.grid.finetune_epochs and math.isfinite(budget_s):
        raise ConfigError(
            f"grid.finetune_epochs {config.grid.finetune_epochs:g} has a length of its own: a time "
            "cannot be kept; shorten with --epochs-scale instead"
        )
    if config.train.asked_epochs is None and config.train.epochs_scale != 1:
        raise ConfigError(
            "train.epochs_scale (--epochs-scale) shortens a length, and none is given: use a "
            "recipe with epochs, --epochs or train.phases"
        )
    if config.train.epochs == 0 and not config.train.init:
        raise ConfigError("train.epochs 0 trains nothing: it needs trained weights (--init FILE)")
    if config.search.finetune_share and (math.isinf(budget_s) or config.grid.ship):
        raise ConfigError(
            "search.finetune_share is a share of a time, for the winners of a search: give "
            "--budget and no --epochs, and use grid.finetune_epochs for a grid"
        )


@contextlib.contextmanager
def _threads_of_a_process(
    config: RunConfig, device: torch.device, num_processes: int
) -> Iterator[None]:
    """Time with the threads that a process will have; restore them afterwards."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu" and (num_processes > 1 or config.train.threads):
            torch.set_num_threads(max(1, config.train.threads))
        yield
    finally:
        torch.set_num_threads(threads)


def _open_ladder(
    config: RunConfig, ladder: Sequence[SupernetConfig], task: Task
) -> tuple[SupernetConfig, ...]:
    """Return the networks to choose from: with the user's settings, or the user's alone."""
    given = {key.partition(".")[2] for key in task.given if key.startswith("supernet.")}
    if given - {"resolutions", "dropout", "expand_ratios"} or not ladder:
        return (config.supernet,)
    own = {key: getattr(config.supernet, key) for key in given}
    return tuple(network.model_copy(update=own) for network in ladder)


def _alone_seconds(
    config: RunConfig, network: SupernetConfig, speed: Speed, task: Task, budget_s: float
) -> float:
    """Return the seconds that one process would train for."""
    if config.train.epochs == 0:
        return 0.0
    epochs = config.train.asked_epochs or math.inf
    spec = config.model_copy(update={"supernet": network}).spec(task.num_classes)
    phases = config.plan(spec).phases
    passes = sum(each.epochs * each.subnets_per_step for each in phases)
    passes *= epochs / sum(each.epochs for each in phases)
    return min(budget_s, passes * task.num_train * speed.middle_s)


def _with(config: RunConfig, section: str, **values: object) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def _with_readers(config: RunConfig, task: Task, device: torch.device) -> RunConfig:
    """Give a GPU, which outruns one reader by far, several for photographs that stay files."""
    if device.type == "cpu" or config.data.num_workers or "data.num_workers" in task.given:
        return config
    # A launcher's ranks are on any number of machines; those of this one have a GPU each.
    sharers = max(1, min(task.world_size, torch.cuda.device_count()))
    return _with(config, "data", num_workers=min(_MOST_READERS, max(1, usable_cores() // sharers)))


def _with_processes(config: RunConfig, count: int) -> RunConfig:
    """Share the batch between processes of one thread each."""
    if config.train.ranks > 1:  # the user says how many, and how many images each
        return _with(config, "train", threads=config.train.threads or 1)
    if count == 1:
        return _with(config, "train", ranks=1)
    batch_size = max(2, config.train.batch_size // count)
    return _with(config, "train", ranks=count, threads=1, batch_size=batch_size)


def _fit_steps_after_training(
    config: RunConfig, task: Task, speed: Speed, budget_s: float, num_processes: int
) -> RunConfig:
    """Give the steps after training their parts of a time, where the user says nothing."""
    one = evaluation_seconds(config, speed, num_valid=task.num_valid)
    if "evaluate.num_archs" not in task.given:
        count = int(_EVALUATE_SHARE * budget_s * num_processes / one)
        config = _with(config, "evaluate", num_archs=max(24, min(config.evaluate.num_archs, count)))
    if "latency.budget_s" not in task.given:
        seconds = min(config.latency.budget_s, max(2.0, _LATENCY_SHARE * budget_s))
        config = _with(config, "latency", budget_s=seconds)
    if "search.num_candidates" not in task.given:
        least = config.search.num_models
        count = int(_CONFIRM_SHARE * budget_s / one)
        config = _with(
            config, "search", num_candidates=max(least, min(config.search.num_candidates, count))
        )
    return config


def num_ends(num_sides: int) -> int:
    """Return how many subnets are measured whatever is sampled, of a space of so many sides."""
    return 2 + min(FURTHER_SIDES, num_sides - 1)


def _fit_training(
    config: RunConfig, task: Task, speed: Speed, *, why: str, budget_s: float, left_s: float
) -> Planned:
    """Set the epochs that fit, unless the user did; say what everything will take."""
    processes = max(config.train.ranks, task.world_size)
    steps_per_epoch = max(1, task.num_train // (config.train.batch_size * processes))
    evaluate_s = (
        (config.evaluate.num_archs + num_ends(len(config.supernet.resolutions)))
        * evaluation_seconds(config, speed, num_valid=task.num_valid)
        / processes
    )
    rest_s = rest_seconds(config, speed, task, cores=processes)
    if config.grid.ship:  # nothing is looked for
        evaluate_s, rest_s = 0.0, grid_seconds(config, speed, task, processes=processes)
    share = config.search.finetune_share
    tune_s = share * budget_s if share else 0.0

    def planned(train_s: float, step_seconds: Sequence[float], *, fills_budget: bool) -> Planned:
        estimate = Estimate(
            train_s=round(train_s, 1),
            evaluate_s=round(evaluate_s, 1),
            rest_s=round(rest_s, 1),
            tune_s=round(tune_s, 1),
            step_seconds=tuple(float(f"{each:.4g}") for each in step_seconds),
            fills_budget=fills_budget,
        )
        return Planned(config=config, budget_s=budget_s, estimate=estimate, why=why)

    if config.train.epochs == 0:
        return planned(0.0, (), fills_budget=False)
    spec = config.spec(task.num_classes)
    plan = config.plan(spec)
    seconds = phase_step_seconds(plan, speed, spec.space.resolutions, config.train.batch_size)
    if processes > 1 and speed.is_host:
        seconds = tuple(_SIDE_BY_SIDE * each for each in seconds)
    fills_budget = False
    if math.isfinite(budget_s):
        train_s = left_s - evaluate_s - rest_s - tune_s - (_START_RANKS_S if processes > 1 else 0.0)
        epochs = fit_plan(plan, seconds, steps_per_epoch=steps_per_epoch, seconds=train_s)
        if train_s <= 0 or epochs < _FEWEST_PASSES:
            one_s = 1 / fit_plan(plan, seconds, steps_per_epoch=steps_per_epoch, seconds=1.0)
            least_s = math.ceil(budget_s - train_s + _FEWEST_PASSES * one_s)
            if task.budget_s is not None:
                raise ConfigError(
                    f"a budget of {budget_s:.0f} s leaves {max(0.0, train_s):.0f} s of training, "
                    f"time for {epochs if train_s > 0 else 0:.2g} epochs of the smallest network; "
                    f"give it at least {least_s} s"
                )
            # Nobody promised the time of an effort: it is as long as this machine needs.
            train_s, budget_s = train_s + least_s - budget_s, least_s
            epochs = fit_plan(plan, seconds, steps_per_epoch=steps_per_epoch, seconds=train_s)
        fills_budget = config.train.asked_epochs is None
        bound = config.train.asked_epochs or math.inf
        length = float(f"{min(bound, epochs):.4g}")
        config = _with(config, "train", epochs=length, epochs_scale=1.0)
        plan = config.plan(spec)
    start = plan.index(config.train.start_at)
    train_s = sum(
        phase.num_steps(steps_per_epoch) * each
        for phase, each in list(zip(plan.phases, seconds, strict=True))[start:]
    )
    return planned(train_s, seconds, fills_budget=fills_budget)


def fit_plan(
    plan: Plan, step_seconds: Sequence[float], *, steps_per_epoch: int, seconds: float
) -> float:
    """Return the epochs in all that a plan may have to end in a time, its phases in proportion."""
    total = sum(phase.epochs for phase in plan.phases)
    per_epoch = sum(
        phase.epochs / total * each for phase, each in zip(plan.phases, step_seconds, strict=True)
    )
    return max(seconds, 1e-3) / (per_epoch * steps_per_epoch)


def evaluation_seconds(config: RunConfig, speed: Speed, *, num_valid: int) -> float:
    """Return the seconds of measuring one subnet: recalibration and validation images."""
    return _OF_FORWARD * speed.forward_s * (num_valid + config.data.num_calibration) + 0.02


def rest_seconds(config: RunConfig, speed: Speed, task: Task, *, cores: int) -> float:
    """Return the seconds of all steps after the subnets are measured.

    Images are recalibrated with and counted on the device that trains; what ships is written,
    compared and timed on the processor, whatever trains.

    Args:
        config: With the numbers of candidates and models.
        speed: What was measured of the network.
        task: Data.
        cores: Processor cores that train; of GPUs one alone does these steps.
    """
    confirmed, shipped = config.search.num_candidates, config.search.num_models
    one_s = evaluation_seconds(config, speed, num_valid=task.num_valid)
    tested_s = _OF_FORWARD * speed.forward_s * (config.data.num_calibration + task.num_test)
    # Two cores gain about half of what one has.
    gain = 1 + 0.5 * (min(cores, 4) - 1) if speed.is_host else 1.0
    # Small spaces are measured before the time for it is over.
    latency_s = 0.6 * config.latency.budget_s
    # Candidates lie between the smallest and the largest.
    timed_s = max(0.1, _TIMING_RUNS * speed.host_forward_s / 2)
    compared_s = 0.5 + _COMPARED_IMAGES * speed.host_forward_s
    fixed_s = 5.0  # predictor, search, report
    images_s = (confirmed + config.search.refine_evaluations) * one_s + shipped * tested_s
    files_s = (confirmed + shipped) * timed_s + shipped * compared_s
    return fixed_s + latency_s + images_s / gain + files_s


def grid_seconds(config: RunConfig, speed: Speed, task: Task, *, processes: int) -> float:
    """Return the seconds of shipping a grid, and of fine-tuning each of its subnets."""
    spec = config.spec(task.num_classes)
    count = len(config.grid_archs(spec.space))
    tested_s = _OF_FORWARD * speed.forward_s * (config.data.num_calibration + task.num_test)
    files_s = 0.6 + (_COMPARED_IMAGES + _TIMING_RUNS / 2) * speed.host_forward_s
    image_s = speed.middle_s + config.train.is_taught * speed.forward_s
    tuning_s = config.finetune_epochs * task.num_train * image_s / processes
    shipped = 2 if config.finetune_epochs else 1
    return 5.0 + count * (tuning_s + shipped * (tested_s + files_s))


def effort_seconds(effort: str, *, num_train: int, image_side: int) -> float:
    """Return the time that an effort means, for a number of images of a side in pixels.

    ``balanced`` is an hour for CIFAR-10 and grows with the square root of all pixels that networks
    see, of each image 224 x 224 at most; ``quick`` is a fifth of it, ``best`` four times as much.

    Raises:
        ConfigError: If there is no such effort.
    """
    factors = {"quick": 0.2, "balanced": 1.0, "best": 4.0}
    if effort not in factors:
        raise ConfigError(f"effort {effort!r} is not one of {', '.join(factors)}")
    pixels = num_train * min(image_side, 224) ** 2 / (50_000 * 32**2)
    return factors[effort] * max(120.0, 3600.0 * math.sqrt(pixels))
