"""Verbs that run the job or a part of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.console import Screen, print_json, say, stop_on_signals
from onceforall.cli.options import (
    MAX_SEED,
    Budget,
    Config,
    Data,
    Effort,
    Epochs,
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
    TensorBoard,
    Weights,
    given_options,
    parse_budget,
    parse_limits,
    read_config,
    transfer_flags,
)
from onceforall.cli.started import STARTED
from onceforall.errors import ConfigError, Interrupted

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
    weights: Weights = "",
    epochs: Epochs = None,
    limit: Limit = None,
    config: Config = None,
    set_: Set = None,
    init: Init = "",
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
        init, reinit_head=reinit_head, freeze_backbone=freeze_backbone, head_factor=head_factor
    )
    for name, values in limits.items():
        if len(values) > 1:
            raise ConfigError(
                f"--limit {name} has {len(values)} bounds: ofa run takes one for each name; "
                "ofa search RUN takes several"
            )
    bounds = [f"search.limits.{name}={values[0]!r}" for name, values in limits.items()]
    flags = [*_net_flags(net, weights, epochs), *(set_ or []), *transfer, *bounds]
    request = _request(data, recipe, budget, effort, config, flags)
    said = {"root": root, "on_bad_image": on_bad_image, "seed": seed}
    request = request.model_copy(update=said)
    _run(request, out, until=until, tensorboard=tensorboard, json=json)


def train(
    context: typer.Context,
    data: Data = "",
    out: OptionalOut = None,
    status: Annotated[
        Path | None,
        typer.Option("--status", metavar="RUN", help="Say how a training stands, and do no more"),
    ] = None,
    recipe: Recipe = "auto",
    budget: Budget = None,
    effort: Effort = None,
    net: Net = "",
    weights: Weights = "",
    epochs: Epochs = None,
    config: Config = None,
    set_: Set = None,
    init: Init = "",
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

    Example:  ofa train --status runs/images
    """
    if status is not None:
        if others := set(given_options(context)) - {"--status", "--json"}:
            raise ConfigError(f"--status asks about a run and takes no {min(others)}")
        _show_status(status, json=json)
        return
    if not data or out is None:
        raise ConfigError("ofa train needs DATA and --out, or --status RUN")
    transfer = transfer_flags(
        init, reinit_head=reinit_head, freeze_backbone=freeze_backbone, head_factor=head_factor
    )
    flags = [*_net_flags(net, weights, epochs), *(set_ or []), *transfer]
    request = _request(data, recipe, budget, effort, config, flags)
    said = {"root": root, "on_bad_image": on_bad_image, "seed": seed}
    request = request.model_copy(update=said)
    _run(request, out, until="train", tensorboard=tensorboard, json=json)


def _show_status(folder: Path, *, json: bool) -> None:
    from onceforall.job.folder import RunFolder
    from onceforall.job.status import read_status, status_lines

    found = read_status(RunFolder(path=folder))
    if json:
        print_json(found.to_json())
        return
    for line in status_lines(found):
        say(line)


def _net_flags(net: str, weights: str, epochs: float | None) -> list[str]:
    """Return the settings that ``--net``, ``--weights`` and ``--epochs`` stand for."""
    if weights and not net:
        raise ConfigError("--weights needs --net: whose weights are they? (--init needs none)")
    flags = [] if epochs is None else [f"train.epochs={epochs:g}"]
    if not net:
        return flags
    from onceforall.job.nets import net_flags, weights_flags

    return [*net_flags(net), *(weights_flags(net, weights) if weights else []), *flags]


def _request(
    data: str,
    recipe: str,
    budget: str | None,
    effort: str | None,
    config: Path | None,
    flags: list[str],
) -> Request:
    """Return what the options ask for."""
    seconds = parse_budget(budget)
    from onceforall.artifacts import Request

    return Request(
        source=data,
        recipe=recipe,
        config_text=read_config(config),
        flags=tuple(flags),
        budget_s=seconds,
        effort=effort,
    )


