"""A run that grows: settings of later steps change, what they decided is done again, no more.

What a command does not say stays as the run has it. What says how the supernet is trained cannot
change, but training can go on (``train.more_epochs``). Nothing is deleted: results that no longer
hold are moved to ``RUN/earlier/01``, ``02``, ...
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.artifacts import Request, RunSettings
from onceforall.errors import ConfigError
from onceforall.files import append_jsonl, read_object
from onceforall.job.config import RunConfig, file_settings, flag, resolve
from onceforall.job.folder import RunFolder
from onceforall.job.preflight import check_limits_kept
from onceforall.job.tasks.choice import naming_shipped
from onceforall.job.tasks.latency_models import read_table
from onceforall.measure.latency.targets import make_target
from onceforall.search.limits import check_limits

# Settings that may change, by the first step that they decide; the first that fits counts.
_FIRST = {
    "train.more_epochs": "train",
    "evaluate.": "evaluate",
    "latency.": "latency",
    "search.num_models": "models",
    "search.num_candidates": "confirm",
    "search.finetune_share": "models",
    "search.refine_evaluations": "predictor",
    "search.": "search",
    "grid.finetune_": "finetune",
}
_AFTER = {
    "train": ("evaluate", "predictor", "search", "confirm", "models"),
    "evaluate": ("predictor", "search", "confirm", "models"),
    "predictor": ("search", "confirm", "models"),
    "latency": ("search", "confirm", "models"),
    "search": ("confirm", "models"),
    "confirm": ("models",),
    "models": (),
    "finetune": (),
}
# To confirm candidates is a part of the step that ships models.
_STEPS = ("train", "evaluate", "predictor", "latency", "search", "models")
_WINNER = re.compile(r"net\d+-.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a command changes of a run.

    Attributes:
        settings: What ``run.yaml`` is to hold.
        config: The configuration in it.
        changed: Settings that change, each with its value before and after.
        redone: Steps that are done again, ``confirm`` among them.
    """

    settings: RunSettings
    config: RunConfig
    changed: Mapping[str, tuple[Any, Any]]
    redone: frozenset[str]

    def text(self, earlier: Path | None) -> str:
        """Return in a few lines what changes, what is done again and what is kept."""
        lines = [f"{key}: {before} -> {after}" for key, (before, after) in self.changed.items()]
        anew = [step for step in _STEPS if step in self.redone]
        kept = [step for step in _STEPS if step not in self.redone]
        lines.append(f"done anew: {', '.join(anew) or 'nothing'}; kept: {', '.join(kept)}")
        return "\n".join([*lines, *([f"what was there is in {earlier}"] if earlier else [])])


def growth(folder: RunFolder, saved: RunSettings, request: Request) -> Growth | None:
    """Return what a request changes of the run in ``folder``; None for nothing.

    Raises:
        ConfigError: If it asks for another training, or a setting is wrong.
    """
    _check_same(folder.path, saved.request, request)
    asked = {each.partition("=")[0]: each for each in request.flags}  # what was said last
    news = [each for each in asked.values() if each not in saved.request.flags]
    before = folder.read_config(saved)
    after = resolve(before, flags=[*_news_of_file(saved.request, request), *news])
    changed = _changes(before.model_dump(mode="json"), after.model_dump(mode="json"))
    if not changed:
        return None
    if "search.finetune_share" in changed and folder.supernet.is_file():
        raise ConfigError(
            f"search.finetune_share: the time of {folder.path} is over; "
            f"ofa finetune {folder.path} --all  trains its models on"
        )
    first = {key: _first(folder.path, key, values) for key, values in changed.items()}
    redone = {step for name in first.values() for step in (name, *_AFTER[name])}
    check_limits(after.search.limits)
    make_target(after.latency.target, threads=after.latency.threads)
    table = folder.latency(after)
    is_known = table.is_file() and "latency" not in redone
    with naming_shipped(folder, after.search.limits):
        check_limits_kept(
            after,
            folder.read_spec(after, saved.data.classes),
            latency=read_table(table) if is_known else None,
        )
    # A time was for what is done; more than that takes what it takes.
    whole = {"budget_s": None, "estimate": None} if folder.supernet.is_file() else {}
    settings = saved.model_copy(
        update={
            "request": _together(saved.request, request, news),
            "config": after.model_dump(mode="json"),
            **whole,
        }
    )
    return Growth(settings=settings, config=after, changed=changed, redone=frozenset(redone))


