"""What a command did, as values that are the same whenever it is given again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from onceforall.job.tasks.latency_models import read_table
from tests.cli.command import Answer, ofa
from tests.cli.option_case import Command
from tests.cli.places import FakeCifar, copy_run

# What a clock, or this machine, decides.
_VOLATILE = ("latency", "seconds", "time", "versions", "target", "_ms", "elapsed", "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A command that was given.

    Attributes:
        answer: What it said.
        folder: The folder in which ``{out}`` and the copies are.
        handed: What it handed to the functions that work, in order.
    """

    answer: Answer
    folder: Path
    handed: list[Any]


def observe(command: Command, places: dict[str, str], folder: Path) -> Observed:
    """Give a command in a folder of its own."""
    names = places | {"out": str(folder / "out")}
    for copy, run in (("copy", "run"), ("copy_b", "run_b")):
        if f"{{{copy}}}" in command:
            names[copy] = str(copy_run(places, run, folder / copy))
    handed: list[Any] = []
    with _listening(handed, places):
        answer = ofa(*(word.format_map(names) for word in command))
    return Observed(answer=answer, folder=folder, handed=handed)


@contextlib.contextmanager
def _listening(handed: list[Any], places: dict[str, str]) -> Iterator[None]:
    """Note what functions that work are given, where results of two values may be the same."""
    import onceforall.job.steps.search
    import onceforall.job.tasks.evaluate_any
    import onceforall.job.tasks.published_search

    def measured(spec: Any, **kwargs: Any) -> Any:
        """Hand back a table that was measured before: what is asked for is what counts here."""
        handed.append((spec, {name: kwargs[name] for name in ("target", "budget_s", "seed")}))
        return read_table(Path(places["table"]))

    def noting(function: Callable[..., Any], *names: str) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            handed.append({name: kwargs[name] for name in names})
            return function(*args, **kwargs)

        return note

    def noting_batches(model: Any, batches: Any, **kwargs: Any) -> Any:
        def noted() -> Iterator[Any]:
            for images, labels in batches:
                handed.append((len(labels), len(multiprocessing.active_children())))
                yield images, labels

        return evaluate(model, noted(), **kwargs)

    evaluate = onceforall.job.tasks.evaluate_any.evaluate
    with contextlib.ExitStack() as stack:
        for module, name, arguments in (
            (onceforall.job.steps.search, "nsga2", ("seed",)),
            (onceforall.job.tasks.published_search, "evolve", ("seed", "max_seconds")),
        ):
            function = noting(getattr(module, name), *arguments)
            stack.enter_context(mock.patch.object(module, name, function))
        stack.enter_context(
            mock.patch("onceforall.job.tasks.evaluate_any.evaluate", noting_batches)
        )
        stack.enter_context(
            mock.patch("onceforall.job.tasks.latency_models.build_latency_model", measured)
        )
        stack.enter_context(mock.patch("torchvision.datasets.CIFAR10", FakeCifar))
        yield


def _lasting(value: Any) -> Any:
    """Return a JSON value without what is measured in time, or names a place."""
    if isinstance(value, dict):
        return {
            key: _lasting(part)
            for key, part in value.items()
            if not any(word in key for word in _VOLATILE)
        }
    return [_lasting(part) for part in value] if isinstance(value, list) else value


def _json(seen: Observed) -> Any:
    return json.loads(seen.answer.out)


def _output(seen: Observed) -> Any:
    try:
        return _lasting(_json(seen))
    except ValueError:
        return seen.answer.out


def _is_json(seen: Observed) -> bool:
    with contextlib.suppress(ValueError):
        _json(seen)
        return True
    return False


def _settings(seen: Observed) -> Any:
    (path,) = seen.folder.rglob("run.yaml")
    return yaml.safe_load(path.read_text())


def _digests(seen: Observed, pattern: str) -> list[str]:
    """Return digests of the files that fit, which must be some."""
    paths = sorted(path for path in seen.folder.rglob(pattern) if path.is_file())
    assert paths, pattern
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _tensors(seen: Observed, pattern: str) -> list[float]:
    import safetensors.torch

    (path,) = seen.folder.rglob(pattern)
    return [float(torch.sum(t.double())) for t in safetensors.torch.load_file(path).values()]


# What may differ between two commands.
SEEN: dict[str, Callable[[Observed], Any]] = {
    "output": _output,
    "is_json": _is_json,
    "status": lambda seen: seen.answer.status,
    "keys": lambda seen: sorted(_json(seen)),
    "target": lambda seen: [each["target"] for each in _json(seen)],
    "rounds": lambda seen: [len(each["rounds_ms"]) for each in _json(seen)],
    "limits": lambda seen: _json(seen)["limits"],
    "handed": lambda seen: seen.handed,
    "files": lambda seen: sorted(
        str(path.relative_to(seen.folder))
        for path in seen.folder.rglob("*")
        if "checkpoints" not in path.parent.parts
    ),
    "written": lambda seen: _digests(seen, "out/*"),
    # It names files by the path of the run, and every command has a folder of its own.
    "report": lambda seen: [
        path.read_text().replace(str(seen.folder), "") for path in seen.folder.rglob("report.html")
    ],
    "config": lambda seen: _settings(seen)["config"],
    "data": lambda seen: _settings(seen)["data"],
    "budget": lambda seen: _settings(seen)["budget_s"],
    "weights": lambda seen: _tensors(seen, "supernet.safetensors"),
    "shipped": lambda seen: _tensors(seen, "models/mine/model.safetensors"),
    "tuned": lambda seen: _tensors(seen, "models/*-finetune*/model.safetensors"),
    "alone": lambda seen: [(each["name"], each["budget_s"]) for each in _json(seen)],
}
