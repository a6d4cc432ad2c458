"""Verbs that run the job or a part of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.console import Screen, print_result, stop_on_signals
from onceforall.cli.options import (
    Budget,
    Config,
    Data,
    Effort,
    Epochs,
    EpochsScale,
    FreezeBackbone,
    HeadFactor,
    Init,
    Json,
    Limit,
    Net,
    OptionalOnBadImage,
    OptionalOut,
    OptionalSeed,
    Out,
    Recipe,
    ReinitHead,
    Root,
    Set,
    StartAt,
    Static,
    TensorBoard,
    Weights,
    given_options,
    parse_budget,
    parse_limits,
    read_config,
    transfer_flags,
)
from onceforall.cli.processes import joined_processes
from onceforall.cli.started import STARTED
from onceforall.errors import ConfigError

if TYPE_CHECKING:
    from onceforall.artifacts import Request
    from onceforall.job.context import Tell

Until = Annotated[
    str, typer.Option("--until", help="Last step to do: plan, train, ..., report", hidden=True)
]


def run(
    data: Data,
    out: Out,
    recipe: Recipe = "auto",
    budget: Budget = None,
    effort: Effort = None,
    net: Net = "",
    static: Static = "",
    weights: Weights = "",
    epochs: Epochs = None,
    epochs_scale: EpochsScale = None,
    limit: Limit = None,
    config: Config = None,
    set_: Set = None,
    init: Init = "",
    start_at: StartAt = "",
    reinit_head: ReinitHead = False,
    freeze_backbone: FreezeBackbone = False,
    head_factor: HeadFactor = None,
    root: Root = "",
    on_bad_image: OptionalOnBadImage = None,
    seed: OptionalSeed = None,
    tensorboard: TensorBoard = False,
    json: Json = False,
    until: Until = "report",
) -> None:
    """Images in, a Pareto set of measured, verified, exported models out.

    Runs plan, train, evaluate, predictor, latency, search, models, report. The same command goes
    on after a crash or an interruption.

    Example:  ofa run digits --out runs/digits
    """
    limits = parse_limits(limit)
    transfer = transfer_flags(
        init,
        weights=weights,
        reinit_head=reinit_head,
        freeze_backbone=freeze_backbone,
        head_factor=head_factor,
        start_at=start_at,
    )
    for name, values in limits.items():
        if len(values) > 1:
            raise ConfigError(
                f"--limit {name} has {len(values)} bounds: ofa run takes one for each name; "
                "ofa search RUN takes several"
            )
    bounds = [f"search.limits.{name}={values[0]!r}" for name, values in limits.items()]
    flags = [
        *_net_flags(net, static, weights, epochs, epochs_scale),
        *(set_ or []),
        *transfer,
        *bounds,
    ]
    said = {"root": root, "on_bad_image": on_bad_image, "seed": seed}
    request = _request(data, recipe, budget, effort, config, flags, said)
    _run(request, out, until=until, tensorboard=tensorboard, json=json)


def train(
    context: typer.Context,
    data: Data = "",
    out: OptionalOut = None,
    status: Annotated[
        Path | None,
        typer.Option("--status", metavar="RUN", help="Say how a training stands, and do no more"),
    ] = None,
    more_epochs: Annotated[
        float | None,
        typer.Option(
            "--more-epochs",
            min=0.01,
            metavar="EPOCHS",
            help="Of a RUN that is trained, given instead of DATA: train so many epochs more",
            show_default=False,
        ),
    ] = None,
    recipe: Recipe = "auto",
    budget: Budget = None,
    effort: Effort = None,
    net: Net = "",
    static: Static = "",
    weights: Weights = "",
    epochs: Epochs = None,
    epochs_scale: EpochsScale = None,
    config: Config = None,
    set_: Set = None,
    init: Init = "",
    start_at: StartAt = "",
    reinit_head: ReinitHead = False,
    freeze_backbone: FreezeBackbone = False,
    head_factor: HeadFactor = None,
    root: Root = "",
    on_bad_image: OptionalOnBadImage = None,
    seed: OptionalSeed = None,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Train a supernet; ``ofa run`` with the same arguments goes on from it.

    Several processes: torchrun --nproc-per-node 4 -m onceforall train ... (also mpirun, srun).

    Example:  ofa train images/ --out runs/images --set train.epochs=100

    Example:  ofa train imagenet/ --out runs/ofa --recipe imagenet-ofa

    Example:  ofa train images/ --out runs/teacher --static mobilenet_v3_large --epochs 90

    Example:  ofa train --status runs/images

    Example:  ofa train runs/images --more-epochs 5
    """
    others = set(given_options(context)) - {"--json"}
    if status is not None:
        if others := others - {"--status"}:
            raise ConfigError(f"--status asks about a run and takes no {min(others)}")
        _show_status(status, json=json)
        return
    if more_epochs is not None:
        _train_on(Path(data), more_epochs, others, json=json)
        return
    if not data or out is None:
        raise ConfigError("ofa train needs DATA and --out, or --status RUN")
    transfer = transfer_flags(
        init,
        weights=weights,
        reinit_head=reinit_head,
        freeze_backbone=freeze_backbone,
        head_factor=head_factor,
        start_at=start_at,
    )
    flags = [*_net_flags(net, static, weights, epochs, epochs_scale), *(set_ or []), *transfer]
    said = {"root": root, "on_bad_image": on_bad_image, "seed": seed}
    request = _request(data, recipe, budget, effort, config, flags, said)
    _run(request, out, until="train", tensorboard=tensorboard, json=json)


