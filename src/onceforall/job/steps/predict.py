"""The predictor step of a run: accuracy from the architecture, and more evaluations for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.artifacts import Evaluation
from onceforall.encoding import Rows
from onceforall.errors import CheckpointError
from onceforall.files import damaged, read_object
from onceforall.job.context import Run
from onceforall.job.interpolation import trained_subnets
from onceforall.job.steps.evaluate import evaluation, evaluations_file
from onceforall.measure.cost_tables import compile_costs
from onceforall.predictors.accuracy import AccuracyPredictor, PredictorReport, fit_and_report
from onceforall.predictors.sampling import LearningCurve, learning_curve, stratified_rows
from onceforall.search import Problem
from onceforall.search.refine import Measured, Predict, Refinement, refine

Floats = NDArray[np.floating[Any]]

# Largest searches between two batches of a refinement; the last search is the run's own.
_REFINE_POPULATION = 64
_REFINE_GENERATIONS = 30


def predictor_step(run: Run) -> None:
    """Fit the accuracy predictor to what was measured."""
    path = run.folder.predictor
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        fit_predictor(run)


def fit_predictor(run: Run) -> PredictorReport:
    """Fit the accuracy predictor and write it; return its report on archs left out."""
    predictor, report = fit_and_report(*_measured(run), seed=run.config.seed)
    predictor.save(run.folder.predictor, report)
    return report


def predictor_facts(run: Run) -> dict[str, Any]:
    """Return the report of the run's predictor.

    Raises:
        CheckpointError: If there is none yet.
    """
    path = run.folder.predictor.with_suffix(".json")
    if not path.is_file():
        raise CheckpointError(f"{run.folder.path} has no predictor yet: run  ofa predictor train")
    report = read_object(path).get("report")
    if not isinstance(report, dict):
        raise damaged(path, "report is missing")
    return report


def predict_top1(run: Run) -> Predict:
    """Return the function from rows to the mean and standard deviation of predicted top-1.

    Of a run that refines its front, subnets that were measured have their measured top-1.
    """
    predictor, encoding = AccuracyPredictor.load(run.folder.predictor), run.encoding

    def predict(rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
        return predictor.predict(encoding.features(rows))

    known = refined_archs(run)
    return predict if known is None else known.first(predict)


def evaluate_more(run: Run, count: int) -> dict[str, Any]:
    """Evaluate further sampled subnets of a run, up to ``count`` in all or until none helps.

    Returns:
        The number of evaluations, the learning curve (rank correlation on archs left out, from
        half and from all of them), and why it stopped.
    """
    encoding, costs = run.encoding, compile_costs(run.spec)
    session, net_of = run.session(), trained_subnets(run)
    done = {line.arch for line in run.folder.read_evaluations()}
    rng = np.random.default_rng([run.config.seed, len(done)])
    rows = stratified_rows(encoding.sample, costs.macs, count=count, rng=rng)
    left = [arch for arch in encoding.to_archs(rows) if arch not in done]
    stopped = f"{count} evaluations reached"
    for position, arch in enumerate(left[: max(0, count - len(done))]):
        total = len(done) + position
        if position and position % 50 == 0 and not _curve(run).more_help:
            stopped = "more evaluations no longer help"
            break
        run.progress("evaluate", total, count)
        evaluation(session, net_of(arch), arch).append(run.folder.evaluations)
    curve = _curve(run)
    count = len(run.folder.read_evaluations())
    return {"evaluations": count, **asdict(curve), "stopped": stopped}


def _curve(run: Run) -> LearningCurve:
    return learning_curve(*_measured(run), seed=run.config.seed)


def _measured(run: Run) -> tuple[Floats, Floats]:
    """Return features and top-1 of everything evaluated so far."""
    lines = run.folder.read_evaluations()
    if len(lines) < 10:
        raise CheckpointError(f"{run.folder.path} has {len(lines)} evaluations, fewer than 10")
    known = _known(run, lines)
    return run.encoding.features(known.rows), known.top1


# -- refine ---------------------------------------------------------------------------------------


def refined_archs(run: Run) -> Measured | None:
    """Return everything measured, of a run that refines its front; None of others."""
    if not run.config.search.refine_evaluations:
        return None
    return _known(run, run.folder.read_evaluations())


def refine_step(run: Run, template: Problem) -> None:
    """Measure subnets where they may improve the front most, and fit the predictor again.

    They are appended to the run's evaluations, marked; a run that is interrupted asks for the
    same ones again and finds them there.

    Args:
        run: A run whose subnets were evaluated.
        template: Costs to minimise, and limits.
    """
    lines, total = run.folder.read_evaluations(), run.config.search.refine_evaluations
    found = {line.arch: line.top1 for line in lines if line.refines}

    def fit(rows: Rows, top1: Floats) -> Predict:
        run.progress("refine", len(found), total)
        predictor = AccuracyPredictor.fit(run.encoding.features(rows), top1, seed=run.config.seed)
        return lambda asked: predictor.predict(run.encoding.features(asked))

    def evaluate(archs: list[Arch]) -> list[float]:
        left = [arch for arch in archs if arch not in found]
        if left:
            session, net_of = run.session(), trained_subnets(run)
            for arch in left:
                run.progress("refine", len(found), total)
                line = evaluation(session, net_of(arch), arch).model_copy(update={"refines": True})
                line.append(evaluations_file(run))
                found[arch] = line.top1
        return [found[arch] for arch in archs]

    search = run.config.search
    refine(
        template,
        _known(run, [line for line in lines if not line.refines]),
        fit=fit,
        evaluate=evaluate,
        settings=Refinement(
            evaluations=total,
            population_size=min(search.population_size, _REFINE_POPULATION),
            generations=min(search.generations, _REFINE_GENERATIONS),
        ),
        seed=run.config.seed,
    )
    fit_predictor(run)
    run.progress("refine", total, total)


def _known(run: Run, lines: Sequence[Evaluation]) -> Measured:
    rows = run.encoding.from_archs([line.arch for line in lines])
    return Measured(rows=rows, top1=np.array([line.top1 for line in lines], dtype=np.float64))
