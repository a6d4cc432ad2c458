"""The whole job as resumable steps: from images to verified models and a report.

    plan -> train -> evaluate -> predictor -> latency -> search -> models -> report

Each step asks first whether its output is there and complete; the same command after a crash, a
kill or a full disk goes on and ends with the same files as an undisturbed run.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from onceforall.clock import Clock
from onceforall.config import RunConfig, resolve, validated
from onceforall.data import DataBundle
from onceforall.encoding import Encoding
from onceforall.errors import CheckpointError, ConfigError, Interrupted
from onceforall.files import append_jsonl, read_json, read_jsonl, write_json, write_text
from onceforall.planning import NO_ESTIMATE, Estimate, Planned, Task, plan_config
from onceforall.recipes import ladder_for, named_recipe, recipe_for, transfer_recipe
from onceforall.session import DataSession, image_side, open_data, start_session, training_images
from onceforall.supernets.spec import SupernetSpec
from onceforall.supernets.supernet import Supernet
from onceforall.train.ranks import Ranks
from onceforall.transfer import load_start, read_start

Event = dict[str, Any]
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Where everything of a run lies."""

    path: Path

    @property
    def settings(self) -> Path:
        """Resolved configuration, versions, hardware."""
        return self.path / "run.yaml"

    @property
    def events(self) -> Path:
        """One line per event."""
        return self.path / "events.jsonl"

    @property
    def progress(self) -> Path:
        """The latest training step shown, for who looks on from outside."""
        return self.path / "progress.json"

    @property
    def checkpoints(self) -> Path:
        """Training state."""
        return self.path / "checkpoints"

    @property
    def supernet(self) -> Path:
        """The trained supernet."""
        return self.checkpoints / "supernet.safetensors"

    @property
    def evaluations(self) -> Path:
        """Measured accuracies of sampled subnets."""
        return self.path / "evaluations.jsonl"

    @property
    def predictor(self) -> Path:
        """Accuracy predictor."""
        return self.path / "predictor.safetensors"

    @property
    def search(self) -> Path:
        """Search journal and front."""
        return self.path / "search"

    @property
    def models(self) -> Path:
        """Shipped models."""
        return self.path / "models"

    def latency(self, config: RunConfig) -> Path:
        """Return the latency model of the configured device."""
        device = f"{config.latency.target}-{config.latency.threads}t"
        return self.path / "latency" / f"{device}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; a run folder belongs to one request."""

    source: str
    root: str = ""
    on_bad_image: str = "refuse"
    config_text: str | None = None
    flags: tuple[str, ...] = ()
    budget_s: float | None = None
    effort: str = "balanced"
    seed: int = 0
    recipe: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A planned run.

    Attributes:
        folder: Where it lies.
        config: Its resolved configuration.
        tell: Takes every event: shown, and written to ``events.jsonl`` unless it is progress.
        should_stop: Asked often; True ends the step at the next safe point.
        ranks: This process among all.
        clock: The time that the run may take.
        estimate: What it was expected to take.
    """

    folder: RunFolder
    config: RunConfig
    bundle: DataBundle
    tell: Tell
    should_stop: Callable[[], bool]
    ranks: Ranks
    device: torch.device
    clock: Clock
    estimate: Estimate

    @property
    def spec(self) -> SupernetSpec:
        """Return the stage table of the supernet."""
        return self.config.spec(self.bundle.num_classes)

    @property
    def encoding(self) -> Encoding:
        """Return the encoding of the supernet's space."""
        return Encoding(self.spec.space)

    def session(self) -> DataSession:
        """Return the run's data on its device."""
        return start_session(
            self.config,
            self.bundle,
            device=self.device,
            ranks=self.ranks,
            report=lambda text: self.emit({"event": "warning", "text": text}),
        )

    def emit(self, event: Event) -> None:
        """Show an event, and keep it if it is a fact rather than progress."""
        if not self.ranks.is_main:
            return
        if event["event"] == "step":
            where = {"pid": os.getpid(), "host": platform.node()}
            write_json(self.folder.progress, {**event, **where, **self._now()})
        elif event["event"] != "progress":
            append_jsonl(self.folder.events, {**event, **self._now()})
        self.tell(event)

    def _now(self) -> Event:
        elapsed_s = round(self.clock.elapsed_s(), 3)
        return {"time": round(time.time(), 3), "elapsed_s": elapsed_s}

    def progress(self, step: str, done: int, total: int) -> None:
        """Show how far a step is, and stop here if a signal asked for it."""
        self.emit({"event": "progress", "what": step, "done": done, "total": total})
        if self.should_stop():
            raise Interrupted(f"stopped during {step}; the same command goes on")


