"""The evaluate step of a run: sampled subnets are measured on the validation images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onceforall.arch import Arch
from onceforall.artifacts import Evaluation
from onceforall.job.context import Run
from onceforall.job.data import DataSession
from onceforall.job.weights import trained_supernet
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import count_macs
from onceforall.measure.subnet import evaluate_arch
from onceforall.predictors.sampling import stratified_rows
from onceforall.supernets.supernet import Supernet
from onceforall.training.ranks import wait_for_all

# Subnets that are measured, by every rank, however little time is left: a predictor is fitted to
# ten and judged on two.
_FEWEST_EVALUATIONS = 12


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
    ended = [event["archs"] for event in run.folder.read_events("evaluated")]
    evaluated = run.folder.read_evaluations()
    if ended and len(evaluated) >= ended[-1]:
        return
    archs = archs_to_evaluate(run)
    done = {line.arch for line in evaluated}
    # Shares come first: ranks read at different times what is done.
    share = archs[run.ranks.rank :: run.ranks.world_size]
    mine = [arch for arch in share if arch not in done]
    if mine:
        session, net = run.session(), trained_supernet(run)
        for position, arch in enumerate(mine, start=len(archs) - len(mine)):
            run.progress("evaluate", position, len(archs))
            measured = len(share) - len(archs) + position
            if measured >= _FEWEST_EVALUATIONS and _is_late(run):
                break
            evaluation(session, net, arch).append(evaluations_file(run))
        run.progress("evaluate", len(archs), len(archs))
    wait_for_all(run.ranks)
    count = len(run.folder.read_evaluations())
    run.emit({"event": "evaluated", "archs": count, "planned": len(archs)})


def _is_late(run: Run) -> bool:
    """Say whether the steps after this one need all the time that is left."""
    return run.estimate is not None and run.clock.left_s() < run.estimate.rest_s


def evaluations_file(run: Run) -> Path:
    """Return the file that this rank appends to."""
    path, rank = run.folder.evaluations, run.ranks.rank
    return path if rank == 0 else path.with_name(f"evaluations.rank{rank}.jsonl")


def evaluation(session: DataSession, net: Supernet, arch: Arch) -> Evaluation:
    """Measure one subnet on the validation images."""
    accuracy = evaluate_arch(
        net, arch, calibration=session.calibration_batches, images=session.valid
    )
    return Evaluation(
        arch=arch,
        top1=accuracy.top1,
        top5=accuracy.top5,
        loss=round(accuracy.loss, 6),
        images=accuracy.images,
        macs=count_macs(net.blueprint(arch), resolution=arch.resolution),
        resolution=arch.resolution,
    )
