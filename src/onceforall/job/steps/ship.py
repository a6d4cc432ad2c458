"""The models step of a run: winners of the front become measured, verified files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onceforall.arch import Arch
from onceforall.artifacts import Card, Confirmed, Failed, FailedFile, Rejected
from onceforall.deploy.model_folder import finished_or_removed, remove_unfinished
from onceforall.deploy.specialize import specialize
from onceforall.errors import ConfigError, InfeasibleError, VerificationError
from onceforall.files import write_json
from onceforall.job.context import Run
from onceforall.job.data import DataSession
from onceforall.job.interpolation import trained_subnets
from onceforall.job.steps.confirm import confirm_step, winners
from onceforall.job.steps.prove import Proven, measure_as_shipped, prove, write_proven
from onceforall.job.steps.tune import tune_winners, tuned_net, tuning_settings
from onceforall.measure.costs import count_macs
from onceforall.supernets.nets import ElasticNet
from onceforall.supernets.spec import StaticSpec
from onceforall.terminal import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A model to ship.

    Attributes:
        name: Name of its folder.
        arch: The subnet that it is.
        believed: What the search said of it; None where no search found it.
    """

    name: str
    arch: Arch
    believed: Confirmed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshipped:
    """A model that is not shipped.

    Attributes:
        name: Its name.
        problem: What is wrong with it.
        latency_ms: Where it breaks a latency limit, its latency; None where it is not proven.
    """

    name: str
    problem: str
    latency_ms: float | None = None


def model_name(arch: Arch, macs: int, number: int) -> str:
    """Return a model's folder name: its number, MACs in millions, and resolution."""
    return f"net{number:02d}-{macs / 1e6:.3g}M-{arch.resolution}px"


def models_step(run: Run) -> None:
    """Specialise, measure, export and verify the winners of the front, or a whole grid.

    Whatever is not proven is removed and noted in ``search/failed.json``; the others are shipped.
    The same command tries the noted ones again.
    """
    for folder in run.folder.models.glob("*"):
        remove_unfinished(folder)
    wanted = _grid(run) if run.config.grid.ship else _winners(run)
    # With a limit one ships: the first, if it keeps the limit.
    likely = wanted[:1] if run.config.search.limits else wanted
    tune_winners(run, {each.name: each.believed for each in likely if each.believed})
    if run.config.search.limits and not run.config.grid.ship:
        failed = _ship_first(run, wanted)
    else:
        failed = ship_models(
            run, [each for each in wanted if not run.folder.card(each.name).is_file()]
        )
    notes = tuple(Failed(name=each.name, problem=each.problem) for each in failed)
    FailedFile(models=notes).write(run.folder.failed)


def _winners(run: Run) -> list[Wanted]:
    """Confirm the front's candidates and return the winners."""
    confirm_step(run)
    return [
        Wanted(name=model_name(point.arch, point.macs, number), arch=point.arch, believed=point)
        for number, point in enumerate(winners(run), start=1)
    ]


def _grid(run: Run) -> list[Wanted]:
    """Return the whole grid; a static network, of which there is one, under its own name."""
    spec = run.spec
    if isinstance(spec, StaticSpec):
        return [Wanted(name=spec.name, arch=spec.space.largest)]
    grid = run.config.grid_archs(spec.space)
    return [Wanted(name=name, arch=arch) for name, arch in grid.items()]


def read_failed(run: Run) -> tuple[Failed, ...]:
    """Return the models that the models step could not prove."""
    path = run.folder.failed
    return FailedFile.read(path).models if path.is_file() else ()


def _ship_first(run: Run, wanted: Sequence[Wanted]) -> list[Unshipped]:
    """Ship the first model that keeps the latency limit when it is measured as it ships.

    Those that do not are noted in ``search/rejected.json`` and not measured again.

    Returns:
        The models before it that are not proven.
    """
    bound = run.config.search.limits.get("latency_ms", math.inf)
    path = run.folder.rejected
    slow = Rejected.read(path).latency_ms if path.is_file() else {}
    failed: list[Unshipped] = []
    for each in wanted:
        if each.name in slow:
            continue
        if run.folder.card(each.name).is_file():
            return failed
        unshipped = ship_models(run, [each], max_latency_ms=bound)
        if not unshipped:
            return failed
        if unshipped[0].latency_ms is None:
            failed += unshipped
        else:
            slow[each.name] = unshipped[0].latency_ms
            write_json(path, slow)
    if failed:
        return failed
    raise InfeasibleError(
        f"latency_ms={bound:g}: no candidate keeps it when it is measured again to be shipped; "
        f"the fastest takes {min(slow.values()):.3g} ms"
    )


