"""Verbs that run the job or a part of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.console import Screen, print_json, stop_on_signals
from onceforall.cli.options import (
    Budget,
    Config,
    Data,
    Json,
    Limit,
    OnBadImage,
    Out,
    Root,
    RunArgument,
    Seed,
    Set,
    parse_budget,
    parse_limits,
)

Until = Annotated[
    str, typer.Option("--until", help="Last step to do: plan, train, ..., report", hidden=True)
]


def run(
    data: Data,
    out: Out,
    budget: Budget = None,
    limit: Limit = None,
    config: Config = None,
    set_: Set = None,
    root: Root = "",
    on_bad_image: OnBadImage = "refuse",
    seed: Seed = 0,
    json: Json = False,
    until: Until = "report",
) -> None:
    """Images in, a Pareto set of measured, verified, exported models out.

    Runs plan, train, evaluate, predictor, latency, search, models, report. The same command goes
    on after a crash or an interruption.

    Example:  ofa run digits --out runs/digits
    """
    _run(data, out, budget, limit, config, set_, root, on_bad_image, seed, json, until)


def train(
    data: Data,
    out: Out,
    budget: Budget = None,
    config: Config = None,
    set_: Set = None,
    root: Root = "",
    on_bad_image: OnBadImage = "refuse",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a supernet; ``ofa run`` with the same arguments goes on from it.

    Several processes: torchrun --nproc-per-node 4 -m onceforall train ... (also mpirun, srun).

    Example:  ofa train images/ --out runs/images --set train.epochs=100
    """
    _run(data, out, budget, None, config, set_, root, on_bad_image, seed, json, "train")


def _run(
    data: str,
    out: Path,
    budget: str | None,
    limit: list[str] | None,
    config: Path | None,
    set_: list[str] | None,
    root: str,
    on_bad_image: str,
    seed: int,
    json: bool,
    until: str,
) -> None:
    limits = parse_limits(limit)
    seconds = parse_budget(budget)
    from onceforall.run import Request, default_device
    from onceforall.steps import run_all, summary
    from onceforall.train.ranks import (
        ranks_from_environment,
        start_process_group,
        stop_process_group,
    )

    flags = list(set_ or [])
    flags += [f"search.limits.{name}={bounds[0]!r}" for name, bounds in limits.items()]
    request = Request(
        source=data,
        root=root,
        on_bad_image=on_bad_image,
        config_text=None if config is None else config.read_text(),
        flags=tuple(flags),
        budget_s=seconds,
        seed=seed,
    )
    ranks = ranks_from_environment(os.environ)
    device = default_device(ranks)
    start_process_group(ranks, device)
    with Screen(quiet=not ranks.is_main) as screen, stop_on_signals() as should_stop:
        done = run_all(
            request,
            out,
            tell=screen,
            should_stop=should_stop,
            until=until,
            ranks=ranks,
            device=device,
        )
    stop_process_group(ranks)
    if not ranks.is_main:
        return
    if json:
        print_json(summary(done))
        return
    for line in done.closing_lines:
        print(line)


def search(run: RunArgument, limit: Limit = None, json: Json = False) -> None:
    """Search a trained run again under other limits: the best arch for each.

    Example:  ofa search runs/digits --limit latency_ms=0.5,1,2
    """
    limits = parse_limits(limit)
    from onceforall.run import open_run
    from onceforall.steps import best_under_limits

    with Screen(quiet=json) as screen, stop_on_signals() as should_stop:
        found = best_under_limits(open_run(run, tell=screen, should_stop=should_stop), limits)
    if json:
        print_json(found)
        return
    for best in found:
        print(
            f"{_bounds(best['limits'])}: predicted top-1 {best['predicted_top1'] * 100:.2f} %, "
            f"{best['latency_ms']:.3f} ms, {best['macs'] / 1e6:.2f} M MACs  {best['name']}"
        )


def _bounds(limits: dict[str, float]) -> str:
    return ", ".join(f"{name}={bound:g}" for name, bound in limits.items()) or "no limit"
