"""The verb that finds the best arch under limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceforall.cli.console import Screen, print_json, say, stop_on_signals
from onceforall.cli.options import MAX_SEED, Json, Limit, parse_budget, parse_limits
from onceforall.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from onceforall.artifacts import Answer

TrainedRun = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a trained run")]
PublishedNet = Annotated[str, typer.Option("--net", help="Published supernet id, without a run")]
PredictorFile = Annotated[Path | None, typer.Option("--predictor", help="Published predictor file")]
Latency = Annotated[
    list[str] | None,
    typer.Option(
        "--latency",
        "--latency-table",
        metavar="[NAME=]PATH",
        help="Folder of published tables, or a latency model; a NAME, for several devices, "
        "makes it the limit latency_ms@NAME",
    ),
]
SearchTime = Annotated[
    str | None,
    typer.Option("--budget", metavar="TIME", help="With --net: search for this long in all"),
]
Caution = Annotated[
    float | None,
    typer.Option(
        "--caution",
        min=0,
        metavar="STDS",
        help="Standard deviations taken off the predictions of a RUN before archs compare",
    ),
]
SearchSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=MAX_SEED, help="Seed; 0, or that of the RUN", show_default=False
    ),
]


def search(
    run: TrainedRun = None,
    limit: Limit = None,
    net: PublishedNet = "",
    predictor: PredictorFile = None,
    latency: Latency = None,
    budget: SearchTime = None,
    caution: Caution = None,
    seed: SearchSeed = None,
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
            found = search_published(request, progress=_progress(screen, should_stop))
    if not json:
        for best in found:
            say(_line(best))
        return
    answers = [best.to_json() for best in found]
    several = any(len(bounds) > 1 for bounds in limits.values())
    print_json(answers if several else answers[0])


def _progress(screen: Screen, should_stop: Callable[[], bool]) -> Callable[[int, int], None]:
    """Show how far a search is, and end it if a signal asked for that."""

    def show(done: int, total: int) -> None:
        screen({"event": "progress", "what": "search", "done": done, "total": total})
        if should_stop():
            raise Interrupted("stopped during the search; the same command starts it anew")

    return show


def _line(best: Answer) -> str:
    """Return what was found under one set of bounds, in words."""
    bounds = ", ".join(f"{name}={bound:g}" for name, bound in best.limits.items()) or "no limit"
    here = "" if best.latency_ms is None else f"{best.latency_ms:.3f} ms, "
    elsewhere = "".join(f"{ms:.3f} ms on {name}, " for name, ms in best.elsewhere_ms.items())
    return (
        f"{bounds}: predicted top-1 {best.predicted_top1 * 100:.2f} %, {here}{elsewhere}"
        f"{best.macs / 1e6:.3g} M MACs  {best.arch}"
    )
