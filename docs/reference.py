"""Writes the pages of ``docs/reference`` from the code: verbs, settings, files, names, errors.

python docs/reference.py            writes them
python docs/reference.py --check    says which are not up to date, and exits 1
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import onceforall
from onceforall import artifacts, errors
from onceforall.cli.app import app
from onceforall.job.config import RunConfig

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- Written by docs/reference.py from the code. -->\n"


def table(*rows: tuple[str, ...], head: tuple[str, ...]) -> list[str]:
    """Return the lines of a table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines]


def one_line(text: str) -> str:
    """Return a text in one line, with the markup of Markdown."""
    return " ".join(text.split()).replace("``", "`").replace(":class:", "")


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring."""
    return one_line((inspect.getdoc(thing) or "").split("\n\n")[0])


def attributes(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.getdoc(base) or ""
        part = re.search(r"^Attributes:\n((?: {4}.*\n?|\n)*)", text, re.MULTILINE)
        for name, about in re.findall(
            r"^ {4}(\w+): (.*(?:\n {8}.*)*)", part.group(1) if part else "", re.MULTILINE
        ):
            found[name] = one_line(about)
    return found


# -- verbs ----------------------------------------------------------------------------------------


def verbs() -> Iterator[str]:
    """Yield the page of the command line."""
    yield "# The command line\n"
    yield "`ofa VERB --help` says the same. Exit status: 0 done, 1 not all is proven, 2 wrong"
    yield "input, 130 interrupted.\n"
    yield from commands("ofa", typer.main.get_command(app))


def commands(name: str, command: Any) -> Iterator[str]:
    """Yield what a command and all below it take."""
    below = getattr(command, "commands", None)
    if below:
        for each, child in below.items():
            yield from commands(f"{name} {each}", child)
        return
    yield f"## {name}\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        example = re.fullmatch(r"Example:\s+(.*)", one_line(paragraph))
        yield f"    {example.group(1)}\n" if example else one_line(paragraph) + "\n"
    rows = []
    for parameter in command.params:
        words = ", ".join(f"`{word}`" for word in parameter.opts)
        if parameter.param_type_name == "argument":
            words = "`" + (parameter.metavar or parameter.name.upper()) + "`"
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        default = "" if parameter.default in (None, False, (), "") else f"`{parameter.default}`"
        needed = "required" if parameter.required else default
        rows.append((words, one_line(getattr(parameter, "help", None) or ""), needed))
    yield from table(*rows, head=("option", "what", "default"))
    yield ""


# -- settings -------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """Yield the page of ``--set`` and ``--config``."""
    yield "# Settings\n"
    yield "`--set SECTION.KEY=VALUE`, or a YAML file of sections for `--config`. The recipe of a"
    yield "data set replaces most defaults; `run.yaml` of a run holds what was used.\n"
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            continue
        yield f"## {name}\n"
        yield summary(kind) + "\n"
        yield from keys_table(kind, prefix=f"{name}.", head="setting")
        for key, each in kind.model_fields.items():
            for inner in get_args(each.annotation)[:1]:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from keys_of(f"{name}.{key}", inner)


def keys_of(setting: str, kind: type[BaseModel]) -> Iterator[str]:
    """Yield what each item of a list of records may have."""
    yield f"### {kind.__name__}, an item of `{setting}`\n"
    yield summary(kind) + "\n"
    yield from keys_table(kind)


def keys_table(kind: type[BaseModel], *, prefix: str = "", head: str = "key") -> Iterator[str]:
    """Yield what each key of a record is, its type and its default."""
    about = attributes(kind)
    rows = [
        (f"`{prefix}{key}`", about.get(key, ""), kind_of(each.annotation), default_of(each))
        for key, each in kind.model_fields.items()
    ]
    yield from table(*rows, head=(head, "what", "type", "default"))
    yield ""


def kind_of(annotation: Any) -> str:
    """Return a type as it is read: ``int or None``, ``list of float``."""
    parts, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        return kind_of(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(kind_of(part) for part in parts)
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"{len(parts)} of {kind_of(parts[0])}"
    if origin is dict:
        return f"map of {kind_of(parts[1])}"
    if origin in (tuple, list):
        return f"list of {kind_of(parts[0])}"
    return {"NoneType": "null", "Any": "any"}.get(annotation.__name__, annotation.__name__)


def default_of(field: Any) -> str:
    """Return the default of a field as it is written."""
    if field.default is PydanticUndefined:
        return "" if field.default_factory else "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    if isinstance(value, BaseModel):
        return "all"
    return f"`{json.dumps(value)}`"


# -- files ----------------------------------------------------------------------------------------

LAYOUT = """\
    RUN/
      run.yaml               RunSettings: what was asked for, what was decided, versions, hardware
      events.jsonl           one JSON object a line: epochs, checkpoints, decisions, warnings
      progress.json          the latest training step
      checkpoints/           training state, pace.jsonl (changes of plan, replayed by a resume),
                             supernet.safetensors and supernet.json: the trained supernet,
                             and from where to where the weights of its subnets go,
                             phases/NAME: as each phase left it, best: best grid of a phase,
                             more-01, ...: training state of more epochs,
                             winners/: those that train on alone before they ship
      evaluations.jsonl      Evaluation, one a line
      network.safetensors    network.json: of --net torchvision:..., the traced network as it came
      predictor.safetensors  accuracy predictor; predictor.json says how good it is
      latency/               models of the latency of devices, and their measurements
      search/front.json      FrontFile; confirmed.json: ConfirmedFile; failed.json: FailedFile;
                             rejected.json: Rejected; journal.jsonl, which a search goes on from
      models/NAME/           card.json: Card; arch.json, model.safetensors, model.onnx
      baselines/NAME.json    Baseline
      tensorboard/           scalars, with --tensorboard
      finetuned.csv          models before and after fine-tuning
      earlier/01, 02, ...    what a change of settings made out of date
      report.html            one offline page
