"""The last steps of a run: winners become measured, verified files."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint
from onceforall.deploy.finetune import finetune, finetune_plan
from onceforall.deploy.model_folder import (
    Checks,
    check_files,
    check_plain_files,
    export_files,
    finished_or_removed,
    remove_unfinished,
    write_card,
)
from onceforall.deploy.specialize import specialize
from onceforall.errors import ConfigError, InfeasibleError, VerificationError
from onceforall.files import read_json, write_json
from onceforall.measure.accuracy import Accuracy, evaluate
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from onceforall.measure.latency import Latency, measure_latency
from onceforall.measure.latency_targets import Candidate, Target, make_target
from onceforall.measure.proportion import Share
from onceforall.measure.subnet import evaluate_arch
from onceforall.model_table import read_cards
from onceforall.run import Event, Run, read_front, versions
from onceforall.session import DataSession
from onceforall.supernets.static import StaticNet
from onceforall.supernets.supernet import Supernet
from onceforall.supernets.weights import blueprint_from_json, load_plain
from onceforall.train.settings import Callbacks, TrainOptions
from onceforall.training import trained_supernet

Point = dict[str, Any]
Wanted = tuple[str, Arch, Point]  # the name of a model to ship, its arch, what the search said
_CHECK_IMAGES = 16
_REPEATS = 40
# Of the time left when candidates are confirmed; the rest is for shipping the winners.
_CONFIRM_SHARE = 0.4


def choose_winners(points: Sequence[Point], count: int) -> list[Point]:
    """Return ``count`` points of a front, both ends included, spread evenly over log latency.

    Args:
        points: Points with ``latency_ms``; any order.
        count: Points to choose; all of them if there are not more.
    """
    ordered = sorted(points, key=lambda point: (point["latency_ms"], point["macs"]))
    if len(ordered) <= count:
        return ordered
    low, high = (math.log(ordered[i]["latency_ms"]) for i in (0, -1))
    chosen: list[int] = []
    for k in range(count):
        wanted = high if count == 1 else low + (high - low) * k / (count - 1)
        left = [i for i in range(len(ordered)) if i not in chosen]
        chosen.append(
            min(left, key=lambda i: (abs(math.log(ordered[i]["latency_ms"]) - wanted), i))
        )
    return [ordered[i] for i in sorted(chosen)]


def model_name(arch: Arch, macs: int, number: int) -> str:
    """Return a model's folder name: its number, MACs in millions, and resolution."""
    return f"net{number:02d}-{macs / 1e6:.3g}M-{arch.resolution}px"


def confirm_step(run: Run) -> None:
    """Measure the candidates of the front for real: validation top-1 and latency.

    ``search/confirmed.json`` holds them with both figures. A run with a time measures fewer of
    them where it would not last.
    """
    path = run.folder.search / "confirmed.json"
    if path.is_file():
        return
    session, net = run.session(), trained_supernet(run)

    def measure(arch: Arch) -> Accuracy:
        return evaluate_arch(
            net, arch, calibration=session.calibration_batches, images=session.valid
        )

    front = read_front(run.folder)["points"]
    points = choose_winners(front, _num_candidates(run, front, measure))
    archs = [Arch.from_json(point["arch"]) for point in points]
    measured = []
    for position, arch in enumerate(archs):
        run.progress("confirm", position, len(archs))
        measured.append(measure(arch))
    candidates = [Candidate(plan=net.blueprint(a), resolution=a.resolution) for a in archs]
    latencies = measure_latency(candidates, target=_target(run), repeats=_REPEATS)
    confirmed = [
        {
            **point,
            "predicted_latency_ms": point["latency_ms"],
            "latency_ms": latency.latency_ms,
            "valid_top1": accuracy.top1,
            "valid_loss": accuracy.loss,
            "valid_images": accuracy.images,
        }
        for point, accuracy, latency in zip(points, measured, latencies, strict=True)
    ]
    write_json(path, {"points": confirmed})
    run.progress("confirm", len(archs), len(archs))