# -- plan -----------------------------------------------------------------------------------------


def plan_run(
    request: Request,
    out: Path,
    *,
    tell: Tell,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    started: float | None = None,
) -> Run:
    """Return the run in ``out``: the one that is there, or a new one.

    Nothing is written before data, configuration and folder are known to be good.

    Args:
        request: What is asked for.
        out: Folder of the run.
        tell: Takes every event.
        should_stop: Asked often.
        ranks: This process among all.
        device: Where to train; the GPU if there is one.
        started: Moment (of ``time.monotonic``) that the time of the run counts from.

    Raises:
        ConfigError: If the folder belongs to another request, or a setting is wrong.
        DataError: If the images cannot be used.
    """
    folder = RunFolder(path=out)
    asked = dataclasses.asdict(request) | {"flags": list(request.flags)}
    saved = read_settings(folder) if folder.settings.is_file() else None
    if saved is not None and saved["request"] != asked:
        changed = next(key for key in asked if saved["request"].get(key) != asked[key])
        raise ConfigError(
            f"{out} was started with {changed} {saved['request'].get(changed)!r}, not "
            f"{asked[changed]!r}; use another --out, or the same command to go on"
        )
    if saved is None and ranks is not None and not ranks.is_main:
        raise ConfigError(
            f"rank {ranks.rank} does not see {folder.settings}, which rank 0 has written; all "
            "ranks need the same folder, on a disk that they share"
        )
    if saved is None and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"output folder {out} is not empty and holds no run; use another --out")
    started = time.monotonic() if started is None else started
    where = device or default_device(ranks)
    side_px = 0
    if saved is None:
        config, side_px = _resolved(request)
    else:
        config = validated(saved["config"])
    # Learned and random policies work on photographs read from files, not on decoded squares.
    side = config.supernet.resolutions[-1] if config.data.policy == "none" else None
    bundle = open_data(config.data, image_size=side)
    if saved is not None and saved["data"]["fingerprint"] != bundle.fingerprint:
        raise ConfigError(f"the images of {request.source} changed since {out} was started")
    run = Run(
        folder=folder,
        config=config,
        bundle=bundle,
        tell=tell,
        should_stop=should_stop,
        ranks=ranks or Ranks(),
        device=where,
        clock=Clock(started=started),
        estimate=NO_ESTIMATE,
    )
    if saved is None:
        run = _start(run, request, asked, side_px)
    else:
        run = dataclasses.replace(
            run, clock=_clock_of(folder, saved, started), estimate=_estimate_of(saved)
        )
    if run.config.train.threads:
        torch.set_num_threads(run.config.train.threads)
    return run


def _clock_of(folder: RunFolder, saved: dict[str, Any], started: float) -> Clock:
    """Return the clock of a run that was started before."""
    told = read_jsonl(folder.events)[-1:]
    told += [read_json(folder.progress)] if folder.progress.is_file() else []
    before_s = max((float(event.get("elapsed_s", 0.0)) for event in told), default=0.0)
    budget_s = saved.get("budget_s")
    return Clock(
        budget_s=math.inf if budget_s is None else budget_s, before_s=before_s, started=started
    )


