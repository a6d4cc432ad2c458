"""The evaluate step of a run: sampled subnets are measured on the validation images."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from onceforall.arch import Arch
from onceforall.artifacts import Evaluation
from onceforall.job.context import Run
from onceforall.job.data import DataSession
from onceforall.job.interpolation import trained_subnets
from onceforall.job.planning import FURTHER_SIDES
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import count_macs
from onceforall.predictors.sampling import stratified_rows
from onceforall.supernets.nets import ElasticNet
from onceforall.training.ranks import wait_for_all

# Subnets that are measured, by every rank, however little time is left: a predictor is fitted to
# ten and judged on two.
_FEWEST_EVALUATIONS = 12
# However slow evaluations are, this many times what was planned is kept for the steps after them.
_MOST_CROWDING = 2.0


def archs_to_evaluate(run: Run) -> list[Arch]:
    """Return the subnets whose accuracy is measured: the ends, and others spread over MACs.

    The ends are the largest, the smallest, and the largest for images of up to three other sides.
    Hardly any of those that are drawn are near them, so no predictor says how good they are.
    """
    encoding, space = run.encoding, run.spec.space
    costs = compile_costs(run.spec)
    rng = np.random.default_rng(run.config.seed)
    wanted = max(run.config.evaluate.num_archs, _FEWEST_EVALUATIONS)
    count = min(wanted, space.size)
    rows = stratified_rows(encoding.sample, costs.macs, count=count, rng=rng)
    # In no order, so that those measured before time is up are spread like all of them.
    sampled = encoding.to_archs(rng.permutation(encoding.unique(rows)))
    others = space.resolutions[:-1]
    spread = (i * (len(others) - 1) // (FURTHER_SIDES - 1) for i in range(FURTHER_SIDES))
    sides = {others[i] for i in spread} if others else set()
    whole = [replace(space.largest, resolution=side) for side in sorted(sides, reverse=True)]
    return list(dict.fromkeys([space.largest, space.smallest, *whole, *sampled]))


def evaluate_step(run: Run) -> None:
    """Measure sampled subnets on the validation images, shared out between the ranks.

    A run with a time stops measuring when the steps after it need what is left.
    """
    evaluated, ended = run.folder.read_evaluations(), _ended_with(run)
    if ended is not None and len(evaluated) >= ended:
        return
    archs = archs_to_evaluate(run)
    done = {line.arch for line in evaluated}
    # Shares come first: ranks read at different times what is done.
    share = archs[run.ranks.rank :: run.ranks.world_size]
    mine = [arch for arch in share if arch not in done]
    if mine:
        session, net_of = run.session(), trained_subnets(run)
        started = time.monotonic()
        for position, arch in enumerate(mine, start=len(archs) - len(mine)):
            run.progress("evaluate", position, len(archs))
            measured = len(share) - len(archs) + position
            here = position - (len(archs) - len(mine))
            each_s = (time.monotonic() - started) / max(1, here)
            if measured >= _FEWEST_EVALUATIONS and _is_late(run, each_s, len(share)):
                break
            evaluation(session, net_of(arch), arch).append(evaluations_file(run))
        run.progress("evaluate", len(archs), len(archs))
    wait_for_all(run.ranks)
    count = len(run.folder.read_evaluations())
    run.emit({"event": "evaluated", "archs": count, "planned": len(archs)})


def _ended_with(run: Run) -> int | None:
    """Return how many subnets were measured when the step ended; None if it is to be redone."""
    ended: int | None = None
    for event in run.folder.read_events("evaluated", "changed"):
        if event["event"] == "evaluated":
            ended = event["archs"]
        elif "evaluate" in event.get("redone", ()):
            ended = None
    return ended


def _is_late(run: Run, each_s: float, planned: int) -> bool:
    """Say whether the steps after this one need all the time that is left.

    Args:
        run: The run.
        each_s: Seconds that an evaluation takes; if more than planned, so will what follows.
        planned: Evaluations that this rank was to do in the time that they were given.
    """
    if run.estimate is None:
        return False
    crowding = each_s * planned / max(run.estimate.evaluate_s, 1e-9)
    crowding = min(max(1.0, crowding), _MOST_CROWDING)
    return run.left_s() < crowding * run.estimate.rest_s


def evaluations_file(run: Run) -> Path:
    """Return the file that this rank appends to."""
    path, rank = run.folder.evaluations, run.ranks.rank
    return path if rank == 0 else path.with_name(f"evaluations.rank{rank}.jsonl")


def evaluation(session: DataSession, net: ElasticNet, arch: Arch) -> Evaluation:
    """Measure one subnet on the validation images."""
    accuracy = session.valid_accuracy(net, arch)
    return Evaluation(
        arch=arch,
        top1=accuracy.top1,
        top5=accuracy.top5,
        loss=round(accuracy.loss, 6),
        images=accuracy.images,
        macs=count_macs(net.blueprint(arch), resolution=arch.resolution),
        resolution=arch.resolution,
    )
