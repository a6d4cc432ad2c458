"""Verbs that make, check and show models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceforall.cli.console import Screen, print_result, say, shown_progress, stop_on_signals
from onceforall.cli.options import Json, RunArgument, check_published, parse_budget
from onceforall.errors import ConfigError

if TYPE_CHECKING:
    from onceforall.artifacts import Card

Folders = Annotated[
    list[Path],
    typer.Argument(metavar="MODEL...", help="Model folders, or runs: all their models"),
]


def specialize(
    arch: Annotated[
        Path,
        typer.Option(
            "--arch", help="JSON file of the arch, - for standard input", show_default=False
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Folder of a trained run", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of a RUN: name of the model's folder")] = "",
    net: Annotated[str, typer.Option("--net", help="Published supernet id, without a run")] = "",
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="With --net: weights of the supernet, a file or official",
        ),
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="DATA", help="With --net: images to calibrate with and to test on"
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="MODEL", help="With --net: folder of the model to write"),
    ] = None,
    json: Json = False,
) -> None:
    """Ship one arch of a supernet: extract, recalibrate, measure, export, verify.

    Example:  ofa specialize runs/digits --arch arch.json

    Example:  ofa specialize --net ofa_mbv3_d234_e346_k357_w1.0 --weights official
    --data imagenet/ --arch arch.json --out models/mine
    """
    if (run is None) == (not net):
        raise ConfigError("ofa specialize needs either a RUN or --net")
    if net and name:
        raise ConfigError("--name goes with a RUN: --out names the folder")
    check_published(bool(net), {"--weights": weights, "--data": data, "--out": out}, "--net")
    from onceforall.job.closing_table import model_table

    with Screen(quiet=json) as screen, stop_on_signals() as should_stop:
        if run is not None:
            card = _of_run(run, arch, name, screen, should_stop)
        else:
            assert out is not None  # checked above
            card = _of_published(net, weights, data, arch, out, screen, should_stop)
    print_result(card.to_json(), model_table([card]), as_json=json)


def _of_run(
    run: Path, arch: Path, name: str, screen: Screen, should_stop: Callable[[], bool]
) -> Card:
    from onceforall.arch_files import read_arch
    from onceforall.job.start import run_to_change
    from onceforall.job.steps.ship import specialize_arch

    with run_to_change(run, tell=screen, should_stop=should_stop) as trained:
        return specialize_arch(trained, read_arch(arch, trained.spec.space), name)


def _of_published(
    net: str,
    weights: str,
    data: str,
    arch: Path,
    out: Path,
    screen: Screen,
    should_stop: Callable[[], bool],
) -> Card:
    from onceforall.arch_files import read_arch
    from onceforall.job.tasks.ship_published import open_shipyard, ship_published

    yard = open_shipyard(net, weights=weights, source=data, out=out)
    chosen = read_arch(arch, yard.net.space)
    return ship_published(
        yard, chosen, progress=shown_progress(screen, should_stop, "test"), report=screen.line
    )


def verify(folders: Folders, json: Json = False) -> None:
    """Prove that exported files are unchanged and compute what the card says.

    Example:  ofa verify runs/digits
    """
    from onceforall.deploy.model_folder import model_folders, verify_folder

    results = [verify_folder(model) for folder in folders for model in model_folders(folder)]
    lines = (f"{r['name']}: verified, ONNX off by {r['onnx_relative_error']:.1e}" for r in results)
    print_result(results, lines, as_json=json)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folder of a run, or of several to compare"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Page to write; by default RUN/report.html, of several comparison.html beside "
            "the first",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write report.html of a run, one file that works offline; of several runs, one for all.

    Example:  ofa report runs/digits

    Example:  ofa report runs/digits runs/longer --out both.html
    """
    from onceforall.job.folder import RunFolder
    from onceforall.report import write_comparison, write_report

    for run in runs:
        RunFolder(path=run).read_settings()
    say(write_report(runs[0], out) if len(runs) == 1 else write_comparison(runs, out))