def _estimate_of(saved: dict[str, Any]) -> Estimate:
    """Return the estimate that a run was started with; runs of older versions have none."""
    found = saved["estimate_s"]
    if "step_seconds" not in found:
        return NO_ESTIMATE
    return Estimate(
        train_s=found["train"],
        evaluate_s=found["evaluate"],
        rest_s=found["rest"],
        step_seconds=tuple(found["step_seconds"]),
        fills_budget=found["fills_budget"],
    )


def given_keys(request: Request) -> set[str]:
    """Return the settings that the user gave, as ``section.key`` and as ``section``."""
    keys = {flag.partition("=")[0] for flag in request.flags}
    values = yaml.safe_load(request.config_text) if request.config_text else None
    for section, part in values.items() if isinstance(values, dict) else ():
        keys |= {f"{section}.{key}" for key in part} if isinstance(part, dict) else {section}
    return keys | {key.partition(".")[0] for key in keys}


def _resolved(request: Request) -> tuple[RunConfig, int]:
    """Return the configuration that a request asks for, and the side of its images in pixels."""
    probe = open_data(
        recipe_for(request.source, image_side=32, num_train=100, num_classes=2).data.model_copy(
            update={"root": request.root, "on_bad_image": request.on_bad_image}
        )
    )
    training_images(probe)  # a recipe needs some
    side = image_side(probe.test)
    recipe = named_recipe(
        request.recipe,
        request.source,
        image_side=side,
        num_train=probe.num_train,
        num_classes=probe.num_classes,
        seed=request.seed,
    )
    init = resolve(recipe, file=request.config_text, flags=request.flags).train.init
    if request.recipe == "transfer" and not init:
        raise ConfigError("recipe transfer needs a trained network: --init FILE")
    # With weights at hand transfer is the first choice, unless the user names another network.
    is_open = request.recipe == "auto" and "supernet" not in given_keys(request)
    says_what_it_is = bool(init) and Path(init).with_suffix(".json").is_file()
    if request.recipe == "transfer" or (is_open and says_what_it_is):
        start = read_start(Path(init), num_classes=probe.num_classes)
        recipe = transfer_recipe(recipe, start, image_side=side, num_classes=probe.num_classes)
    data = recipe.data.model_copy(
        update={"root": request.root, "on_bad_image": request.on_bad_image}
    )
    recipe = recipe.model_copy(update={"data": data})
    config = resolve(recipe, file=request.config_text, flags=request.flags)
    check_limits(config.search.limits)
    return config, side


def check_limits(limits: dict[str, float]) -> None:
    """Raise ConfigError if a limit is of no known cost or not positive."""
    known = ("latency_ms", "macs", "params", "peak_activation_bytes")
    for name, bound in limits.items():
        if name not in known:
            raise ConfigError(f"limit {name!r} is not one of {', '.join(known)}")
        if not bound > 0:
            raise ConfigError(f"limit {name}={bound:g} is not above 0")


def _start(run: Run, request: Request, asked: dict[str, Any], side: int) -> Run:
    """Choose network, processes and lengths from what is measured; write ``run.yaml``."""
    plan = _planned(run, request, side)
    estimate = plan.estimate
    clock = dataclasses.replace(run.clock, budget_s=plan.budget_s)
    before = run.config.supernet.resolutions[-1]
    run = dataclasses.replace(run, config=plan.config, clock=clock, estimate=estimate)
    if run.config.supernet.resolutions[-1] != before and run.config.data.policy == "none":
        # As every other process of the run will decode them.
        largest = run.config.supernet.resolutions[-1]
        run = dataclasses.replace(run, bundle=open_data(run.config.data, image_size=largest))
    settings = {
        "request": asked,
        "config": run.config.model_dump(mode="json"),
        "data": {
            "name": run.bundle.name,
            "classes": run.bundle.num_classes,
            "train": run.bundle.num_train,
            "test": run.bundle.num_test,
            "fingerprint": run.bundle.fingerprint,
        },
        "seed": run.config.seed,
        "space_size": float(run.spec.space.size),
        "chosen": plan.why,
        "budget_s": None if math.isinf(run.clock.budget_s) else run.clock.budget_s,
        "estimate_s": {
            "train": round(estimate.train_s, 1),
            "evaluate": round(estimate.evaluate_s, 1),
            "rest": round(estimate.rest_s, 1),
            "fills_budget": estimate.fills_budget,
            "step_seconds": [float(f"{seconds:.4g}") for seconds in estimate.step_seconds],
        },
        "versions": versions(),
        "hardware": hardware(),
    }
    with torch.random.fork_rng(devices=[]):
        load_initial_weights(run, new_supernet(run))  # before anything is written: may not fit
    if run.ranks.is_main:
        write_text(run.folder.settings, yaml.safe_dump(settings, sort_keys=False))
    return run


