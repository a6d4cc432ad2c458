"""Verbs that help to decide: which model to take, which run is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.console import print_result
from onceforall.cli.options import Json, Limit, RunArgument, parse_limits


def choose(run: RunArgument, limit: Limit = None, json: Json = False) -> None:
    """Name the shipped model to take under limits, and what looser ones would gain.

    Models are compared on the validation images. Several bounds of one limit give one answer each.

    Example:  ofa choose runs/digits --limit latency_ms=0.03
    """
    limits = parse_limits(limit)
    from onceforall.job.folder import RunFolder
    from onceforall.job.tasks.choice import choice_json, choice_lines, choose_models

    found = choose_models(RunFolder(path=run), limits)
    answers = [choice_json(choice) for choice in found]
    lines = [line for choice in found for line in choice_lines(choice, run)]
    print_result(answers if len(answers) > 1 else answers[0], lines, as_json=json)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs")],
    json: Json = False,
) -> None:
    """Compare runs: their models in one table, hypervolume, and the settings that differ.

    ``ofa report RUN RUN...`` writes the same as a page, with a chart.

    Example:  ofa compare runs/digits runs/longer
    """
    from onceforall.job.tasks.compare import comparison_json, comparison_lines
    from onceforall.report import compare_runs

    compared = compare_runs(runs)
    print_result(comparison_json(compared), comparison_lines(compared), as_json=json)
