"""The verb that finds the best arch under limits."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.console import Screen, print_result, shown_progress, stop_on_signals
from onceforall.cli.options import (
    MAX_SEED,
    Json,
    Limit,
    check_published,
    parse_budget,
    parse_limits,
)
from onceforall.errors import ConfigError

if TYPE_CHECKING:
    from onceforall.artifacts import Answer
    from onceforall.job.tasks.published_search import PublishedRequest

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
Ship = Annotated[
    bool, typer.Option("--ship", help="Make the answer a model: measured, exported, verified")
]
ShipWeights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="With --net and --ship: weights of the supernet, a file or official",
    ),
]
ShipData = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="With --net and --ship: images to calibrate with and to test on",
    ),
]
ShipOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="MODEL", help="With --net and --ship: folder of the model to write"
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
    ship: Ship = False,
    weights: ShipWeights = "",
    data: ShipData = "",
    out: ShipOut = None,
    json: Json = False,
) -> None:
    """Find the best arch under limits: of a trained run, or with published files.

    Several bounds of one limit give one result each. With --ship the answer becomes a model:
    measured, exported, verified; where a shipped model of the run is as good within noise, it is
    named instead.

    Example:  ofa search runs/digits --limit latency_ms=0.5,1,2

    Example:  ofa search runs/digits --limit latency_ms=0.05 --ship

    Example:  ofa search --net ofa_mbv3_d234_e346_k357_w1.2 --predictor acc_predictor.pth
    --latency note10/ --limit latency_ms=25 --ship --weights official --data imagenet/
    --out models/note10-25ms

    Example:  ofa search runs/digits --latency phone=phone.json --limit latency_ms=1
    --limit latency_ms@phone=3
    """
    limits, seconds = parse_limits(limit), parse_budget(budget)
    _check_source(run, net, predictor, seconds, caution)
    given = {"--weights": weights, "--data": data, "--out": out}
    check_published(bool(ship and net), given, "--net and --ship")
    from onceforall.job.tasks.latency_models import named_tables

    tables = named_tables(latency or [])
    own = tables.pop("", None)
    if run is not None and own is not None:
        raise ConfigError(
            f"--latency {own} needs a name, as in phone={own}: a RUN has a table of its own"
        )
    several = any(len(bounds) > 1 for bounds in limits.values())
    with Screen(quiet=json) as screen, stop_on_signals() as should_stop:
        if run is not None and ship:
            answers, lines = _ship_of_run(run, limits, caution, tables, seed, screen, should_stop)
        elif run is not None:
            from onceforall.job.start import open_run
            from onceforall.job.steps.search import best_under_limits

            trained = open_run(run, tell=screen, should_stop=should_stop)
            found = best_under_limits(trained, limits, caution=caution, devices=tables, seed=seed)
            answers, lines = [best.to_json() for best in found], [*map(_line, found), _next()]
        elif predictor is not None:
            from onceforall.job.tasks.published_search import PublishedRequest

            request = PublishedRequest(
                net=net,
                predictor=predictor,
                latency=own,
                devices=tables,
                limits=limits,
                seed=seed or 0,
                budget_s=seconds,
            )
            if ship and several:
                raise ConfigError("--ship of a published search takes one bound of each limit")
            answers, lines = _of_published(request, weights, data, out, screen, should_stop)
    print_result(answers if several else answers[0], lines, as_json=json)


def _check_source(
    run: Path | None,
    net: str,
    predictor: Path | None,
    seconds: float | None,
    caution: float | None,
) -> None:
    """Refuse a search of neither or both, and options of the other.

    Raises:
        ConfigError: If they do not go together.
    """
    if (run is None) == (not net) or (run is None and predictor is None):
        raise ConfigError("ofa search needs either a RUN, or --net with --predictor")
    if run is not None and (predictor is not None or seconds is not None):
        option = "--budget" if predictor is None else "--predictor"
        raise ConfigError(f"{option} goes with --net: a RUN has its own predictor and generations")
    if run is None and caution is not None:
        raise ConfigError(
            "--caution needs a RUN: published predictors do not say how sure they are"
        )


def _ship_of_run(
    run: Path,
    limits: dict[str, list[float]],
    caution: float | None,
    tables: dict[str, Path],
    seed: int | None,
    screen: Screen,
    should_stop: Callable[[], bool],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Search a run, ship what is found, write its report again; return it as JSON and as lines."""
    from onceforall.job.closing_table import model_table
    from onceforall.job.start import run_to_change
    from onceforall.job.tasks.ship_found import ship_found
    from onceforall.report import write_report

    with run_to_change(run, tell=screen, should_stop=should_stop) as trained:
        shipped = ship_found(trained, limits, caution=caution, devices=tables, seed=seed)
        write_report(run)
    lines = [line for each in shipped for line in (_line(each.answer), f"  {each.line}")]
    cards = {each.card.name: each.card for each in shipped}
    lines += ["", *model_table(list(cards.values())), ""]
    lines += [f"next:    ofa verify {shlex.quote(str(run / 'models' / name))}" for name in cards]
    return [each.to_json() for each in shipped], lines


def _of_published(
    request: PublishedRequest,
    weights: str,
    data: str,
    out: Path | None,
    screen: Screen,
    should_stop: Callable[[], bool],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Search with published files, ship into a folder if there is one; return JSON and lines."""
    from onceforall.job.closing_table import model_table
    from onceforall.job.tasks.published_search import search_published
    from onceforall.job.tasks.ship_published import open_shipyard, ship_published

    yard = None
    if out is not None:
        yard = open_shipyard(request.net, weights=weights, source=data, out=out)
    found = search_published(request, progress=shown_progress(screen, should_stop, "search"))
    lines = [*map(_line, found), f"scale of predicted top-1: {found[0].scale}"]
    answers = [best.to_json() for best in found]
    if yard is None and len(found) > 1:  # one ships at a time
        return answers, lines
    if yard is None:
        return answers, [*lines, _next("--weights official --data DATA --out MODEL")]
    show = shown_progress(screen, should_stop, "test")
    card = ship_published(yard, found[0].arch, progress=show, report=screen.line)
    answers[0] |= {"new": True, "model": card.to_json()}
    verify = f"next:    ofa verify {shlex.quote(str(out))}"
    return answers, [*lines, "", *model_table([card]), "", verify]


def _next(more: str = "") -> str:
    """Return the command that ships the answer."""
    given = [word for word in sys.argv[1:] if word != "--debug"]
    return " ".join(part for part in ("next:    ofa", shlex.join(given), more, "--ship") if part)


def _line(best: Answer) -> str:
    """Return what was found under one set of bounds, in words."""
    from onceforall.search.limits import limit_words

    here = "" if best.latency_ms is None else f"{best.latency_ms:.3f} ms, "
    elsewhere = "".join(f"{ms:.3f} ms on {name}, " for name, ms in best.elsewhere_ms.items())
    return (
        f"{limit_words(best.limits)}: predicted top-1 {best.predicted_top1 * 100:.2f} %, "
        f"{here}{elsewhere}{best.macs / 1e6:.3g} M MACs  {best.arch}"
    )
