"""The verbs and their options."""

from __future__ import annotations

import typer

from onceforall.cli import inspecting, running, shipping

app = typer.Typer(
    name="ofa",
    help="Train one elastic network, then specialise it for any device and limit.",
    epilog="Start with:  ofa run digits --out runs/digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(running.run)
app.command("train")(running.train)
app.command("search")(running.search)
app.command("specialize")(shipping.specialize)
app.command("verify")(shipping.verify)
app.command("report")(shipping.report)
app.command("data")(inspecting.data)
