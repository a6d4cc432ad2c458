"""Confirming a front: candidates are measured for real, and those worth shipping are chosen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from onceforall.arch import Arch
from onceforall.artifacts import Confirmed, ConfirmedFile, FrontPoint
from onceforall.errors import InfeasibleError
from onceforall.job.context import Run
from onceforall.job.interpolation import trained_subnets
from onceforall.job.steps.search import measured_above
from onceforall.measure.accuracy import Accuracy
from onceforall.measure.latency.measure import measure_latency
from onceforall.measure.latency.targets import Candidate, Target, make_target

REPEATS = 40  # of a latency measurement
# Of the time left when candidates are confirmed; the rest is for shipping the winners.
_CONFIRM_SHARE = 0.4


def choose_winners(points: Sequence[FrontPoint], count: int) -> list[FrontPoint]:
    """Return ``count`` points of a front, both ends included, spread evenly over log latency.

    Args:
        points: Points in any order.
        count: Points to choose; all of them if there are not more.
    """
    ordered = sorted(points, key=lambda point: (point.latency_ms, point.macs))
    if len(ordered) <= count:
        return ordered
    low, high = (math.log(ordered[i].latency_ms) for i in (0, -1))
    chosen: list[int] = []
    for k in range(count):
        wanted = high if count == 1 else low + (high - low) * k / (count - 1)
        left = [i for i in range(len(ordered)) if i not in chosen]
        chosen.append(min(left, key=lambda i: (abs(math.log(ordered[i].latency_ms) - wanted), i)))
    return [ordered[i] for i in sorted(chosen)]


def confirm_step(run: Run) -> None:
    """Measure the candidates of the front for real: validation top-1 and latency.

    ``search/confirmed.json`` holds them with both figures; subnets that were measured to be above
    the front are among them. A run with a time measures fewer where it would not last.
    """
    if run.folder.confirmed.is_file():
        return
    measure, front = measuring(run), run.folder.read_front().points
    count = _num_candidates(run, front, measure)
    points = choose_winners(front, count) + measured_above(run, front)[: count // 2]
    ConfirmedFile(points=confirm(run, points, measure)).write(run.folder.confirmed)


def measuring(run: Run) -> Callable[[Arch], Accuracy]:
    """Return the function from a subnet to its accuracy on the validation images."""
    session, net_of = run.session(), trained_subnets(run)
    return lambda arch: session.valid_accuracy(net_of(arch), arch)


def confirm(
    run: Run, points: Sequence[FrontPoint], measure: Callable[[Arch], Accuracy]
) -> tuple[Confirmed, ...]:
    """Return points of a front with their measured accuracy and latency."""
    archs = [point.arch for point in points]
    measured = []
    for position, arch in enumerate(archs):
        run.progress("confirm", position, len(archs))
        measured.append(measure(arch))
    plans = [run.spec.blueprint(arch) for arch in archs]
    candidates = [
        Candidate(plan=plan, resolution=arch.resolution)
        for plan, arch in zip(plans, archs, strict=True)
    ]
    latencies = measure_latency(candidates, target=target_of(run), repeats=REPEATS)
    run.progress("confirm", len(archs), len(archs))
    return tuple(
        Confirmed(
            **{**dict(point), "latency_ms": latency.latency_ms},
            predicted_latency_ms=point.latency_ms,
            valid_top1=accuracy.top1,
            valid_loss=accuracy.loss,
            valid_images=accuracy.images,
        )
        for point, accuracy, latency in zip(points, measured, latencies, strict=True)
    )


def _num_candidates(
    run: Run, front: Sequence[FrontPoint], measure: Callable[[Arch], Accuracy]
) -> int:
    """Return how many candidates a run has time to measure, at least those it ships."""
    search = run.config.search
    if math.isinf(run.left_s()):
        return search.num_candidates
    middle = sorted(front, key=lambda point: point.macs)[len(front) // 2]
    started = time.monotonic()
    measure(middle.arch)
    one_s = time.monotonic() - started
    count = int(_CONFIRM_SHARE * run.left_s() / one_s)
    return max(search.num_models, min(search.num_candidates, count))


def winners(run: Run) -> list[Confirmed]:
    """Return the confirmed candidates to ship.

    Without limits: the most accurate ones, spread over latency, fastest first. With limits: all
    that keep them as measured, most accurate first; one of them is shipped.

    Raises:
        InfeasibleError: If no candidate keeps the latency limit as measured.
    """
    points = ConfirmedFile.read(run.folder.confirmed).points
    limits = run.config.search.limits
    if not limits:
        return spread_best(points, run.config.search.num_models)
    return best_keeping(points, limits)


def best_keeping(points: Sequence[Confirmed], limits: Mapping[str, float]) -> list[Confirmed]:
    """Return the points that keep the latency limit as measured, most accurate first.

    Raises:
        InfeasibleError: If none does.
    """
    bound = limits.get("latency_ms", math.inf)
    keeping = [p for p in points if p.latency_ms <= bound]
    if not keeping:
        fastest = min(p.latency_ms for p in points)
        raise InfeasibleError(
            f"latency_ms={bound:g}: no candidate keeps it as measured; the fastest takes "
            f"{fastest:.3g} ms"
        )
    return sorted(keeping, key=lambda p: (*_accuracy(p), -p.latency_ms), reverse=True)


def spread_best(points: Sequence[Confirmed], count: int) -> list[Confirmed]:
    """Return the most accurate point of each of ``count`` equal parts of log latency.

    A point that another beats by more than the noise is left out; parts without any are skipped.
    """
    low, high = (math.log(f(p.latency_ms for p in points)) for f in (min, max))
    best: dict[int, Confirmed] = {}
    for point in points:
        if any(clearly_beats(other, point) for other in points):
            continue
        share = (math.log(point.latency_ms) - low) / max(high - low, 1e-9)
        part = min(count - 1, int(share * count))
        if part not in best or _accuracy(point) > _accuracy(best[part]):
            best[part] = point
    return sorted(best.values(), key=lambda p: (p.latency_ms, p.macs))


def clearly_beats(first: Confirmed, second: Confirmed) -> bool:
    """Say whether ``first`` is at least as fast and more accurate by more than the noise.

    The noise is the standard error of one top-1 figure. That of a difference is no larger: both
    are counted on the same images, where networks err together.
    """
    noise = noise_of(second.valid_top1, second.valid_images)
    is_above = first.valid_top1 > second.valid_top1 + noise
    return first.latency_ms <= second.latency_ms and is_above


def noise_of(top1: float, images: int) -> float:
    """Return the standard error of a top-1 that was counted on so many images."""
    return math.sqrt(max(top1 * (1 - top1), 1 / images) / images)


def _accuracy(point: Confirmed) -> tuple[float, float]:
    """Return what orders accuracies; few images tell few apart, then the lower loss is better."""
    return point.valid_top1, -point.valid_loss


def target_of(run: Run) -> Target:
    """Return what a run's latencies are measured on."""
    return make_target(run.config.latency.target, threads=run.config.latency.threads)