def _num_candidates(run: Run, front: Sequence[Point], measure: Callable[[Arch], Accuracy]) -> int:
    """Return how many candidates a run has time to measure, at least those it ships."""
    search = run.config.search
    if math.isinf(run.clock.left_s()):
        return search.num_candidates
    middle = sorted(front, key=lambda point: point["macs"])[len(front) // 2]
    started = time.monotonic()
    measure(Arch.from_json(middle["arch"]))
    one_s = time.monotonic() - started
    count = int(_CONFIRM_SHARE * run.clock.left_s() / one_s)
    return max(search.num_models, min(search.num_candidates, count))


def winners(run: Run) -> list[Point]:
    """Return the confirmed candidates to ship.

    Without limits: the most accurate ones, spread over latency, fastest first. With limits: all
    that keep them as measured, most accurate first; one of them is shipped.

    Raises:
        InfeasibleError: If no candidate keeps the latency limit as measured.
    """
    points = read_json(run.folder.search / "confirmed.json")["points"]
    limits = run.config.search.limits
    if not limits:
        return spread_best(points, run.config.search.num_models)
    bound = limits.get("latency_ms", math.inf)
    keeping = [p for p in points if p["latency_ms"] <= bound]
    if not keeping:
        fastest = min(p["latency_ms"] for p in points)
        raise InfeasibleError(
            f"latency_ms={bound:g}: no candidate keeps it as measured; the fastest takes "
            f"{fastest:.3g} ms"
        )
    return sorted(keeping, key=lambda p: (*_accuracy(p), -p["latency_ms"]), reverse=True)


def spread_best(points: Sequence[Point], count: int) -> list[Point]:
    """Return the most accurate point of each of ``count`` equal parts of log latency.

    A point that another beats by more than the noise is left out; parts without any are skipped.
    """
    low, high = (math.log(f(p["latency_ms"] for p in points)) for f in (min, max))
    best: dict[int, Point] = {}
    for point in points:
        if any(clearly_beats(other, point) for other in points):
            continue
        share = (math.log(point["latency_ms"]) - low) / max(high - low, 1e-9)
        part = min(count - 1, int(share * count))
        if part not in best or _accuracy(point) > _accuracy(best[part]):
            best[part] = point
    return sorted(best.values(), key=lambda p: (p["latency_ms"], p["macs"]))


def clearly_beats(first: Point, second: Point) -> bool:
    """Say whether ``first`` is at least as fast and more accurate by more than the noise.

    The noise is the standard error of one top-1 figure. That of a difference is no larger: both
    are counted on the same images, where networks err together.
    """
    top1, images = second["valid_top1"], second["valid_images"]
    noise = math.sqrt(max(top1 * (1 - top1), 1 / images) / images)
    return bool(first["latency_ms"] <= second["latency_ms"] and first["valid_top1"] > top1 + noise)


def _accuracy(point: Point) -> tuple[float, float]:
    """Return what orders accuracies; few images tell few apart, then the lower loss is better."""
    return point["valid_top1"], -point["valid_loss"]


def models_step(run: Run) -> None:
    """Confirm the front's candidates; specialise, measure, export and verify the winners.

    Whatever is not proven is removed and noted in ``search/failed.json``; the others are shipped.
    The same command tries the noted ones again.
    """
    confirm_step(run)
    for folder in run.folder.models.glob("*"):
        remove_unfinished(folder)
    points = winners(run)
    archs = [Arch.from_json(point["arch"]) for point in points]
    names = [
        model_name(arch, count_macs(run.spec.blueprint(arch), resolution=arch.resolution), number)
        for number, arch in enumerate(archs, start=1)
    ]
    wanted = list(zip(names, archs, points, strict=True))
    if run.config.search.limits:
        failed = _ship_first(run, wanted)
    else:
        failed = _ship(run, [each for each in wanted if not _is_shipped(run, each[0])])
    notes = [{"name": each.name, "problem": each.problem} for each in failed]
    write_json(run.folder.search / "failed.json", {"models": notes})


def read_failed(run: Run) -> list[dict[str, str]]:
    """Return ``{"name", "problem"}`` of each model that the models step could not prove."""
    path = run.folder.search / "failed.json"
    return read_json(path)["models"] if path.is_file() else []


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


def _ship_first(run: Run, wanted: Sequence[Wanted]) -> list[Unshipped]:
    """Ship the first model that keeps the latency limit when it is measured as it ships.

    Those that do not are noted in ``search/rejected.json`` and not measured again.

    Returns:
        The models before it that are not proven.
    """
    bound = run.config.search.limits.get("latency_ms", math.inf)
    path = run.folder.search / "rejected.json"
    slow: dict[str, float] = read_json(path) if path.is_file() else {}
    failed: list[Unshipped] = []
    for each in wanted:
        if each[0] in slow:
            continue
        if _is_shipped(run, each[0]):
            return failed
        unshipped = _ship(run, [each], max_latency_ms=bound)
        if not unshipped:
            return failed
        if unshipped[0].latency_ms is None:
            failed += unshipped
        else:
            slow[each[0]] = unshipped[0].latency_ms
            write_json(path, slow)
    if failed:
        return failed
    raise InfeasibleError(
        f"latency_ms={bound:g}: no candidate keeps it when it is measured again to be shipped; "
        f"the fastest takes {min(slow.values()):.3g} ms"
    )


def _is_shipped(run: Run, name: str) -> bool:
    return (run.folder.models / name / "card.json").is_file()


def specialize_arch(run: Run, arch: Arch, name: str = "") -> dict[str, Any]:
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
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--name {name!r} is not a plain folder name")
    if (folder / "card.json").is_file():
        raise ConfigError(f"{folder} exists; use another --name")
    point = {"predicted_top1": None, "predicted_latency_ms": None}
    for unshipped in _ship(run, [(name, arch, point)]):
        raise VerificationError(f"{name}: {unshipped.problem}")
    return read_json(folder / "card.json")  # type: ignore[no-any-return]


def finetune_model(
    run: Run, name: str, *, epochs: int, learning_rate: float, distill: bool
) -> dict[str, Any]:
    """Fine-tune a shipped model on the run's training images; ship it as a new one.

    Args:
        run: A run with models.
        name: Name of the model to start from.
        epochs: Passes over the training images.
        learning_rate: Peak, for the run's reference batch.
        distill: Learn from the supernet's largest subnet besides the labels.

    Returns:
        The card of ``<name>-finetune<epochs>``.

    Raises:
        ConfigError: If there is no such model, or it was fine-tuned as long with other settings.
        Interrupted: If it was asked to stop; the same call goes on.
        VerificationError: If the files are not proven; nothing is left of them then.
    """
    start = run.folder.models / name
    if not (start / "card.json").is_file():
        known = ", ".join(card["name"] for card in read_cards(run.folder.models))
        if not known:
            raise ConfigError(f"{run.folder.path} has no models yet: run  ofa run")
        raise ConfigError(f"model {name!r} is not one of {known}")
    card = read_json(start / "card.json")
    arch, plan = Arch.from_json(card["arch"]), blueprint_from_json(card["blueprint"])
    tuned = run.folder.models / f"{name}-finetune{epochs}"
    settings = {"learning_rate": learning_rate, "distill": distill}
    if (tuned / "card.json").is_file():
        done = read_json(tuned / "card.json")
        for key, value in settings.items():
            if done["finetune_settings"][key] != value:
                raise ConfigError(
                    f"{tuned} was fine-tuned with {key} {done['finetune_settings'][key]}, not "
                    f"{value}; remove it, or use another number of epochs"
                )
        return done  # type: ignore[no-any-return]
    session = run.session()
    model = load_plain(plan, start / "model.safetensors").to(run.device)
    finetune(
        model,
        dataclasses.replace(
            finetune_plan(
                epochs=epochs,
                learning_rate=learning_rate,
                reference_batch=run.config.train.reference_batch,
                distill=distill,
                label_smoothing=run.config.train.label_smoothing,
                weight_decay=run.config.train.weight_decay,
            ),
            train_side=run.config.train.side,
        ),
        session.train,
        resolution=arch.resolution,
        num_classes=run.bundle.num_classes,
        folder=run.folder.checkpoints / tuned.name,
        options=TrainOptions(
            seed=run.config.seed,
            autocast=bool(run.config.train.autocast),
            micro_batches=run.config.train.micro_batches,
        ),
        callbacks=Callbacks(
            on_event=partial(_tell_finetuning, run, tuned.name),
            should_stop=run.should_stop,
            change_batch=session.change_batch,
        ),
        teacher=trained_supernet(run) if distill else None,
    )
    batches = list(session.calibration_batches(arch.resolution))
    recalibrate_bn(model, batches)
    with finished_or_removed(tuned):
        facts, checks, candidate = _prepare_plain(run, session, model.cpu(), tuned, arch)
        (latency,) = measure_latency([candidate], target=_target(run), repeats=_REPEATS)
        point = {"predicted_top1": None, "predicted_latency_ms": None}
        facts |= _latency_facts(latency) | _predicted(point)
        facts |= {"name": tuned.name, "finetuned_from": name, "finetune_epochs": epochs}
        facts |= {"finetune_settings": settings}
        write_card(tuned, plan, checks, facts)
    return read_json(tuned / "card.json")  # type: ignore[no-any-return]


def _tell_finetuning(run: Run, name: str, event: Event) -> None:
    """Show an event; keep it as one of this model, beside those of the supernet's training."""
    run.tell(event)
    if event["event"] != "step":
        run.emit({**event, "event": f"finetune_{event['event']}", "model": name})


def _target(run: Run) -> Target:
    return make_target(run.config.latency.target, threads=run.config.latency.threads)


def _ship(run: Run, left: Sequence[Wanted], *, max_latency_ms: float = math.inf) -> list[Unshipped]:
    """Export, check and measure models, then write the cards of those that are proven.

    Returns:
        The others, with what is wrong with them. Nothing of them is left.
    """
    if not left:
        return []
    models, session, net = run.folder.models, run.session(), trained_supernet(run).cpu()
    ready, unshipped = [], []
    with finished_or_removed(*(models / name for name, *_ in left)):
        for position, (name, arch, point) in enumerate(left):
            run.progress("models", position, len(left))
            try:
                ready.append((name, point, *_prepare(run, session, net, models / name, arch)))
            except VerificationError as error:
                unshipped.append(Unshipped(name=name, problem=str(error)))
        candidates = [candidate for *_, candidate in ready]
        for (name, point, facts, checks, candidate), latency in zip(
            ready, _latencies(run, candidates), strict=True
        ):
            if latency.latency_ms > max_latency_ms:
                unshipped.append(_too_slow(name, latency.latency_ms, max_latency_ms))
                continue
            facts |= _latency_facts(latency) | _predicted(point) | {"name": name}
            write_card(models / name, candidate.plan, checks, facts)
    for each in unshipped:
        kind = "model_failed" if each.latency_ms is None else "model_rejected"
        run.emit({"event": kind, "name": each.name, "problem": each.problem})
    run.progress("models", len(left), len(left))
    return unshipped


def _latencies(run: Run, candidates: Sequence[Candidate]) -> list[Latency]:
    if not candidates:
        return []
    return measure_latency(candidates, target=_target(run), repeats=_REPEATS)


def _too_slow(name: str, latency_ms: float, max_latency_ms: float) -> Unshipped:
    problem = f"takes {latency_ms:.3g} ms as it ships, more than latency_ms={max_latency_ms:g}"
    return Unshipped(name=name, problem=problem, latency_ms=latency_ms)


def _prepare(
    run: Run, session: DataSession, net: Supernet, folder: Path, arch: Arch
) -> tuple[dict[str, Any], Checks, Candidate]:
    """Export one subnet, compare it to the supernet, measure its accuracy on the test images.

    Raises:
        VerificationError: If the files do not compute what the supernet does.
    """
    batches = [images.cpu() for images in session.calibration_batches(arch.resolution)]
    model = specialize(net, arch, calibration=batches)
    export_files(folder, model, model.plan, arch)
    checks = check_files(
        folder,
        model.plan,
        net=net,
        arch=arch,
        calibration=batches,
        images=_check_images(session, arch),
    )
    problem = checks.problem()
    if problem is not None:
        raise VerificationError(problem)
    return _facts(run, session, model, arch), checks, _candidate(model.plan, folder, arch)


def _prepare_plain(
    run: Run, session: DataSession, model: StaticNet, folder: Path, arch: Arch
) -> tuple[dict[str, Any], Checks, Candidate]:
    """Export a fine-tuned network, which has weights of its own, and compare its files to it."""
    export_files(folder, model, model.plan, arch)
    checks = check_plain_files(folder, model, images=_check_images(session, arch))
    return _facts(run, session, model, arch), checks, _candidate(model.plan, folder, arch)


def _check_images(session: DataSession, arch: Arch) -> Tensor:
    images, _ = next(iter(session.test.batches(arch.resolution)))
    return images[:_CHECK_IMAGES].cpu()


def _candidate(plan: Blueprint, folder: Path, arch: Arch) -> Candidate:
    """Return the files of a model as what is measured, just as who loads them has them."""
    return Candidate(
        plan=plan,
        resolution=arch.resolution,
        name=folder.name,
        weights=load_plain(plan, folder / "model.safetensors"),
        onnx=(folder / "model.onnx").read_bytes(),
    )


def _facts(run: Run, session: DataSession, model: StaticNet, arch: Arch) -> dict[str, Any]:
    """Return what a card says of a network, measured on the test images."""
    test = ((x.cpu(), y.cpu()) for x, y in session.test.batches(arch.resolution))
    accuracy = evaluate(model, test)
    plan, bundle = model.plan, run.bundle
    return {
        "arch": arch.to_json(),
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "top1_interval": list(Share(value=accuracy.top1, count=accuracy.images).interval),
        "images": accuracy.images,
        "macs": count_macs(plan, resolution=arch.resolution),
        "params": count_params(plan),
        "peak_activation_bytes": peak_activation_bytes(plan, resolution=arch.resolution),
        "resolution": arch.resolution,
        "data": bundle.name,
        "classes": list(bundle.class_names),
        "mean": list(bundle.mean),
        "std": list(bundle.std),
        "crop_ratio": bundle.eval_crop_ratio,
        "versions": versions(),
    }


def _latency_facts(latency: Latency) -> dict[str, Any]:
    return {
        "latency_ms": latency.latency_ms,
        "latency_mad_ms": latency.latency_mad_ms,
        "latency_p90_ms": latency.latency_p90_ms,
        "target": {
            "name": latency.target,
            "threads": latency.threads,
            "hardware": latency.hardware.to_json(),
        },
    }


def _predicted(point: Point) -> dict[str, Any]:
    return {
        "predicted_top1": point["predicted_top1"],
        "predicted_top1_std": point.get("predicted_top1_std"),
        "predicted_latency_ms": point["predicted_latency_ms"],
        "valid_top1": point.get("valid_top1"),
    }
