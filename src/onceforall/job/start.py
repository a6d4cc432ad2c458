"""A run from a request: the one that lies in its folder, or a new one, planned and written down."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from onceforall.artifacts import DataFacts, Request, RunSettings
from onceforall.errors import ConfigError
from onceforall.files import check_writable
from onceforall.job.changed_settings import grow, growth
from onceforall.job.choose_network import Task
from onceforall.job.clock import Clock
from onceforall.job.config import RunConfig, epochs_of_run, file_settings, resolve
from onceforall.job.context import Run, Tell
from onceforall.job.data import image_side, open_data, training_images
from onceforall.job.folder import RunFolder
from onceforall.job.lock import LOCK, sole_writer
from onceforall.job.machine import default_device, hardware, keep_freed_memory
from onceforall.job.outside_nets import network_of, workable_sides
from onceforall.job.planning import Planned, plan_config
from onceforall.job.preflight import (
    check_buildable,
    check_data,
    check_exportable,
    check_limits_kept,
    check_tools,
    check_training,
)
from onceforall.job.recipes import (
    graph_recipe,
    ladder_for,
    named_recipe,
    transfer_recipe,
    with_network,
)
from onceforall.job.teacher import decide_teacher
from onceforall.job.transfer import read_start
from onceforall.job.weights import load_initial_weights, new_supernet
from onceforall.measure.latency.targets import make_target
from onceforall.search.limits import check_limits
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.spec import SupernetSpec
from onceforall.supernets.weights import save_supernet
from onceforall.training.ranks import Ranks
from onceforall.versions import versions

# Of channels that blocks share, in the median. Of a network of 16 to 64, small subnets were three
# points better and more where no widths of a half took part; a half of 64 to 512 is good
# (docs/results/own-network.md).
_NARROW = 128


def plan_run(
    request: Request,
    out: Path,
    *,
    tell: Tell,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    started: float | None = None,
    steps: Sequence[str] = (),
) -> Run:
    """Return the run in ``out``: the one that is there, grown by what is asked, or a new one.

    Nothing is written before data, configuration and folder are known to be good.

    Args:
        request: What is asked for.
        out: Folder of the run.
        tell: Takes every event.
        should_stop: Asked often.
        ranks: This process among all.
        device: Where to train; the GPU if there is one.
        started: Moment (of ``time.monotonic``) that the time of the run counts from.
        steps: What will be done, so that what it needs is known to be there.

    Raises:
        ConfigError: If the folder belongs to another training, or a setting is wrong.
        DataError: If the images cannot be used.
    """
    folder = RunFolder(path=out)
    saved = folder.read_settings() if folder.settings.is_file() else None
    if saved is not None and (found := growth(folder, saved, request)) is not None:
        tell({"event": "changed", "text": grow(folder, saved, found)})
        saved = found.settings
    if saved is None:
        _check_fresh(folder, ranks or Ranks())
    started = time.monotonic() if started is None else started
    keep_freed_memory()
    where = device or default_device(ranks)
    if where.type == "cuda":
        where = torch.device("cuda", where.index or 0)
        torch.cuda.set_device(where)  # what asks for no GPU by name means this one
    side_px = 0
    is_main = ranks is None or ranks.is_main
    if saved is None:
        config, side_px = _resolved(request)
    else:
        config = folder.read_config(saved)
        check_buildable(config, lambda: folder.read_spec(config, saved.data.classes))
    exports = bool({"latency", "models"} & {*steps}) and not folder.latency(config).is_file()
    if is_main and exports:
        check_tools(config.latency)
    # Learned and random policies work on photographs read from files, not on decoded squares.
    side = config.supernet.resolutions[-1] if config.data.policy == "none" else None
    bundle = open_data(config.data, image_size=side)
    if saved is not None and saved.data.fingerprint != bundle.fingerprint:
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
        estimate=None,
    )
    if is_main and exports:
        check_exportable(run.spec)
    if saved is None:
        run = _start(run, request, side_px)
    else:
        clock = _clock_of(folder, saved, started)
        run = dataclasses.replace(run, clock=clock, estimate=saved.estimate)
    if run.config.train.threads:
        torch.set_num_threads(run.config.train.threads)
    return run


def _check_fresh(folder: RunFolder, ranks: Ranks) -> None:
    """Raise ConfigError unless a run can begin in a folder."""
    if not ranks.is_main:
        raise ConfigError(
            f"rank {ranks.rank} does not see {folder.settings}, which rank 0 has written; all "
            "ranks need the same folder, on a disk that they share"
        )
    out = folder.path
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        raise ConfigError(f"output folder {out} is not empty and holds no run; use another --out")
    check_writable(folder.settings)


def _clock_of(folder: RunFolder, saved: RunSettings, started: float) -> Clock:
    """Return the clock of a run that was started before."""
    latest = folder.read_progress()
    told = [event.get("elapsed_s") or 0.0 for event in folder.read_events()[-1:]]
    before_s = max([*told, 0.0 if latest is None else latest.elapsed_s])
    budget_s = math.inf if saved.budget_s is None else saved.budget_s
    return Clock(budget_s=budget_s, before_s=before_s, started=started)


def given_keys(request: Request) -> set[str]:
    """Return the settings that the user gave, as ``section.key`` and as ``section``."""
    keys = {flag.partition("=")[0] for flag in request.flags}
    values = file_settings(request.config_text) if request.config_text else {}
    for section, part in values.items():
        keys |= {f"{section}.{key}" for key in part} if isinstance(part, dict) else {section}
    return keys | {key.partition(".")[0] for key in keys}


def _resolved(request: Request) -> tuple[RunConfig, int]:
    """Return the configuration that a request asks for, and the side of its images in pixels."""
    # For any data: names and settings are checked before the data set is opened, or downloaded.
    first = named_recipe(
        request.recipe, request.source, image_side=32, num_train=100, num_classes=2
    )
    # Another run is repeated for as long as it could train.
    flags = [*epochs_of_run(request.config_text or ""), *request.settings]
    config = resolve(first, file=request.config_text, flags=flags)
    check_limits(config.search.limits)
    make_target(config.latency.target, threads=config.latency.threads)
    if config.data.source != request.source:
        raise ConfigError(
            f"data.source {config.data.source!r} is not the data set {request.source!r} that was "
            "asked for"
        )
    probe = open_data(config.data)
    training_images(probe)  # a recipe needs some
    side = image_side(probe.test, on_bad_image=config.data.on_bad_image)
    recipe = named_recipe(
        request.recipe,
        request.source,
        image_side=side,
        num_train=probe.num_train,
        num_classes=probe.num_classes,
    )
    asked = resolve(recipe, file=request.config_text, flags=flags).train
    init = asked.init
    if init and not asked.start_at:  # nothing else was tried from weights
        train = recipe.train.model_copy(update={"optimizer": "sgd"})
        recipe = recipe.model_copy(update={"train": train})
    if request.recipe == "transfer" and not init:
        raise ConfigError("recipe transfer needs a trained network: --init FILE")
    # With weights at hand transfer is the first choice, unless the user names another network.
    is_open = request.recipe == "auto" and "supernet" not in given_keys(request)
    says_what_it_is = bool(init) and Path(init).with_suffix(".json").is_file()
    if request.recipe == "transfer" or (is_open and says_what_it_is):
        start = read_start(Path(init), num_classes=probe.num_classes)
        if asked.start_at and request.recipe == "auto":
            recipe = with_network(recipe, start)  # the same training goes on
        else:
            recipe = transfer_recipe(recipe, start, image_side=side, num_classes=probe.num_classes)
    config = resolve(recipe, file=request.config_text, flags=flags)
    if config.supernet.family == "graph":
        recipe = _graph_recipe(config, recipe, image_side=side, num_classes=probe.num_classes)
        config = resolve(recipe, file=request.config_text, flags=flags)
    check_buildable(config, lambda: config.spec(probe.num_classes))
    return config, side


def _graph_recipe(
    config: RunConfig, recipe: RunConfig, *, image_side: int, num_classes: int
) -> RunConfig:
    """Return the recipe of a traced network, at sides that it works at."""
    sides = workable_sides(config.supernet, num_classes, config.supernet.resolutions)
    if config.train.init:  # it has seen images as they are
        sides = tuple(side for side in sides if side <= image_side) or sides
    network = config.supernet.model_copy(update={"resolutions": sides})
    spec = network_of(network, num_classes).spec
    train = recipe.train.model_copy(
        update={"init": config.train.init, "reinit_head": config.train.reinit_head}
    )
    named = recipe.model_copy(update={"supernet": network, "train": train})
    return graph_recipe(
        named, sides=sides, same_at_all_sides=spec.any_resolution, is_narrow=is_narrow(spec)
    )


def is_narrow(spec: SupernetSpec) -> bool:
    """Say whether the channels that blocks of a traced network share are few."""
    groups = spec.groups if isinstance(spec, GraphSpec) else ()
    shared = [
        group.units * group.channels_per_unit
        for group in groups
        if group.coupled and group.axis == "width_mult"
    ]
    return bool(shared) and statistics.median(shared) < _NARROW


def _start(run: Run, request: Request, side: int) -> Run:
    """Choose network, processes and lengths from what is measured; write ``run.yaml``."""
    check_data(run.config, run.bundle)
    check_limits_kept(run.config, run.config.spec(run.bundle.num_classes))
    check_training(run.config, run.bundle.num_classes)
    run = dataclasses.replace(run, config=decide_teacher(run))
    plan = _planned(run, request, side)
    # The network may be another.
    check_limits_kept(plan.config, plan.config.spec(run.bundle.num_classes))
    clock = dataclasses.replace(run.clock, budget_s=plan.budget_s)
    before = run.config.supernet.resolutions[-1]
    run = dataclasses.replace(run, config=plan.config, clock=clock, estimate=plan.estimate)
    if run.config.supernet.resolutions[-1] != before and run.config.data.policy == "none":
        # As every other process of the run will decode them.
        largest = run.config.supernet.resolutions[-1]
        run = dataclasses.replace(run, bundle=open_data(run.config.data, image_size=largest))
    settings = RunSettings(
        request=request,
        config=run.config.model_dump(mode="json"),
        data=DataFacts(
            name=run.bundle.name,
            classes=run.bundle.num_classes,
            train=run.bundle.num_train,
            test=run.bundle.num_test,
            fingerprint=run.bundle.fingerprint,
        ),
        seed=run.config.seed,
        space_size=float(run.spec.space.size),
        chosen=plan.why,
        budget_s=None if math.isinf(run.clock.budget_s) else run.clock.budget_s,
        estimate=plan.estimate,
        versions=versions(),
        hardware=hardware(),
    )
    with torch.random.fork_rng(devices=[]):
        net = new_supernet(run)
        load_initial_weights(run, net)  # before anything is written: may not fit
    if run.ranks.is_main:
        settings.write(run.folder.settings)
        if run.config.supernet.family == "graph":  # from here on without whatever made it
            save_supernet(net, run.folder.network)
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


def open_run(
    out: str | Path,
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
    out = Path(out)
    request = RunFolder(path=out).read_settings().request
    return plan_run(request, out, tell=tell, should_stop=should_stop, ranks=ranks, device=device)


@contextlib.contextmanager
def run_to_change(
    out: Path, *, tell: Tell, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Run]:
    """Give the run that lies in ``out``, for a verb that writes into it; no other may meanwhile.

    Raises:
        ConfigError: If there is none, or another process is at work there.
    """
    RunFolder(path=out).read_settings()
    with sole_writer(out):
        yield open_run(out, tell=tell, should_stop=should_stop)
