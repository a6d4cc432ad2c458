"""The steps of a run after planning, each done once and found again."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onceforall.arch import Arch
from onceforall.devices import check_device_limits, cost_of, device_costs
from onceforall.errors import CheckpointError, ConfigError, TrainingError
from onceforall.files import file_digest, read_json, write_json
from onceforall.local_ranks import local_ranks
from onceforall.measure.cost_tables import CostTable, compile_costs
from onceforall.measure.latency_model import LatencyModel, build_latency_model
from onceforall.measure.latency_targets import make_target
from onceforall.model_table import read_cards, result_lines
from onceforall.planning import usable_cores
from onceforall.predicting import (
    evaluate_step,
    predict_top1,
    predictor_step,
    refine_step,
    refined_archs,
)
from onceforall.report import write_report
from onceforall.run import (
    Request,
    Run,
    Tell,
    plan_run,
    read_settings,
)
from onceforall.search import Problem, nsga2
from onceforall.search.problem import cautious_error
from onceforall.shared_steps import SHARED_STEPS
from onceforall.shipping import models_step, read_failed
from onceforall.status import minutes
from onceforall.train.ranks import Ranks, wait_for_all
from onceforall.training import train_step

STEPS = ("plan", "train", "evaluate", "predictor", "latency", "search", "models", "report")


# -- latency and search ---------------------------------------------------------------------------


def latency_step(run: Run) -> None:
    """Measure this machine: blocks and whole subnets, a model that predicts the rest."""
    path = run.folder.latency(run.config)
    if path.is_file():
        return
    latency = run.config.latency
    model = build_latency_model(
        run.spec,
        target=make_target(latency.target, threads=latency.threads),
        budget_s=latency.budget_s,
        seed=run.config.seed,
        journal=path.with_suffix(".jsonl"),
        progress=lambda done, total: run.progress("latency", done, total),
    )
    write_json(path, model.to_json())


def cost_table(run: Run, devices: Mapping[str, Path] | None = None) -> CostTable:
    """Return exact costs and predicted latency of the run's space, and of further devices."""
    path = run.folder.latency(run.config)
    if not path.is_file():
        raise CheckpointError(f"{run.folder.path} has no latency model: run  ofa run  first")
    model = LatencyModel.from_json(read_json(path))
    further = device_costs(devices or {})
    return compile_costs(run.spec, layer_costs={"latency_ms": model.layer_ms, **further})


def problem_of(
    run: Run,
    limits: Mapping[str, float],
    *,
    caution: float = 0.0,
    devices: Mapping[str, Path] | None = None,
) -> Problem:
    """Return the search problem: predicted error and latency, under limits.

    Args:
        run: A run whose latency model and predictor are there.
        limits: Upper bounds by name.
        caution: Standard deviations taken off the predicted top-1.
        devices: Latency models of further devices by name: the costs ``latency_ms@NAME``.
    """
    costs = cost_table(run, devices)
    latency = {cost_of(name): path for name, path in (devices or {}).items()}
    files = {
        "predictor": run.folder.predictor,
        "latency_ms": run.folder.latency(run.config),
        **latency,
    }
    return Problem(
        encoding=run.encoding,
        objectives={
            "error": cautious_error(predict_top1(run), num_stds=caution),
            "latency_ms": costs.cost("latency_ms"),
        },
        costs={name: costs.cost(name) for name in costs.names},
        limits=limits,
        sources={"caution": f"{caution:g}"} | {name: file_digest(p) for name, p in files.items()},
    )


def search_step(run: Run) -> None:
    """Search the Pareto front of predicted accuracy and latency; refine it first if asked for."""
    path = run.folder.search / "front.json"
    if path.is_file():
        return
    search = run.config.search
    if search.refine_evaluations:
        problem = problem_of(run, search.limits)
        latency = {"latency_ms": problem.objectives["latency_ms"]}
        refine_step(run, replace(problem, objectives=latency))
    journal = run.folder.search / "journal.jsonl"
    front = _search(run, search.limits, caution=search.caution, journal=journal)
    write_json(path, front)


