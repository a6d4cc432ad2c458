"""The verbs and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from onceforall import __version__
from onceforall.cli import (
    deciding,
    evaluating,
    inspecting,
    measuring,
    running,
    searching,
    shipping,
)
from onceforall.cli.console import say

app = typer.Typer(
    name="ofa",
    epilog="Start with:  ofa run digits --out runs/digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        say(f"onceforall {__version__}")
        raise typer.Exit


@app.callback()
def ofa(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which it is")
    ] = False,
) -> None:
    """Train one elastic network, then specialise it for any device and limit."""


app.command("run")(running.run)
app.command("train")(running.train)
app.command("search")(searching.search)
app.command("choose")(deciding.choose)
app.command("compare")(deciding.compare)
app.command("specialize")(shipping.specialize)
app.command("finetune")(shipping.finetune)
app.command("baseline")(shipping.baseline)
app.command("export")(shipping.export)
app.command("verify")(shipping.verify)
app.command("report")(shipping.report)
app.command("eval")(evaluating.evaluate)
app.command("data")(inspecting.data)
app.command("inspect")(inspecting.inspect)
app.add_typer(measuring.latency, name="latency")
app.add_typer(measuring.predictor, name="predictor")

zoo = typer.Typer(help="The published networks.", no_args_is_help=True, rich_markup_mode=None)
zoo.command("list")(inspecting.zoo_list)
zoo.command("show")(inspecting.zoo_show)
zoo.command("verify")(inspecting.zoo_verify)
app.add_typer(zoo, name="zoo")