def _train_on(folder: Path, epochs: float, others: set[str], *, json: bool) -> None:
    if others := {other for other in others if other.startswith("--")} - {"--more-epochs"}:
        raise ConfigError(f"--more-epochs goes on as the run was begun and takes no {min(others)}")
    from onceforall.job.changed_settings import more_epochs
    from onceforall.job.folder import RunFolder

    request = more_epochs(RunFolder(path=folder), epochs)
    _run(request, folder, until="train", tensorboard=False, json=json)


def _show_status(folder: Path, *, json: bool) -> None:
    from onceforall.job.folder import RunFolder
    from onceforall.job.status import read_status, status_lines

    found = read_status(RunFolder(path=folder))
    print_result(found.to_json(), status_lines(found), as_json=json)


def _net_flags(
    net: str, static: str, weights: str, epochs: float | None, epochs_scale: float | None
) -> list[str]:
    """Return the settings that the options of a network and of its epochs stand for."""
    flags = [] if epochs is None else [f"train.epochs={epochs:g}"]
    flags += [] if epochs_scale is None else [f"train.epochs_scale={epochs_scale:g}"]
    if not (net or static or weights):
        return flags
    from onceforall.job.nets import network_flags

    return [*network_flags(net, static, weights), *flags]


def _request(
    data: str,
    recipe: str,
    budget: str | None,
    effort: str | None,
    config: Path | None,
    flags: list[str],
    said: dict[str, Any],
) -> Request:
    """Return what the options ask for; ``said`` are those that are fields of a request."""
    seconds = parse_budget(budget)
    from onceforall.artifacts import Request

    return Request(
        source=data,
        recipe=recipe,
        config_text=read_config(config),
        flags=tuple(flags),
        budget_s=seconds,
        effort=effort,
        **said,
    )


def _run(request: Request, out: Path, *, until: str, tensorboard: bool, json: bool) -> None:
    from onceforall.job.pipeline import run_all, summary
    from onceforall.job.tensorboard import tensorboard_writer

    with contextlib.ExitStack() as stack:
        ranks, device = stack.enter_context(joined_processes())
        screen = stack.enter_context(Screen(quiet=not ranks.is_main))
        should_stop = stack.enter_context(stop_on_signals())
        tells: list[Tell] = [screen]
        if tensorboard and ranks.is_main:
            tells.append(stack.enter_context(tensorboard_writer(out / "tensorboard")))

        def tell(event: dict[str, Any]) -> None:
            for each in tells:
                each(event)

        done = run_all(
            request,
            out,
            tell=tell,
            should_stop=should_stop,
            until=until,
            ranks=ranks,
            device=device,
            started=STARTED,
        )
    if not ranks.is_main:
        return
    print_result(summary(done), () if json else done.closing_lines, as_json=json)
    if done.failed:
        raise typer.Exit(1)
