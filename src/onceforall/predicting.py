"""The accuracy steps of a run: subnets are measured, a predictor is fitted, a front is refined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Rows
from onceforall.errors import CheckpointError
from onceforall.files import append_jsonl, read_json, read_jsonl
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import count_macs
from onceforall.measure.subnet import evaluate_arch
from onceforall.predictors.accuracy import AccuracyPredictor, PredictorReport, fit_and_report
from onceforall.predictors.sampling import LearningCurve, learning_curve, stratified_rows
from onceforall.run import Run
from onceforall.search import Problem
from onceforall.search.refine import Measured, Predict, Refinement, refine
from onceforall.session import DataSession
from onceforall.supernets.supernet import Supernet
from onceforall.train.ranks import wait_for_all
from onceforall.training import trained_supernet

Floats = NDArray[np.floating[Any]]

# Subnets that are measured, by every rank, however little time is left: a predictor is fitted to
# ten and judged on two.
_FEWEST_EVALUATIONS = 12
# Largest searches between two batches of a refinement; the last search is the run's own.
_REFINE_POPULATION = 64
_REFINE_GENERATIONS = 30


def archs_to_evaluate(run: Run) -> list[Arch]:
    """Return the subnets whose accuracy is measured: the ends, and others spread over MACs."""
    encoding = run.encoding
    costs = compile_costs(run.spec)
    rng = np.random.default_rng(run.config.seed)
    wanted = max(run.config.evaluate.num_archs, _FEWEST_EVALUATIONS)
    count = min(wanted, run.spec.space.size)
    rows = stratified_rows(encoding.sample, costs.macs, count=count, rng=rng)
    rows = np.concatenate([encoding.smallest(), encoding.largest(), rows])
    # In no order, so that those measured before time is up are spread like all of them.
    return encoding.to_archs(rng.permutation(encoding.unique(rows)))


def evaluate_step(run: Run) -> None:
    """Measure sampled subnets on the validation images, shared out between the ranks.

    A run with a time stops measuring when the steps after it need what is left.
    """
    ended = [e["archs"] for e in read_jsonl(run.folder.events) if e["event"] == "evaluated"]
    if ended and len(read_evaluations(run)) >= ended[-1]:
        return
    archs = archs_to_evaluate(run)
    done = {Arch.from_json(line["arch"]) for line in read_evaluations(run)}
    # Shares come first: ranks read at different times what is done.
    share = archs[run.ranks.rank :: run.ranks.world_size]
    mine = [arch for arch in share if arch not in done]
    if mine:
        session, net = run.session(), trained_supernet(run)
        for position, arch in enumerate(mine, start=len(archs) - len(mine)):
            run.progress("evaluate", position, len(archs))
            measured = len(share) - len(archs) + position
            if measured >= _FEWEST_EVALUATIONS and run.clock.left_s() < run.estimate.rest_s:
                break
            append_jsonl(_evaluations_file(run), _evaluation(run, session, net, arch))
        run.progress("evaluate", len(archs), len(archs))
    wait_for_all(run.ranks)
    run.emit({"event": "evaluated", "archs": len(read_evaluations(run)), "planned": len(archs)})


def _evaluations_file(run: Run) -> Path:
    """Return the file that this rank appends to."""
    path, rank = run.folder.evaluations, run.ranks.rank
    return path if rank == 0 else path.with_name(f"evaluations.rank{rank}.jsonl")


def read_evaluations(run: Run) -> list[dict[str, Any]]:
    """Return the measurements of all ranks, each arch once, in an order of their own."""
    paths = sorted(run.folder.path.glob("evaluations*.jsonl"))
    lines = {json.dumps(line["arch"]): line for path in paths for line in read_jsonl(path)}
    return [lines[key] for key in sorted(lines)]


def _evaluation(run: Run, session: DataSession, net: Supernet, arch: Arch) -> dict[str, Any]:
    """Measure one subnet on the validation images; return the line that says so."""
    accuracy = evaluate_arch(
        net, arch, calibration=session.calibration_batches, images=session.valid
    )
    return {
        "arch": arch.to_json(),
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": round(accuracy.loss, 6),
        "images": accuracy.images,
        "macs": count_macs(net.blueprint(arch), resolution=arch.resolution),
        "resolution": arch.resolution,
    }


def evaluate_more(run: Run, count: int) -> dict[str, Any]:
    """Evaluate further sampled subnets of a run, up to ``count`` in all or until none helps.

    Returns:
        The number of evaluations, the learning curve (rank correlation on archs left out, from
        half and from all of them), and why it stopped.
    """
    encoding, costs = run.encoding, compile_costs(run.spec)
    session, net = run.session(), trained_supernet(run)
    done = {Arch.from_json(line["arch"]) for line in read_evaluations(run)}
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
        append_jsonl(run.folder.evaluations, _evaluation(run, session, net, arch))
    curve = _curve(run)
    lines = len(read_evaluations(run))
    return {"evaluations": lines, **asdict(curve), "stopped": stopped}


def _curve(run: Run) -> LearningCurve:
    return learning_curve(*_measured(run), seed=run.config.seed)


def _measured(run: Run) -> tuple[Floats, Floats]:
    """Return features and top-1 of everything evaluated so far."""
    lines = read_evaluations(run)
    if len(lines) < 10:
        raise CheckpointError(f"{run.folder.path} has {len(lines)} evaluations, fewer than 10")
    rows = run.encoding.from_archs([Arch.from_json(line["arch"]) for line in lines])
    return run.encoding.features(rows), np.array([line["top1"] for line in lines])


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
    return dict(read_json(path)["report"])


def predict_top1(run: Run) -> Predict:
    """Return the function from rows to the mean and standard deviation of predicted top-1.

    Of a run that refines its front, subnets that were measured have their measured top-1.
    """
    predictor, encoding = AccuracyPredictor.load(run.folder.predictor), run.encoding

    def predict(rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
        return predictor.predict(encoding.features(rows))

    known = refined_archs(run)
    return predict if known is None else known.first(predict)


# -- refine ---------------------------------------------------------------------------------------


def refined_archs(run: Run) -> Measured | None:
    """Return everything measured, of a run that refines its front; None of others."""
    return _known(run, read_evaluations(run)) if run.config.search.refine_evaluations else None


def refine_step(run: Run, template: Problem) -> None:
    """Measure subnets where they may improve the front most, and fit the predictor again.

    They are appended to the run's evaluations, marked; a run that is interrupted asks for the
    same ones again and finds them there.

    Args:
        run: A run whose subnets were evaluated.
        template: Costs to minimise, and limits.
    """
    lines, total = read_evaluations(run), run.config.search.refine_evaluations
    found = {Arch.from_json(line["arch"]): line["top1"] for line in lines if line.get("refines")}

    def fit(rows: Rows, top1: Floats) -> Predict:
        run.progress("refine", len(found), total)
        predictor = AccuracyPredictor.fit(run.encoding.features(rows), top1, seed=run.config.seed)
        return lambda asked: predictor.predict(run.encoding.features(asked))

    def evaluate(archs: list[Arch]) -> list[float]:
        left = [arch for arch in archs if arch not in found]
        if left:
            session, net = run.session(), trained_supernet(run)
            for arch in left:
                run.progress("refine", len(found), total)
                line = {**_evaluation(run, session, net, arch), "refines": True}
                append_jsonl(_evaluations_file(run), line)
                found[arch] = line["top1"]
        return [found[arch] for arch in archs]

    search = run.config.search
    refine(
        template,
        _known(run, [line for line in lines if not line.get("refines")]),
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


def _known(run: Run, lines: Sequence[dict[str, Any]]) -> Measured:
    rows = run.encoding.from_archs([Arch.from_json(line["arch"]) for line in lines])
    return Measured(rows=rows, top1=np.array([line["top1"] for line in lines], dtype=np.float64))
