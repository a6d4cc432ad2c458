"""The whole job as resumable steps: from images to verified models and a report.

    plan -> train -> evaluate -> predictor -> latency -> search -> models (-> finetune) -> report

Each step asks first whether its output is there and complete; the same command after a crash, a
kill or a full disk goes on and ends with the same files as an undisturbed run (on a GPU, as two
undisturbed runs end with the same: kernels there do not repeat to the bit).
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onceforall.artifacts import Card, Failed, Request
from onceforall.errors import ConfigError, TrainingError
from onceforall.job.changed_settings import continued
from onceforall.job.closing_table import result_lines
from onceforall.job.config import RunConfig
from onceforall.job.context import Run, Tell
from onceforall.job.local_ranks import run_on_all
from onceforall.job.lock import sole_writer
from onceforall.job.machine import usable_cores
from onceforall.job.shared_steps import SHARED_STEPS
from onceforall.job.start import plan_run
from onceforall.job.steps.evaluate import evaluate_step
from onceforall.job.steps.finetune import Tuning, finetune_all, usual_tuning
from onceforall.job.steps.latency import latency_step
from onceforall.job.steps.predict import predictor_step
from onceforall.job.steps.search import search_step
from onceforall.job.steps.ship import models_step, read_failed
from onceforall.job.steps.train import train_step
from onceforall.job.tasks.choice import rounded_up
from onceforall.job.tuned_table import tuned_lines, write_tuned
from onceforall.measure.comparison import minutes
from onceforall.report import write_report
from onceforall.terminal import printable
from onceforall.training.ranks import Ranks, stop_process_group, wait_for_all

# The steps between plan and report: what does the work, and what is said of it before.
_WORK: dict[str, tuple[Callable[[Run], None], Callable[[Run], str]]] = {
    "train": (train_step, lambda run: _training_text(run)),
    "evaluate": (evaluate_step, lambda run: f"{run.config.evaluate.num_archs} sampled subnets"),
    "predictor": (predictor_step, lambda run: "accuracy from the architecture"),
    "latency": (latency_step, lambda run: f"{run.config.latency.target} on this machine"),
    "search": (search_step, lambda run: "Pareto front of accuracy and latency"),
    "models": (models_step, lambda run: "specialise, measure, export, verify"),
    "finetune": (
        lambda run: finetune_step(run),
        lambda run: f"{tuning_of(run).epochs} epochs each",
    ),
}
STEPS = ("plan", *_WORK, "report")
# What finds the models to ship: a grid needs no finding.
_FINDING = ("evaluate", "predictor", "latency", "search")


def steps_of(config: RunConfig) -> tuple[str, ...]:
    """Return the steps of a run."""
    left_out = _FINDING if config.grid.ship else ()
    left_out = left_out if config.finetune_epochs else (*left_out, "finetune")
    return tuple(step for step in STEPS if step not in left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a run came to.

    Attributes:
        run: The run.
        cards: Cards of the finished models, smallest first.
        failed: Models that are not shipped, as they are not proven.
        report: The report, if it is written.
    """

    run: Run
    cards: list[Card]
    failed: tuple[Failed, ...]
    report: Path | None

    @property
    def closing_lines(self) -> list[str]:
        """Return the table of models and the next commands to type."""
        out = shlex.quote(str(self.run.folder.path))
        failed = [f"not shipped: {each.name}: {each.problem}" for each in self.failed]
        if not self.cards and failed:
            return [*failed, f"report:  {self.report}"]
        if not self.cards:
            source = shlex.quote(self.run.folder.read_settings().request.source)
            return [
                f"trained: {self.run.folder.supernet}",
                f"next:    ofa run {source} --out {out}",
            ]
        lines = ["", *result_lines(self.run.folder, self.cards), "", *failed]
        lines += [*tuned_lines(self.run.folder), ""] if self.run.folder.tuned.is_file() else []
        middle = sorted(card.latency_ms for card in self.cards)[len(self.cards) // 2]
        lines.append(f"report:  {self.report}")
        lines.append(f"next:    ofa verify {out}")
        lines.append(f"         ofa choose {out} --limit latency_ms={rounded_up(middle):g}")
        if self.run.folder.front.is_file():
            # What is predicted may lie above what was measured: a limit that a search keeps, too.
            points = self.run.folder.read_front().points
            bound = rounded_up(max(middle, min(point.latency_ms for point in points)))
            lines.append(f"         ofa search {out} --limit latency_ms={bound:g}")
        return lines


def run_all(
    request: Request,
    out: Path,
    *,
    tell: Tell,
    should_stop: Callable[[], bool] = lambda: False,
    until: str = "report",
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    started: float | None = None,
) -> Done:
    """Do every step that is not done yet.

    Args:
        request: What is asked for.
        out: Folder of the run.
        tell: Takes every event.
        should_stop: Asked often; True ends the run at the next safe point.
        until: Last step to do.
        ranks: This process among all; training and evaluation use several.
        device: Where to train; the GPU if there is one.
        started: Moment (of ``time.monotonic``) that the time of the run counts from.

    Raises:
        Interrupted: If ``should_stop`` said so; the same call goes on.
        OnceForAllError: If something is wrong that the user can fix.
    """
    if until not in STEPS:
        raise ConfigError(f"step {until!r} is not one of {', '.join(STEPS)}")
    ranks = ranks or Ranks()
    with sole_writer(out) if ranks.is_main else contextlib.nullcontext():
        return _run_all(
            request,
            out,
            STEPS[: STEPS.index(until) + 1],
            tell=tell,
            should_stop=should_stop,
            ranks=ranks,
            device=device,
            started=started,
        )


def _run_all(
    request: Request,
    out: Path,
    steps: Sequence[str],
    *,
    tell: Tell,
    should_stop: Callable[[], bool],
    ranks: Ranks,
    device: torch.device | None,
    started: float | None,
) -> Done:
    if not ranks.is_main:
        wait_for_all(ranks)  # rank 0 plans (and downloads) first
    run = plan_run(
        request,
        out,
        tell=tell,
        should_stop=should_stop,
        ranks=ranks,
        device=device,
        started=started,
        steps=steps,
    )
    if ranks.is_main:
        wait_for_all(ranks)
    last, steps = steps[-1], steps_of(run.config)
    if last not in steps:
        raise ConfigError(f"step {last!r} is not one of this run's: {', '.join(steps)}")
    steps = steps[: steps.index(last) + 1]
    _announce(run, steps, "plan", plan_text(run))
    shared = [step for step in steps if step in SHARED_STEPS]
    with _all_ranks(run, shared) as together:
        for step in shared:
            _do(together, steps, step)
    alone = [step for step in steps[1:] if step in _WORK and step not in shared]
    if alone and ranks.world_size > 1:
        # The others are done. What follows is one process's work, on every core, and trains alone.
        wait_for_all(ranks)
        stop_process_group(ranks)
        run = replace(run, ranks=Ranks())
        torch.set_num_threads(run.config.train.threads or usable_cores())
    if ranks.is_main:
        for step in alone:
            _do(run, steps, step)
    report = None
    if "report" in steps and ranks.is_main:
        _announce(run, steps, "report", "one offline HTML file")
        report = write_report(run.folder.path)
    cards = run.folder.read_cards()
    failed = read_failed(run) if "models" in steps else ()
    return Done(run=run, cards=cards, failed=failed, report=report)


def tuning_of(run: Run) -> Tuning:
    """Return how a run fine-tunes its models: as its training, in proportion as long."""
    config = run.config
    return usual_tuning(run, epochs=config.finetune_epochs, distill=config.train.is_taught)


def finetune_step(run: Run) -> None:
    """Fine-tune every model that was shipped, and write the table."""
    finetune_all(run, tuning_of(run))
    write_tuned(run)


def _count_text(count: float) -> str:
    """Return a count as it is, or, beyond what a person reads, its magnitude."""
    return f"{count:,.0f}" if count < 1e6 else f"{count:.2g}"


def _training_text(run: Run) -> str:
    """Say what is trained, and for how long; where there is a time to keep, epochs follow it."""
    settings = run.config.train
    if continued(run.folder) is not None and settings.more_epochs:
        return f"{sum(settings.more_epochs):g} more epochs after the first"
    if settings.epochs == 0:
        return f"loaded, {printable(settings.init)} as it is"
    count, epochs = settings.ranks, run.config.plan(run.spec).epochs
    about = "" if math.isinf(run.clock.budget_s) else "about "
    processes = f" in {count} processes" if count > 1 else ""
    taught = settings.plan == "original" and not settings.phases and settings.is_taught
    by = " taught by the network as it was," if taught else ""
    return f"{settings.plan},{by} {about}{epochs} epochs{processes}"


def _do(run: Run, steps: Sequence[str], step: str) -> None:
    """Announce a step, do it, and write down how long it took."""
    function, text = _WORK[step]
    _announce(run, steps, step, text(run))
    started = time.monotonic()
    try:
        function(run)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU's memory is full in step {step}: --set train.batch_size="
            f"{max(1, run.config.train.batch_size // 2)} or --set train.micro_batches="
            f"{2 * run.config.train.micro_batches} needs about half of it"
        ) from error
    seconds = round(time.monotonic() - started, 3)
    run.emit({"event": "step_done", "step": step, "seconds": seconds})


