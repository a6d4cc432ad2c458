"""How a training stands, read from its folder while it runs or after it ended."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from onceforall.artifacts import Progress
from onceforall.job.changed_settings import continued
from onceforall.job.folder import RunFolder
from onceforall.measure.comparison import minutes

State = Literal["not started", "running", "silent", "stopped", "trained"]
# A rank that has told nothing for this long is called silent: probes and evaluation take time.
_SILENT_AFTER_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a training stands.

    Attributes:
        state: ``running``: its process is alive, or on another machine and told something
            lately; ``silent``: on another machine and quiet for two minutes; ``stopped``: its
            process ended before training did, and the same command goes on; ``trained``: done.
        epochs: Epochs in all.
        epoch: Epoch it is in, from 1; 0 before the first step.
        phase: Phase of the plan.
        step: Steps done.
        steps: Steps in all.
        images_per_s: Training images a second, over all ranks.
        seconds_left: Estimate of the seconds that training still takes.
        age_s: Seconds since it last told anything.
        losses: Loss of each subnet of the latest step.
        top1: Training top-1 of each subnet of the latest step, in [0, 1].
        probes: Latest validation top-1 of the watched subnets, in [0, 1].
        grid: Latest validation top-1 of the grid's subnets, in [0, 1]; empty where none is watched.
        checkpoint_step: Step of the newest checkpoint.
        warnings: Rollbacks, damaged checkpoints and skipped images so far.
    """

    state: State
    epochs: float
    epoch: float = 0
    phase: str = ""
    step: int = 0
    steps: float = 0
    images_per_s: float = 0.0
    seconds_left: float = 0.0
    age_s: float = 0.0
    losses: tuple[float, ...] = ()
    top1: tuple[float, ...] = ()
    probes: Mapping[str, float]
    grid: Mapping[str, float]
    checkpoint_step: int | None = None
    warnings: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def read_status(folder: RunFolder) -> Status:
    """Return how the training in ``folder`` stands; nothing is changed.

    Raises:
        ConfigError: If the folder is no run.
    """
    settings = folder.read_settings()
    events = folder.read_events()
    latest = folder.read_progress()
    probes = [event["probes"] for event in events if event.get("probes")]
    grids = [event["grid"] for event in events if event.get("grid")]
    saved = [event["step"] for event in events if event["event"] == "checkpoint"]
    warned = [e for e in events if e["event"] in ("warning", "rollback", "damaged_checkpoint")]
    times = [event.get("time") or 0.0 for event in events[-1:]]
    told = max([*times, 0.0 if latest is None else latest.time])
    age_s = max(0.0, time.time() - told) if told else 0.0
    known = Status(
        state=_state(folder, settings.config, latest, age_s),
        epochs=_asked_epochs(settings.config),
        age_s=round(age_s, 1),
        probes=probes[-1] if probes else {},
        grid=grids[-1] if grids else {},
        checkpoint_step=saved[-1] if saved else None,
        warnings=len(warned),
    )
    if latest is None:
        return replace(known, step=saved[-1] if saved else 0)
    return replace(
        known,
        epochs=latest.epochs,
        epoch=latest.epoch,
        phase=latest.phase,
        # Not every step is written down; a checkpoint may be further than the last one that was.
        step=max(latest.step, saved[-1] if saved else 0),
        steps=latest.steps,
        images_per_s=latest.images_per_s,
        seconds_left=latest.seconds_left,
        losses=latest.subnet_losses,
        top1=latest.subnet_top1,
    )


def _asked_epochs(config: Mapping[str, Any]) -> int:
    """Return the epochs that are begun, of the length that was asked for or fitted to a time.

    0 where the configuration does not say.
    """
    train: Any = config.get("train")
    try:
        own: float = sum(phase["epochs"] for phase in train.get("phases", ()))
        epochs: float = own if train["epochs"] is None else train["epochs"]
        scale: float = train.get("epochs_scale", 1.0)
        return math.ceil(epochs * scale)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return 0


def _state(
    folder: RunFolder, config: Mapping[str, Any], latest: Progress | None, age_s: float
) -> State:
    done = continued(folder)
    if done is not None and len(done) >= len(config.get("train", {}).get("more_epochs", ())):
        return "trained"
    if latest is None:
        return "not started"
    if latest.host != platform.node():
        return "running" if age_s < _SILENT_AFTER_S else "silent"
    return "running" if is_alive(latest.pid) else "stopped"


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def status_lines(status: Status) -> list[str]:
    """Return what a person wants to know, in a few lines."""
    if status.state == "not started":
        return ["not started: no training step yet"]
    if status.state == "trained":
        lines = [f"trained: {status.epochs} epochs"]
    else:
        lines = [f"{status.state}, last word {minutes(status.age_s)} ago"]
        left = f", about {minutes(status.seconds_left)} left" if status.state == "running" else ""
        lines.append(
            f"epoch {status.epoch}/{status.epochs} ({status.phase}), step {status.step}/"
            f"{status.steps}, {status.images_per_s:.0f} images/s{left}"
        )
        subnets = zip(status.losses, status.top1, strict=False)
        shown = "  ".join(f"{loss:.3f}/{100 * top1:.1f} %" for loss, top1 in subnets)
        lines.append(f"loss/top-1 of the latest step's subnets: {shown}")
    if status.probes:
        shown = "  ".join(f"{name} {100 * top1:.2f} %" for name, top1 in status.probes.items())
        lines.append(f"validation top-1: {shown}")
    if status.grid:
        mean = sum(status.grid.values()) / len(status.grid)
        least, most = (choose(status.grid, key=status.grid.__getitem__) for choose in (min, max))
        lines.append(
            f"grid of {len(status.grid)}: mean {100 * mean:.2f} %, "
            f"{least} {100 * status.grid[least]:.2f} % to {most} {100 * status.grid[most]:.2f} %"
        )
    if status.checkpoint_step is not None:
        lines.append(f"newest checkpoint: step {status.checkpoint_step}")
    if status.warnings:
        lines.append(f"{status.warnings} warnings: see events.jsonl")
    if status.state == "stopped":
        lines.append("the same command goes on from the newest checkpoint")
    return lines
