"""Proving a model: exported, compared with the network it came from, measured as it ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.arch import Arch
from onceforall.artifacts import Card
from onceforall.deploy.model_folder import (
    Checks,
    check_files,
    check_plain_files,
    export_files,
    write_card,
)
from onceforall.deploy.ship import as_shipped, latency_facts, measured_facts
from onceforall.errors import VerificationError
from onceforall.job.context import Run
from onceforall.job.data import DataSession
from onceforall.job.steps.confirm import REPEATS, target_of
from onceforall.measure.accuracy import evaluate
from onceforall.measure.latency.measure import Latency, measure_latency
from onceforall.measure.latency.targets import Candidate
from onceforall.supernets.nets import ElasticNet, PlainNet

_CHECK_IMAGES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A model whose files compute what they should.

    Attributes:
        checks: What was compared.
        facts: What its card says of it, measured on the test images.
        candidate: Its files, to be measured as who loads them has them.
    """

    checks: Checks
    facts: dict[str, Any]
    candidate: Candidate


def prove(
    run: Run,
    session: DataSession,
    model: PlainNet,
    folder: Path,
    arch: Arch,
    *,
    net: ElasticNet | None = None,
    valid_top1: float | None = None,
) -> Proven:
    """Export a network, compare its files to it, measure its accuracy on the test images.

    Whatever takes many images runs on the run's device; files are compared on the processor, where
    they run once they are shipped.

    Args:
        run: The run.
        session: Its data.
        model: The network, on the processor.
        folder: Folder of the model.
        arch: The subnet that it is, or was before it was trained on.
        net: The supernet that it was cut out of, to compare it with; None where it has weights of
            its own.
        valid_top1: What is known of it on the validation images; None measures it.

    Raises:
        VerificationError: If the files do not compute what they should.
    """
    export_files(folder, model, model.plan, arch)
    batch, _ = next(iter(session.test.batches(arch.resolution)))
    images = batch[:_CHECK_IMAGES].cpu()
    if net is None:
        checks = check_plain_files(folder, model, images=images)
    else:
        checks = check_files(folder, model, net=net, arch=arch, images=images)
    problem = checks.problem()
    if problem is not None:
        raise VerificationError(problem)
    model = model.to(run.device)
    if valid_top1 is None:
        valid_top1 = evaluate(model, session.valid.batches(arch.resolution)).top1
    return Proven(
        checks=checks,
        facts={
            **measured_facts(model, arch, session.test.batches(arch.resolution)),
            "valid_top1": valid_top1,
            "data": run.bundle.name,
            "classes": run.bundle.class_names,
            "mean": run.bundle.mean,
            "std": run.bundle.std,
            "crop_ratio": run.bundle.eval_crop_ratio,
        },
        candidate=as_shipped(model.plan, folder, arch),
    )


def measure_as_shipped(run: Run, proven: Sequence[Proven]) -> list[Latency]:
    """Return the latency of each model, all measured in turns."""
    if not proven:
        return []
    candidates = [each.candidate for each in proven]
    return measure_latency(candidates, target=target_of(run), repeats=REPEATS)


def write_proven(folder: Path, proven: Proven, latency: Latency, **further: Any) -> Card:
    """Write the card of a model, which makes it complete, and return it.

    Args:
        folder: Folder of the model.
        proven: The model.
        latency: Its latency as it ships.
        further: Other entries of its card.
    """
    facts = {"name": folder.name, **proven.facts, **latency_facts(latency), **further}
    return write_card(folder, proven.candidate.known_plan, proven.checks, facts)