"""


def files() -> Iterator[str]:
    """Yield the page of the files of a run."""
    yield "# Files of a run\n"
    yield LAYOUT
    yield "JSON and YAML are read as the records below: keys, types and ranges are checked, unknown"
    yield "keys are left out, and one line says what is wrong with a damaged file. Tensors are"
    yield "safetensors; nothing is a pickle but training state, which is read as tensors only."
    yield "All files are written whole or not at all.\n"
    records = (getattr(artifacts, name) for name in artifacts.__all__)
    order = (
        artifacts.settings,
        artifacts.events,
        artifacts.epochs,
        artifacts.search,
        artifacts.cards,
    )
    for kind in sorted(
        records,
        key=lambda kind: (order.index(inspect.getmodule(kind)), inspect.getsourcelines(kind)[1]),
    ):
        yield f"## {kind.__name__}\n"
        yield summary(kind) + "\n"
        about = attributes(kind)
        rows = [
            (f"`{key}`", about.get(key, ""), kind_of(each.annotation))
            for key, each in kind.model_fields.items()
        ]
        if not rows:
            rows = [("name of a model", "", "float")]
        yield from table(*rows, head=("key", "what", "type"))
        yield ""


# -- errors ---------------------------------------------------------------------------------------


def problems() -> Iterator[str]:
    """Yield the page of the errors."""
    yield "# Errors\n"
    yield "All derive from `onceforall.errors.OnceForAllError`; the command line prints them as one"
    yield "line, `ofa: ...`.\n"
    rows = [
        (f"`{name}`", summary(kind))
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == errors.__name__
    ]
    yield from table(*rows, head=("error", "when"))


# -- names in Python ------------------------------------------------------------------------------


def names() -> Iterator[str]:
    """Yield the page of what `import onceforall as ofa` gives."""
    yield "# Names in Python\n"
    yield "What `import onceforall as ofa` gives. `help(ofa.run)` says all of it: shapes, units,"
    yield "ranges, errors, sources. There are modules too: `ofa.search` (`best`, `nsga2`),"
    yield "`ofa.zoo`, `ofa.errors`; and below, in `onceforall`, `supernets.families` and"
    yield "`supernets.spec` (stage tables), `training.plan` (plans), `predictors.accuracy`"
    yield "(`AccuracyPredictor`), `measure.subnet` (`evaluate_arch`), `job.start` (`open_run`)."
    for name in onceforall.__all__:
        thing = getattr(onceforall, name)
        if name.startswith("_"):
            continue
        yield f"\n## ofa.{name}\n"
        signature = "" if thing is None else str(inspect.signature(thing))
        yield f"    ofa.{name}{plain(signature)}\n"
        yield summary(thing)


def plain(signature: str) -> str:
    """Return a signature without modules, quotes of types and the None of a constructor."""
    short = re.sub(r"<function .*? at 0x\w+>", "...", signature)
    short = re.sub(r"(?:\w+\.)+(?=[A-Z])", "", short)
    short = re.sub(r"(: |-> )'([^']*)'", r"\1\2", short)
    return short.removesuffix(" -> None")


PAGES = {"cli": verbs, "settings": settings, "files": files, "api": names, "errors": problems}


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / f"{name}.md", MADE + "\n".join(page()).rstrip() + "\n"
        if not check:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run  python docs/reference.py")


if __name__ == "__main__":
    main()