def finetune(
    run: RunArgument,
    model: Annotated[
        str,
        typer.Argument(metavar="[MODEL]", help="Name of a model of the run", show_default=False),
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every shipped model of the run")] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 25,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            min=0,
            help="Peak, for the run's reference batch; by default its grid.finetune_rate, 0.03",
            show_default=False,
        ),
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Learn from the supernet's largest subnet too")
    ] = False,
    json: Json = False,
) -> None:
    """Fine-tune a shipped model, or all of a run, and ship each as a new one.

    Of all, RUN/finetuned.csv has the figures before and after. The same command goes on after an
    interruption.

    Example:  ofa finetune runs/digits net04-2.63M-8px --epochs 25 --distill

    Example:  ofa finetune runs/digits --all --epochs 25
    """
    if bool(model) == all_:
        raise ConfigError("ofa finetune needs either a MODEL or --all")
    from onceforall.job.start import run_to_change
    from onceforall.job.steps.finetune import finetune_all, finetune_model, usual_tuning
    from onceforall.job.tuned_table import before_and_after, tuned_lines, write_tuned
    from onceforall.report import write_report

    with (
        Screen(quiet=json) as screen,
        stop_on_signals() as should_stop,
        run_to_change(run, tell=screen, should_stop=should_stop) as opened,
    ):
        how = usual_tuning(opened, epochs=epochs, learning_rate=learning_rate, distill=distill)
        cards = finetune_all(opened, how) if all_ else [finetune_model(opened, model, how)]
        if all_:
            write_tuned(opened)
            write_report(run)
    told = [card.to_json() for card in cards]
    lines = tuned_lines(opened.folder) if all_ else before_and_after(opened.folder, cards[0])
    print_result(told if all_ else told[0], lines, as_json=json)


def baseline(
    run: RunArgument,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="A model of the run; again for more"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Training time of each, e.g. 90s, 5m, 2h; by default an equal share of the "
            "supernet's",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train shipped architectures alone, from scratch: was the supernet worth it?

    Table and report then show both. The same command goes on after an interruption.

    Example:  ofa baseline runs/digits

    Example:  ofa baseline runs/digits --model net04-2.63M-8px --budget 5m
    """
    seconds = parse_budget(budget)
    from onceforall.job.closing_table import read_pairs, result_lines
    from onceforall.job.start import run_to_change
    from onceforall.job.tasks.baseline import train_alone
    from onceforall.report import write_report

    with (
        Screen(quiet=json) as screen,
        stop_on_signals() as should_stop,
        run_to_change(run, tell=screen, should_stop=should_stop) as opened,
    ):
        records = train_alone(opened, model or [], budget_s=seconds)
        page, cards = write_report(run), opened.folder.read_cards()
    pairs = read_pairs(opened.folder, cards)
    verdicts = [{**r.to_json(), "verdict": pairs[r.name].verdict} for r in records] if json else []
    lines = [*result_lines(opened.folder, cards), "", f"report:  {page}"]
    print_result(verdicts, lines, as_json=json)


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a shipped model, published id or alias, or net.config JSON",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write", show_default=False)],
    form: Annotated[
        str, typer.Option("--format", help="onnx, torchscript, pt2, published or config")
    ] = "onnx",
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Of a published id or a net.config: its weights, a file or official",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Write a network in another form, checked against the original.

    Example:  ofa export runs/digits/models/net04-2.63M-8px --format torchscript --out net01.ts

    Example:  ofa export note10_lat@22ms_top1@76.6_finetune@25 --out note10.onnx
    """
    from onceforall.job.tasks.export_any import export_any

    error = export_any(model, out, form=form, weights=weights)
    checked = "" if error is None else f": logits within {error:.1e} of PyTorch's, relative"
    say(f"{out}{checked}")