@contextlib.contextmanager
def _all_ranks(run: Run, steps: Sequence[str]) -> Iterator[Run]:
    """Give the run with all its processes: those of a launcher, or those it starts itself."""
    is_trained = continued(run.folder) == list(run.config.train.more_epochs)
    is_done = (run.folder.predictor.is_file() if "evaluate" in steps else is_trained) or not steps
    if run.ranks.world_size > 1 or run.config.train.ranks == 1:
        yield run
        return
    module = "onceforall.job.shared_steps"
    with contextlib.nullcontext(run) if is_done else run_on_all(run, module, steps) as together:
        yield together
    # What is left is one process's work, on every core.
    torch.set_num_threads(usable_cores())


def plan_text(run: Run) -> str:
    """Return one line that says what will be done and how long it may take."""
    settings = run.folder.read_settings()
    bundle, estimate = run.bundle, settings.estimate
    sides = ", ".join(map(str, run.config.supernet.resolutions))
    left_out = f", {len(bundle.skipped)} unreadable left out" if bundle.skipped else ""
    lines = [
        f"{printable(bundle.name)}, {bundle.num_classes} classes, "
        f"{bundle.num_train} + {bundle.num_test} images{left_out}; "
        f"{_count_text(run.spec.space.size)} subnets at {sides} px",
        f"      network: {settings.chosen or run.config.supernet.family}",
    ]
    if estimate is not None:
        whole = "" if settings.budget_s is None else f", {minutes(settings.budget_s)} in all"
        tuning = f"{minutes(estimate.tune_s)} of fine-tuning, " if estimate.tune_s else ""
        lines.append(
            f"      time: about {minutes(estimate.train_s)} of training, {tuning}"
            f"{minutes(estimate.evaluate_s + estimate.rest_s)} for the rest{whole}"
        )
    return "\n".join(lines)


def summary(done: Done) -> dict[str, Any]:
    """Return what a run came to, for programs."""
    return {
        "run": str(done.run.folder.path),
        "report": None if done.report is None else str(done.report),
        "models": [card.to_json() for card in done.cards],
        "failed": [each.to_json() for each in done.failed],
    }


def _announce(run: Run, steps: Sequence[str], step: str, text: str) -> None:
    if run.ranks.is_main:
        number, of = steps.index(step) + 1, len(steps)
        event = {"event": "step_started", "number": number, "of": of, "step": step, "text": text}
        run.tell(event)
