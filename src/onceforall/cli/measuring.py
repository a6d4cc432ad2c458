"""Verbs that measure devices and train accuracy predictors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onceforall.cli.console import Screen, print_result, say, shown_progress, stop_on_signals
from onceforall.cli.options import Json, RunArgument, Seed, parse_budget

Target = Annotated[
    str,
    typer.Option(
        "--target", help="ort-cpu, torch-cpu, torch-cuda, openvino, or ssh:USER@HOST (its ort-cpu)"
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of a run")]
Net = Annotated[str, typer.Argument(metavar="NET", help="Published supernet id, or a run")]
Table = Annotated[Path, typer.Argument(metavar="TABLE", help="JSON file of a latency model")]

latency = typer.Typer(help="Latency of devices.", no_args_is_help=True, rich_markup_mode=None)
predictor = typer.Typer(
    help="Accuracy predictors of a run.", no_args_is_help=True, rich_markup_mode=None
)


@latency.command("build")
def latency_build(
    net: Net,
    out: Annotated[Path, typer.Option("--out", help="JSON file to write", show_default=False)],
    target: Target = "ort-cpu",
    threads: Threads = 1,
    budget: Annotated[str, typer.Option("--budget", metavar="TIME")] = "10m",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure this machine or one over ssh: blocks of a search space and some whole networks.

    Example:  ofa latency build ofa_mbv3_d234_e346_k357_w1.0 --out laptop.json

    Example:  ofa latency build runs/digits --target ssh:pi@raspberry --out pi.json
    """
    seconds = parse_budget(budget) or 600.0
    from onceforall.job.tasks.latency_models import build_table

    with Screen(quiet=json) as screen, stop_on_signals() as should_stop:
        facts = build_table(
            net,
            out,
            target=target,
            threads=threads,
            budget_s=seconds,
            seed=seed,
            progress=shown_progress(screen, should_stop, "latency", resumes=True),
        )
    _print(facts, json)


@latency.command("measure")
def latency_measure(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Model folders, runs, or ONNX files"),
    ],
    target: Target = "ort-cpu",
    threads: Threads = 1,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", min=2, max=1000, help="Measurements that the stated spread comes from"
        ),
    ] = 5,
    json: Json = False,
) -> None:
    """Measure models as they are, side by side; the spread is that of repeated measurements.

    Example:  ofa latency measure runs/digits --threads 2

    Example:  ofa latency measure net01.onnx net02.onnx --target ssh:pi@raspberry
    """
    from onceforall.job.tasks.measure_models import measure_models, measured_line

    with Screen(quiet=json) as screen, stop_on_signals() as should_stop:
        show = shown_progress(screen, should_stop, "latency")
        found = measure_models(models, target=target, threads=threads, rounds=rounds, progress=show)
    print_result([each.to_json() for each in found], map(measured_line, found), as_json=json)


@latency.command("list")
def latency_list(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder or run")],
    json: Json = False,
) -> None:
    """List the latency models of a folder or a run.

    Example:  ofa latency list runs/digits
    """
    from onceforall.job.tasks.latency_models import list_tables

    tables = list_tables(folder)
    lines = (
        f"{facts['file']}: {facts['target']}, {facts['threads']} threads, {facts['device']}; "
        f"{facts['entries']} entries, unseen networks: tau {facts['unseen_kendall_tau']:.3f}, "
        f"median error {facts['unseen_median_error'] * 100:.1f} %"
        for facts in tables
    )
    print_result(tables, lines, as_json=json)


@latency.command("show")
def latency_show(
    table: Table,
    net: Annotated[
        str | None, typer.Option("--net", help="Also say what it covers of this space")
    ] = None,
    json: Json = False,
) -> None:
    """Show a latency model: hardware, size, error on unseen networks, coverage.

    Example:  ofa latency show laptop.json --net ofa_mbv3_d234_e346_k357_w1.0
    """
    from onceforall.job.tasks.latency_models import table_facts

    _print(table_facts(table, net), json)


@latency.command("compare")
def latency_compare(first: Table, second: Table, json: Json = False) -> None:
    """Compare two devices on the layers that both measured.

    Example:  ofa latency compare laptop.json server.json
    """
    from onceforall.job.tasks.latency_models import compare_tables

    _print(compare_tables(first, second), json)


@predictor.command("build")
def predictor_build(
    run: RunArgument,
    archs: Annotated[int, typer.Option("--archs", min=30, help="Evaluations to reach")] = 300,
    json: Json = False,
) -> None:
    """Evaluate more subnets of a run until more no longer help; append-only and resumable.

    Example:  ofa predictor build runs/digits --archs 300
    """
    from onceforall.job.start import run_to_change
    from onceforall.job.steps.predict import evaluate_more

    with (
        Screen(quiet=json) as screen,
        stop_on_signals() as should_stop,
        run_to_change(run, tell=screen, should_stop=should_stop) as opened,
    ):
        facts = evaluate_more(opened, archs)
    _print(facts, json)


@predictor.command("train")
def predictor_train(run: RunArgument, json: Json = False) -> None:
    """Fit the accuracy predictor of a run again, to everything measured so far.

    Example:  ofa predictor train runs/digits
    """
    from onceforall.job.start import run_to_change
    from onceforall.job.steps.predict import fit_predictor

    with Screen(quiet=json) as screen, run_to_change(run, tell=screen) as opened:
        report = fit_predictor(opened)
    _print(report.to_json(), json)


@predictor.command("eval")
def predictor_eval(run: RunArgument, json: Json = False) -> None:
    """Show how good a run's predictor is on subnets that were left out of its fit.

    Example:  ofa predictor eval runs/digits
    """
    from onceforall.job.start import open_run
    from onceforall.job.steps.predict import predictor_facts

    with Screen(quiet=json) as screen:
        facts = predictor_facts(open_run(run, tell=screen))
    _print(facts, json)
    if not json:
        say("kendall_tau: 1 if all pairs of subnets are in the measured order, 0 if half are")


def _print(facts: dict[str, Any], json: bool) -> None:
    shown = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in facts.items()}
    print_result(facts, (f"{n:24} {v}" for n, v in shown.items()), as_json=json)
