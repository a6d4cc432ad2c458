"""The search step of a run: the predicted front of accuracy and latency, and bests under limits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onceforall.arch import Arch
from onceforall.artifacts import Answer, FrontFile, FrontPoint
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.files import file_digest
from onceforall.job.context import Run
from onceforall.job.steps.latency import cost_table
from onceforall.job.steps.predict import predict_top1, refine_step, refined_archs
from onceforall.job.tasks.choice import naming_shipped
from onceforall.job.tasks.latency_models import check_device_limits, cost_of
from onceforall.pareto import pareto_front
from onceforall.search import Problem, nsga2
from onceforall.search.limits import each_limit
from onceforall.search.problem import cautious_error


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
    if run.folder.front.is_file():
        return
    try:
        front = _refined_front(run)
    except InfeasibleError as error:
        raise InfeasibleError(
            f"{error}; what is done is kept: the same command with another bound of that --limit "
            "goes on, with  --set 'search.limits={}'  without any"
        ) from error
    front.write(run.folder.front)


def _refined_front(run: Run) -> FrontFile:
    """Return the front under the run's limits; the predictor is refined first if asked for."""
    search = run.config.search
    if search.refine_evaluations:
        problem = problem_of(run, search.limits)
        latency = {"latency_ms": problem.objectives["latency_ms"]}
        refine_step(run, replace(problem, objectives=latency))
    journal = run.folder.search / "journal.jsonl"
    return _search(run, search.limits, caution=search.caution, journal=journal)


def _search(
    run: Run,
    limits: Mapping[str, float],
    *,
    caution: float,
    journal: Path | None,
    devices: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> FrontFile:
    """Return the front under limits."""
    search, known = run.config.search, refined_archs(run)
    problem = problem_of(run, limits, caution=caution, devices=devices)
    front = nsga2(
        problem,
        seed=run.config.seed if seed is None else seed,
        population_size=search.population_size,
        generations=search.generations,
        start=None if known is None else known.rows,
        journal=journal,
        progress=lambda done, total: run.progress("search", done, total),
    )
    points = _described(run, problem, [point.arch for point in front.points], caution=caution)
    return FrontFile(
        objectives=tuple(front.points[0].objectives),
        limits=dict(limits),
        caution=caution,
        points=points,
        hypervolume=front.hypervolume,
        reference=front.reference,
        evaluations=front.evaluations,
    )


def measured_above(run: Run, front: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Return the subnets that were measured better than any of a predicted front may well be.

    A predictor smooths: the full network, which every step trained, may be better than it thinks.
    And a front is chosen because it is predicted to be good, so it is worse than predicted. A
    measured subnet is one of them if nothing that is predicted at most as slow reaches it, less one
    standard deviation, and nothing that was measured beats it; limits hold.

    Args:
        run: A run whose subnets are measured and whose predictor is there.
        front: The predicted front.

    Returns:
        The one that is furthest above the front first.
    """
    caution = run.config.search.caution
    problem = problem_of(run, run.config.search.limits, caution=caution)
    there = {point.arch for point in front}
    measured = run.folder.read_evaluations()
    archs = [each.arch for each in measured]
    keeps = problem.violation(run.encoding.from_archs(archs)) == 0 if archs else []
    measured = [each for each, is_kept in zip(measured, keeps, strict=True) if is_kept]
    if not measured:
        return []
    points = _described(run, problem, [each.arch for each in measured], caution=caution)
    costs = [(point.latency_ms, -each.top1) for point, each in zip(points, measured, strict=True)]
    is_best = pareto_front(costs)

    def gain(index: int) -> float:
        own_ms = points[index].latency_ms
        known = [p.predicted_top1 - p.predicted_top1_std for p in front if p.latency_ms <= own_ms]
        return measured[index].top1 - max(known, default=-math.inf)

    chosen = [i for i in range(len(points)) if is_best[i] and gain(i) > 0]
    chosen = [i for i in chosen if points[i].arch not in there]
    return [points[i] for i in sorted(chosen, key=lambda i: (-gain(i), i))]


def _described(
    run: Run, problem: Problem, archs: Sequence[Arch], *, caution: float
) -> tuple[FrontPoint, ...]:
    """Return subnets with what is predicted of them."""
    rows = run.encoding.from_archs(archs)
    mean, std = predict_top1(run)(rows)
    costs = {name: cost(rows).tolist() for name, cost in problem.costs.items()}
    return tuple(
        FrontPoint(
            arch=arch,
            predicted_top1=float(mean[i]),
            cautious_top1=float(mean[i] - caution * std[i]),
            predicted_top1_std=round(float(std[i]), 6),
            **{name: values[i] for name, values in costs.items()},
        )
        for i, arch in enumerate(archs)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFront:
    """What a search found under one set of bounds.

    Attributes:
        limits: The bounds, by name.
        front: The predicted front.
        seconds: Time of the search.
    """

    limits: Mapping[str, float]
    front: FrontFile
    seconds: float

    @property
    def answer(self) -> Answer:
        """Return the best predicted arch, the fastest of equals."""
        best = max(self.front.points, key=lambda p: (p.cautious_top1, -p.latency_ms))
        return Answer(
            **dict(best),
            limits=dict(self.limits),
            evaluations=self.front.evaluations,
            seconds=round(self.seconds, 3),
            name=str(best.arch),
        )


def fronts_under_limits(
    run: Run,
    limits: Mapping[str, Sequence[float]],
    *,
    caution: float | None = None,
    devices: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> Iterator[FoundFront]:
    """Yield what a search of a trained run finds, for each limit.

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
    wanted = each_limit(limits)
    for chosen in wanted:
        check_device_limits(chosen, list(devices or {}))
    for chosen in wanted:
        started = time.monotonic()
        with naming_shipped(run.folder, chosen):
            front = _search(run, chosen, caution=caution, journal=None, devices=devices, seed=seed)
        yield FoundFront(limits=chosen, front=front, seconds=time.monotonic() - started)


def best_under_limits(
    run: Run,
    limits: Mapping[str, Sequence[float]],
    *,
    caution: float | None = None,
    devices: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> list[Answer]:
    """Return the best predicted arch of a trained run for each limit.

    Arguments and errors are those of :func:`fronts_under_limits`.
    """
    found = fronts_under_limits(run, limits, caution=caution, devices=devices, seed=seed)
    return [each.answer for each in found]
