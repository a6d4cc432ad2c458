"""The search step of a run: the predicted front of accuracy and latency, and bests under limits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onceforall.artifacts import Answer, FrontFile, FrontPoint
from onceforall.errors import ConfigError
from onceforall.files import file_digest
from onceforall.job.context import Run
from onceforall.job.devices import check_device_limits, cost_of
from onceforall.job.latency import cost_table
from onceforall.job.predict import predict_top1, refine_step, refined_archs
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
    search = run.config.search
    if search.refine_evaluations:
        problem = problem_of(run, search.limits)
        latency = {"latency_ms": problem.objectives["latency_ms"]}
        refine_step(run, replace(problem, objectives=latency))
    journal = run.folder.search / "journal.jsonl"
    front = _search(run, search.limits, caution=search.caution, journal=journal)
    front.write(run.folder.front)


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
    return FrontFile(
        objectives=tuple(front.points[0].objectives),
        limits=dict(limits),
        caution=caution,
        points=tuple(
            FrontPoint(
                arch=point.arch,
                predicted_top1=1 - point.objectives["error"] + caution * float(spread),
                cautious_top1=1 - point.objectives["error"],
                predicted_top1_std=round(float(spread), 6),
                **point.costs,
            )
            for point, spread in zip(front.points, std, strict=True)
        ),
        hypervolume=front.hypervolume,
        reference=front.reference,
        evaluations=front.evaluations,
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