def _planned(run: Run, request: Request, side: int) -> Planned:
    """Choose what the configuration leaves open, for the run's data and machine."""
    bundle = run.bundle
    num_valid = run.config.data.num_valid if bundle.valid is None else len(bundle.valid)
    return plan_config(
        run.config,
        ladder_for(side) if request.recipe == "auto" and not run.config.train.init else (),
        Task(
            num_train=bundle.num_train - (num_valid if bundle.valid is None else 0),
            num_valid=num_valid,
            num_test=bundle.num_test,
            num_classes=bundle.num_classes,
            image_side=side,
            given=frozenset(given_keys(request)),
            budget_s=request.budget_s,
            effort=request.effort,
            world_size=run.ranks.world_size,
        ),
        elapsed_s=run.clock.elapsed_s(),
        device=run.device,
    )


def new_supernet(run: Run) -> Supernet:
    """Return a fresh supernet on the run's device, drawn from PyTorch's current generator."""
    return Supernet(run.spec).to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_initial_weights(run: Run, net: Supernet) -> None:
    """Start from a checkpoint if the configuration names one, and freeze what it says."""
    config = run.config.train
    if config.init:
        load_start(net, Path(config.init), reinit_head=config.reinit_head)
    elif config.freeze_backbone:
        raise ConfigError("train.freeze_backbone needs train.init: random weights would stay")
    if config.freeze_backbone:
        net.requires_grad_(False)
        net.layers[-1].requires_grad_(True)


def read_settings(folder: RunFolder) -> dict[str, Any]:
    """Return what ``run.yaml`` holds.

    Raises:
        ConfigError: If the folder is no run.
    """
    if not folder.settings.is_file():
        raise ConfigError(f"{folder.path} is not the folder of a run: there is no run.yaml")
    settings = yaml.safe_load(folder.settings.read_text())
    return settings  # type: ignore[no-any-return]


def open_run(
    out: Path,
    *,
    tell: Tell,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
) -> Run:
    """Return the run that lies in ``out``, to do one of its steps.

    Raises:
        ConfigError: If there is none.
    """
    settings = read_settings(RunFolder(path=out))
    asked = settings["request"]
    request = Request(**{**asked, "flags": tuple(asked["flags"])})
    return plan_run(request, out, tell=tell, should_stop=should_stop, ranks=ranks, device=device)


# -- facts about this process ---------------------------------------------------------------------


def default_device(ranks: Ranks | None = None) -> torch.device:
    """Return this rank's GPU if this machine has any, else the CPU.

    Raises:
        ConfigError: If there are more ranks than GPUs on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, count = 0 if ranks is None else ranks.local_rank, torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"rank {local_rank} of this machine has no GPU of its own: there are {count}; start "
            f"at most {count} processes on it"
        )
    return torch.device("cuda", local_rank)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    packages = "onceforall torch torchvision numpy pillow simplejpeg onnx onnxruntime"
    for package in packages.split():
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return what this machine is."""
    return {
        "system": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def read_front(folder: RunFolder) -> dict[str, Any]:
    """Return the front that the search found.

    Raises:
        CheckpointError: If there was no search yet.
    """
    path = folder.search / "front.json"
    if not path.is_file():
        raise CheckpointError(f"{folder.path} has no front yet: run  ofa search")
    return read_json(path)  # type: ignore[no-any-return]