def _search(
    run: Run,
    limits: Mapping[str, float],
    *,
    caution: float,
    journal: Path | None,
    devices: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Return the front under limits, as JSON."""
    search, known = run.config.search, refined_archs(run)
    front = nsga2(
        problem_of(run, limits, caution=caution, devices=devices),
        seed=run.config.seed if seed is None else seed,
        population_size=search.population_size,
        generations=search.generations,
        start=None if known is None else known.rows,
        journal=journal,
        progress=lambda done, total: run.progress("search", done, total),
    )
    _, std = predict_top1(run)(run.encoding.from_archs([point.arch for point in front.points]))
    return {
        "objectives": list(front.points[0].objectives),
        "limits": dict(limits),
        "caution": caution,
        "points": [
            {
                "arch": point.arch.to_json(),
                "predicted_top1": 1 - point.objectives["error"] + caution * float(spread),
                "cautious_top1": 1 - point.objectives["error"],
                "predicted_top1_std": round(float(spread), 6),
                **point.costs,
            }
            for point, spread in zip(front.points, std, strict=True)
        ],
        "hypervolume": list(front.hypervolume),
        "reference": list(front.reference),
        "evaluations": front.evaluations,
    }


def best_under_limits(
    run: Run,
    limits: Mapping[str, Sequence[float]],
    *,
    caution: float | None = None,
    devices: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Return the best predicted arch of a trained run for each limit.

    Args:
        run: A run whose latency model and predictor are there.
        limits: Bounds by name; one name may have several bounds, which gives one result each.
        caution: Standard deviations taken off the predicted top-1 before archs are compared; by
            default as the run is configured.
        devices: Latency models of further devices by name; each gives the cost
            ``latency_ms@NAME``, which may be limited too.
        seed: Seed of the search; by default that of the run.

    Raises:
        ConfigError: If several names have several bounds, or the caution is below 0.
        InfeasibleError: If a limit cannot be kept.
    """
    caution = run.config.search.caution if caution is None else caution
    if not 0 <= caution < math.inf:
        raise ConfigError(f"caution {caution:g} is not a number of at least 0")
    varied = [name for name, bounds in limits.items() if len(bounds) > 1]
    if len(varied) > 1:
        raise ConfigError(f"only one limit may have several bounds, not {' and '.join(varied)}")
    check_device_limits({name: min(b) for name, b in limits.items()}, list(devices or {}))
    count = len(limits[varied[0]]) if varied else 1
    found = []
    for i in range(count):
        chosen = {name: b[i] if len(b) > 1 else b[0] for name, b in limits.items()}
        started = time.monotonic()
        front = _search(run, chosen, caution=caution, journal=None, devices=devices, seed=seed)
        best = max(front["points"], key=lambda p: (p["cautious_top1"], -p["latency_ms"]))
        seconds = round(time.monotonic() - started, 3)
        extra = {"limits": chosen, "evaluations": front["evaluations"], "seconds": seconds}
        found.append({**best, **extra, "name": str(Arch.from_json(best["arch"]))})
    return found


# -- all of it ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a run came to.

    Attributes:
        run: The run.
        cards: Cards of the finished models, smallest first.
        failed: ``{"name", "problem"}`` of each model that is not shipped, as it is not proven.
        report: The report, if it is written.
    """

    run: Run
    cards: list[dict[str, Any]]
    failed: list[dict[str, str]]
    report: Path | None

    @property
    def closing_lines(self) -> list[str]:
        """Return the table of models and the next commands to type."""
        out = self.run.folder.path
        failed = [f"not shipped: {each['name']}: {each['problem']}" for each in self.failed]
        if not self.cards and failed:
            return [*failed, f"report:  {self.report}"]
        if not self.cards:
            return [
                f"trained: {self.run.folder.supernet}",
                "next:    the same with  ofa run  goes on from it",
            ]
        lines = ["", *result_lines(out, self.cards), "", *failed]
        middle = sorted(card["latency_ms"] for card in self.cards)[len(self.cards) // 2]
        lines.append(f"report:  {self.report}")
        lines.append(f"next:    ofa verify {out}")
        lines.append(f"         ofa search {out} --limit latency_ms={middle:.2g}")
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
    )
    if ranks.is_main:
        wait_for_all(ranks)
    steps = STEPS[: STEPS.index(until) + 1]
    _announce(run, steps, "plan", plan_text(run))
    shared = [step for step in steps if step in SHARED_STEPS]
    with _all_ranks(run, shared) as together:
        for step in shared:
            _do(together, steps, step)
    if ranks.is_main:
        for step in steps[1:]:
            if step in _WORK and step not in shared:
                _do(run, steps, step)
    report = None
    if until == "report" and ranks.is_main:
        _announce(run, steps, "report", "one offline HTML file")
        report = write_report(run.folder.path)
    cards = read_cards(run.folder.models)
    failed = read_failed(run) if "models" in steps else []
    return Done(run=run, cards=cards, failed=failed, report=report)


_WORK: dict[str, tuple[Callable[[Run], None], Callable[[Run], str]]] = {
    "train": (train_step, lambda run: f"{run.config.train.plan}, {_epochs(run)}"),
    "evaluate": (evaluate_step, lambda run: f"{run.config.evaluate.num_archs} sampled subnets"),
    "predictor": (predictor_step, lambda run: "accuracy from the architecture"),
    "latency": (latency_step, lambda run: f"{run.config.latency.target} on this machine"),
    "search": (search_step, lambda run: "Pareto front of accuracy and latency"),
    "models": (models_step, lambda run: "specialise, measure, export, verify"),
}


def _epochs(run: Run) -> str:
    """Say how long training is; where there is a time to keep, the epochs follow it."""
    count, epochs = run.config.train.ranks, run.config.plan(run.spec).epochs
    about = "" if math.isinf(run.clock.budget_s) else "about "
    return f"{about}{epochs} epochs" + (f" in {count} processes" if count > 1 else "")


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
    is_done = run.folder.predictor.is_file() or not steps
    if run.ranks.world_size > 1 or run.config.train.ranks == 1:
        yield run
        return
    if is_done:
        yield run
        torch.set_num_threads(usable_cores())
        return
    with local_ranks(
        run.folder.path, run.config.train.ranks, "onceforall.shared_steps", steps, run.clock
    ) as ranks:
        yield replace(run, ranks=ranks)
    # What is left is one process's work, on every core.
    torch.set_num_threads(usable_cores())


def plan_text(run: Run) -> str:
    """Return one line that says what will be done and how long it may take."""
    settings = read_settings(run.folder)
    config, bundle = run.config, run.bundle
    estimate = settings["estimate_s"]
    sides = ", ".join(map(str, config.supernet.resolutions))
    left_out = f", {len(bundle.skipped)} unreadable left out" if bundle.skipped else ""
    others = estimate["rest"] + estimate.get("evaluate", 0.0)
    budget_s = settings.get("budget_s")
    whole = "" if budget_s is None else f", {minutes(budget_s)} in all"
    return (
        f"{bundle.name}, {bundle.num_classes} classes, {bundle.num_train} + {bundle.num_test} "
        f"images{left_out}; {run.spec.space.size:.2g} subnets at {sides} px\n"
        f"      network: {settings.get('chosen', config.supernet.family)}\n"
        f"      time: about {minutes(estimate['train'])} of training, {minutes(others)} for the "
        f"rest{whole}"
    )


def summary(done: Done) -> dict[str, Any]:
    """Return what a run came to, for programs."""
    return {
        "run": str(done.run.folder.path),
        "report": None if done.report is None else str(done.report),
        "models": done.cards,
        "failed": done.failed,
    }


def _announce(run: Run, steps: Sequence[str], step: str, text: str) -> None:
    if run.ranks.is_main:
        number, of = steps.index(step) + 1, len(steps)
        event = {"event": "step_started", "number": number, "of": of, "step": step, "text": text}
        run.tell(event)