def _run(request: Request, out: Path, *, until: str, tensorboard: bool, json: bool) -> None:
    from onceforall.job.machine import default_device
    from onceforall.job.pipeline import run_all, summary
    from onceforall.job.tensorboard import tensorboard_writer
    from onceforall.training.ranks import (
        ranks_from_environment,
        start_process_group,
        stop_process_group,
    )

    ranks = ranks_from_environment(os.environ)
    device = default_device(ranks)
    start_process_group(ranks, device)
    try:
        with contextlib.ExitStack() as stack:
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
    finally:
        stop_process_group(ranks)
    if not ranks.is_main:
        return
    if json:
        print_json(summary(done))
    else:
        for line in done.closing_lines:
            say(line)
    if done.failed:
        raise typer.Exit(1)


def search(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of a trained run")
    ] = None,
    limit: Limit = None,
    net: Annotated[str, typer.Option("--net", help="Published supernet id, without a run")] = "",
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="Published predictor file")
    ] = None,
    latency: Annotated[
        list[str] | None,
        typer.Option(
            "--latency",
            "--latency-table",
            metavar="[NAME=]PATH",
            help="Folder of published tables, or a latency model; a NAME, for several devices, "
            "makes it the limit latency_ms@NAME",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="With --net: search for this long in all"),
    ] = None,
    caution: Annotated[
        float | None,
        typer.Option(
            "--caution",
            min=0,
            metavar="STDS",
            help="Standard deviations taken off the predictions of a RUN before archs compare",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            help="Seed; 0, or that of the RUN",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find the best arch under limits: of a trained run, or with published files.

    Several bounds of one limit give one result each.

    Example:  ofa search runs/digits --limit latency_ms=0.5,1,2

    Example:  ofa search --net ofa_mbv3_d234_e346_k357_w1.2 --predictor acc_predictor.pth
    --latency note10/ --limit latency_ms=25

    Example:  ofa search runs/digits --latency phone=phone.json --limit latency_ms=1
    --limit latency_ms@phone=3
    """
    limits, seconds = parse_limits(limit), parse_budget(budget)
    if (run is None) == (not net) or (run is None and predictor is None):
        raise ConfigError("ofa search needs either a RUN, or --net with --predictor")
    if run is not None and (predictor is not None or seconds is not None):
        option = "--budget" if predictor is None else "--predictor"
        raise ConfigError(f"{option} goes with --net: a RUN has its own predictor and generations")
    if run is None and caution is not None:
        raise ConfigError(
            "--caution needs a RUN: published predictors do not say how sure they are"
        )
    from onceforall.job.devices import named_tables
    from onceforall.job.published_search import PublishedRequest, search_published
    from onceforall.job.search import best_under_limits
    from onceforall.job.start import open_run

    tables = named_tables(latency or [])
    own = tables.pop("", None)
    if run is not None and own is not None:
        raise ConfigError(
            f"--latency {own} needs a name, as in phone={own}: a RUN has a table of its own"
        )
    with Screen(quiet=json) as screen, stop_on_signals() as should_stop:
        if run is not None:
            trained = open_run(run, tell=screen, should_stop=should_stop)
            found = best_under_limits(trained, limits, caution=caution, devices=tables, seed=seed)
        elif predictor is not None:
            request = PublishedRequest(
                net=net,
                predictor=predictor,
                latency=own,
                devices=tables,
                limits=limits,
                seed=seed or 0,
                budget_s=seconds,
            )
            found = search_published(request, progress=_search_progress(screen, should_stop))
    if json:
        several = any(len(bounds) > 1 for bounds in limits.values())
        answers = [best.to_json() for best in found]
        print_json(answers if several else answers[0])
        return
    for best in found:
        here = "" if best.latency_ms is None else f"{best.latency_ms:.3f} ms, "
        say(
            f"{_bounds(best.limits)}: predicted top-1 {best.predicted_top1 * 100:.2f} %, {here}"
            + "".join(f"{ms:.3f} ms on {name}, " for name, ms in best.elsewhere_ms.items())
            + f"{best.macs / 1e6:.3g} M MACs  {best.arch}"
        )


def _search_progress(screen: Screen, should_stop: Callable[[], bool]) -> Callable[[int, int], None]:
    """Show how far a search is, and end it if a signal asked for that."""

    def show(done: int, total: int) -> None:
        screen({"event": "progress", "what": "search", "done": done, "total": total})
        if should_stop():
            raise Interrupted("stopped during the search; the same command starts it anew")

    return show


def _bounds(limits: dict[str, float]) -> str:
    return ", ".join(f"{name}={bound:g}" for name, bound in limits.items()) or "no limit"