def grow(folder: RunFolder, saved: RunSettings, found: Growth) -> str:
    """Move away what no longer holds, write ``run.yaml``; return what to say.

    Interrupted anywhere, the same command goes on.
    """
    stale = _stale(folder, folder.read_config(saved), found)
    number = 1 + sum(1 for _ in (folder.path / "earlier").glob("*"))
    earlier = folder.path / "earlier" / f"{number:02d}"
    for path in stale:
        target = earlier / path.relative_to(folder.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    text = found.text(earlier if stale else None)
    told = [event.get("elapsed_s") for event in folder.read_events()[-1:]]
    append_jsonl(
        folder.events,
        {
            "event": "changed",
            "settings": {key: list(values) for key, values in found.changed.items()},
            "redone": sorted(found.redone),
            "time": round(time.time(), 3),
            "elapsed_s": told[0] if told else 0.0,
        },
    )
    found.settings.write(folder.settings)
    return text


def more_epochs(folder: RunFolder, epochs: float) -> Request:
    """Return the request to train a run for some more epochs; of one that still does so, its own.

    Raises:
        ConfigError: If the folder is no run, or its training is not done yet.
    """
    saved = folder.read_settings()
    done = list(folder.read_config(saved).train.more_epochs)
    if not folder.supernet.is_file():
        raise ConfigError(f"{folder.path} is not trained yet: the command that began it goes on")
    if continued(folder) != done:
        if done[-1] == epochs:
            return saved.request
        raise ConfigError(f"{folder.path} still trains for {done[-1]:g} more epochs: finish them")
    flags = (*saved.request.flags, flag("train.more_epochs", [*done, epochs]))
    return saved.request.model_copy(update={"flags": flags})


def continued(folder: RunFolder) -> list[float] | None:
    """Return for how many epochs the supernet was trained on, each time; None without one."""
    path = folder.supernet.with_suffix(".json")
    if not (folder.supernet.is_file() and path.is_file()):
        return None
    return [float(epochs) for epochs in read_object(path).get("more_epochs", [])]


def _check_same(path: Path, before: Request, asked: Request) -> None:
    """Raise ConfigError if what is said of training, data and time is not what the run was told."""
    usual = Request(source=asked.source)
    known = before.with_usual()
    for name in ("source", "root", "on_bad_image", "budget_s", "effort", "seed", "recipe"):
        said = getattr(asked, name)
        if said != getattr(known, name) and (name == "source" or said != getattr(usual, name)):
            raise ConfigError(
                f"{path} was started with {name} {getattr(known, name)!r}, not {said!r}; use "
                "another --out, or the same command to go on"
            )


def _news_of_file(before: Request, asked: Request) -> list[str]:
    """Return what a configuration file says that the one before did not, as flags."""
    if asked.config_text is None or asked.config_text == before.config_text:
        return []
    old = _leaves(file_settings(before.config_text or ""))
    new = _leaves(file_settings(asked.config_text))
    return [flag(key, value) for key, value in new.items() if key not in old or old[key] != value]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        found |= inner or {f"{prefix}{key}": value}
    return found


def _first(path: Path, key: str, values: tuple[Any, Any]) -> str:
    """Return the first step that a setting decides.

    Raises:
        ConfigError: If that is training.
    """
    for prefix, step in _FIRST.items():
        if key.startswith(prefix):
            return step
    before, after = values
    is_longer = key == "train.epochs" and None not in values and after > before
    longer = f", or  ofa train {shlex.quote(str(path))} --more-epochs N" if is_longer else ""
    raise ConfigError(
        f"{path} was started with {key} {before!r}, not {after!r}: that would train anew; "
        f"use another --out{longer}"
    )


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Return values that differ by their dotted keys; limits as a whole."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in after:
        old, new = before.get(key), after[key]
        if isinstance(new, dict) and isinstance(old, dict) and key != "limits":
            found |= _changes(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = (old, new)
    return found


def _together(before: Request, asked: Request, news: Sequence[str]) -> Request:
    """Return one request for both: of each setting, the flag that was given last."""
    keys = [each.partition("=")[0] for each in news]
    kept = [
        each
        for each in before.flags
        # A setting itself, or a part of it: ``search.limits.macs``.
        if not any(f"{each.partition('=')[0]}.".startswith(f"{key}.") for key in keys)
    ]
    return before.model_copy(
        update={
            "flags": (*kept, *news),
            "config_text": asked.config_text or before.config_text,
        }
    )


def _stale(folder: RunFolder, before: RunConfig, found: Growth) -> list[Path]:
    """Return the files and folders that no longer hold."""
    stale: list[Path] = []
    if "train" in found.redone:
        stale += folder.path.glob("evaluations*.jsonl")
        stale.append(folder.checkpoints / "winners")
    if "predictor" in found.redone:
        stale += [folder.predictor, folder.predictor.with_suffix(".json")]
    if "latency" in found.redone:
        stale += {folder.latency(before)} & {folder.latency(found.config)}
    if "search" in found.redone:
        stale += [folder.front, folder.search / "journal.jsonl"]
    if "confirm" in found.redone:
        stale.append(folder.confirmed)
    if "models" in found.redone:
        stale += [folder.rejected, folder.failed, *_models(folder, found.redone)]
    if "finetune" in found.redone:
        stale += _tuned(folder, before.finetune_epochs)
    return [path for path in dict.fromkeys(stale) if path.exists()]


def _tuned(folder: RunFolder, epochs: int) -> list[Path]:
    """Return the models that the run fine-tuned; those of other lengths are the user's own."""
    cards = [card for card in folder.read_cards() if card.finetuned_from is not None]
    return [folder.card(card.name).parent for card in cards if card.finetune_epochs == epochs]


def _models(folder: RunFolder, redone: frozenset[str]) -> list[Path]:
    """Return the models that a search chose, and what was made of them; of other weights, all."""
    every = [path.parent for path in sorted(folder.models.glob("*/card.json"))]
    return [path for path in every if "train" in redone or _WINNER.fullmatch(path.name)]