def specialize_arch(run: Run, arch: Arch, name: str = "") -> Card:
    """Ship one arch of a trained run and return its card.

    Args:
        run: A run with a trained supernet.
        arch: Arch of its space.
        name: Name of the model's folder; by default made from MACs and resolution.

    Raises:
        ArchError: If the arch is not in the space.
        ConfigError: If the name is no plain folder name, or a model has it already.
        VerificationError: If the model is not proven; nothing is left of it then.
    """
    run.spec.space.check(arch)
    macs = count_macs(run.spec.blueprint(arch), resolution=arch.resolution)
    name = name or f"own-{macs / 1e6:.3g}M-{arch.resolution}px"
    folder = run.folder.models / name
    if Path(name).name != name or name.startswith(".") or printable(name) != name:
        raise ConfigError(f"--name {name!r} is not a plain folder name")
    if run.folder.card(name).is_file():
        raise ConfigError(f"{folder} exists; use another --name")
    for unshipped in ship_models(run, [Wanted(name=name, arch=arch)]):
        raise VerificationError(f"{name}: {unshipped.problem}")
    return Card.read(run.folder.card(name))


def ship_models(
    run: Run, left: Sequence[Wanted], *, max_latency_ms: float = math.inf
) -> list[Unshipped]:
    """Export, check and measure models, then write the cards of those that are proven.

    Returns:
        The others, with what is wrong with them. Nothing of them is left.
    """
    if not left:
        return []
    models, session, net_of = run.folder.models, run.session(), trained_subnets(run)
    ready: list[tuple[Wanted, Proven]] = []
    unshipped: list[Unshipped] = []
    with finished_or_removed(*(models / each.name for each in left)):
        for position, each in enumerate(left):
            run.progress("models", position, len(left))
            try:
                ready.append((each, _prove(run, session, net_of(each.arch), each)))
            except VerificationError as error:
                unshipped.append(Unshipped(name=each.name, problem=str(error)))
        latencies = measure_as_shipped(run, [proven for _, proven in ready])
        for (each, proven), latency in zip(ready, latencies, strict=True):
            if latency.latency_ms > max_latency_ms:
                unshipped.append(_too_slow(each.name, latency.latency_ms, max_latency_ms))
                continue
            write_proven(models / each.name, proven, latency, **_believed(each.believed))
    for each_not in unshipped:
        kind = "model_failed" if each_not.latency_ms is None else "model_rejected"
        run.emit({"event": kind, "name": each_not.name, "problem": each_not.problem})
    run.progress("models", len(left), len(left))
    return unshipped


def _prove(run: Run, session: DataSession, net: ElasticNet, wanted: Wanted) -> Proven:
    """Export and check a model: as it was trained on, if that did it good, or as the supernet is.

    Raises:
        VerificationError: If it is not proven.
    """
    folder, arch = run.folder.models / wanted.name, wanted.arch
    tuned = tuned_net(run, arch)
    if tuned is None:
        known = None if wanted.believed is None else wanted.believed.valid_top1
        calibration = session.calibration_batches(arch.resolution)
        model = specialize(net, arch, calibration=calibration).cpu()
        return prove(run, session, model, folder, arch, net=net, valid_top1=known)
    model, facts = tuned
    proven = prove(run, session, model, folder, arch, valid_top1=facts.valid_top1)
    how = {"tuned_epochs": facts.epochs, "finetune_settings": tuning_settings(run)}
    return replace(proven, facts={**proven.facts, **how})


def _believed(point: Confirmed | None) -> dict[str, Any]:
    """Return what a card says of the search that found the model."""
    names = ("predicted_top1", "predicted_top1_std", "predicted_latency_ms")
    return {} if point is None else {name: getattr(point, name) for name in names}


def _too_slow(name: str, latency_ms: float, max_latency_ms: float) -> Unshipped:
    problem = f"takes {latency_ms:.3g} ms as it ships, more than latency_ms={max_latency_ms:g}"
    return Unshipped(name=name, problem=problem, latency_ms=latency_ms)
