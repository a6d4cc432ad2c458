"""Latency as it is: interleaved passes, drift taken out, median and spread.

Machines slow down and speed up by themselves. So candidates are not measured one after the other
but in passes over all of them, in a new order each time, with a small fixed network (the
sentinel) timed between them. Every sample is divided by how slow the samples around it were, each
relative to the faster ones of its own network: tiny networks feel another program more than the
sentinel does. Groups that are not loaded at the same time agree through the sentinel.

On a shared machine the system takes the processor away in the middle of a run. Where the run is
on the calling thread this shows as time that the thread did not spend; such a sample counts the
thread's own processor time instead.
"""

from __future__ import annotations

import bisect
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onceforall.blueprint import Blueprint, Conv, MBConv
from onceforall.errors import ConfigError, MeasurementError, OnceForAllError
from onceforall.measure.latency.candidate import Candidate, Hardware, LocalTarget, Samples
from onceforall.measure.latency.ssh import SshOrt
from onceforall.measure.latency.targets import OrtCpu, Target
from onceforall.measure.latency.worker import Subject, sample_passes

# Neither tiny nor large, and of the operators that the families are made of: about 1 ms.
SENTINEL = Candidate(
    name="sentinel",
    resolution=56,
    plan=Blueprint(
        stem=(Conv(in_channels=3, out_channels=24, kernel_size=3, stride=2),),
        blocks=tuple(
            MBConv(
                in_channels=24,
                mid_channels=96,
                out_channels=24,
                kernel_size=5,
                residual=True,
            )
            for _ in range(4)
        ),
        head=(),
        stage_sizes=(4,),
    ),
)

# Candidates loaded at once: their weights must fit the memory.
_GROUP_SIZE = 32
# Samples on either side of a moment that say how fast the machine was then: fewer would add their
# own noise.
_NEIGHBOURS = 8
# Samples of the sentinel that say how fast it is, at least.
_MIN_QUIET = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The measured latency of one network.

    Attributes:
        name: Name of the candidate.
        latency_ms: Median milliseconds for one batch, as on a machine that is not disturbed.
        latency_mad_ms: Median absolute deviation from it.
        latency_p90_ms: 90th percentile.
        repeats: Samples behind these figures.
        disturbed: Samples during which the system took the processor away: they are processor
            time instead of time on the clock.
        sentinel_ms: Latency of the sentinel in the quietest moments of the same call.
        sentinel_spread: 90th over 10th percentile of the sentinel: 1 on a quiet machine.
        batch_size: Images in a batch.
        resolution: Side of the images, in pixels.
        target: Name of the target.
        threads: Processor threads.
        hardware: Device and runtime.
    """

    name: str
    latency_ms: float
    latency_mad_ms: float
    latency_p90_ms: float
    repeats: int
    disturbed: int
    sentinel_ms: float
    sentinel_spread: float
    batch_size: int
    resolution: int
    target: str
    threads: int
    hardware: Hardware

    @property
    def standard_error_ms(self) -> float:
        """Return the standard error of the median, as if samples were normal."""
        return 1.2533 * 1.4826 * self.latency_mad_ms / math.sqrt(self.repeats)

    def __str__(self) -> str:
        """Return for example ``12.4 +- 0.3 ms (ort-cpu, 1 thread, Intel Xeon)``."""
        plural = "" if self.threads == 1 else "s"
        return (
            f"{self.latency_ms:.3g} +- {self.latency_mad_ms:.1g} ms "
            f"({self.target}, {self.threads} thread{plural}, {self.hardware.device})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Latency:
        """Return what :meth:`to_json` wrote.

        Raises:
            MeasurementError: If a field is missing, unknown or wrong.
        """
        try:
            return cls(**{**value, "hardware": Hardware.from_json(value["hardware"])})
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"latency record: {error}") from error


def measure_latency(
    candidates: Sequence[Candidate],
    *,
    target: Target | None = None,
    batch_size: int = 1,
    repeats: int = 20,
    max_seconds: float | None = None,
    sentinel_ms: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Latency]:
    """Measure the latency of every candidate.

    Args:
        candidates: Networks to measure.
        target: Runtime and device; ONNX Runtime on one thread of this processor by default.
        batch_size: Images in a batch.
        repeats: Samples of each candidate.
        max_seconds: Stop sampling after about this long, shared out between the candidates; each
            still gets 3 samples. None for no limit.
        sentinel_ms: Scale all results to a machine on which the sentinel takes this long, so that
            calls at different times agree; None for what it takes in this call.
        seed: Seed of the order of the candidates in each pass.
        progress: Called with the number of candidates done and of all.

    Returns:
        One record for each candidate, in the same order.

    Raises:
        ConfigError: If a number is not above 0.
        MeasurementError: If a candidate cannot be loaded or run on the target.
        MissingExtraError: If the target's runtime is not installed.
    """
    for name, count in (("batch_size", batch_size), ("repeats", repeats)):
        if count < 1:
            raise ConfigError(f"{name} {count} is not at least 1")
    if sentinel_ms is not None and not sentinel_ms > 0:
        raise ConfigError(f"sentinel_ms {sentinel_ms} is not above 0")
    if not candidates:
        return []
    target, order = target or OrtCpu(), random.Random(seed)
    sampler = target if isinstance(target, SshOrt) else _Here(target)
    raw_sentinels_ms: list[float] = []
    measured: list[tuple[Samples, _Pace]] = []
    for start in range(0, len(candidates), _GROUP_SIZE):
        group = candidates[start : start + _GROUP_SIZE]
        sentinel, *found = sampler.sample_group(
            [SENTINEL, *group],
            batch_size=batch_size,
            repeats=repeats,
            max_seconds=None if max_seconds is None else max_seconds * len(group) / len(candidates),
            seed=order.getrandbits(32),
        )
        raw_sentinels_ms += sentinel.times_ms
        pace = _Pace(sentinel, found)
        measured += [(samples, pace) for samples in found]
        if progress is not None:
            progress(len(measured), len(candidates))
    conditions = _Conditions(
        target=target,
        hardware=target.hardware,
        batch_size=batch_size,
        sentinel_ms=statistics.median(pace.sentinel_ms for _, pace in measured),
        sentinel_spread=_percentile(raw_sentinels_ms, 90) / _percentile(raw_sentinels_ms, 10),
    )
    baseline_ms = conditions.sentinel_ms if sentinel_ms is None else sentinel_ms
    return [
        conditions.record(
            candidate,
            [value * baseline_ms / pace.sentinel_ms for value in pace.steady_ms(samples)],
            samples.disturbed,
        )
        for candidate, (samples, pace) in zip(candidates, measured, strict=True)
    ]


class _Here:
    """Samples groups of candidates in this process, next to one sentinel."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target
        self.sentinel: Subject | None = None

    def sample_group(
        self,
        candidates: Sequence[Candidate],
        *,
        batch_size: int,
        repeats: int,
        max_seconds: float | None,
        seed: int,
    ) -> list[Samples]:
        """Return the samples of each candidate; the first is the sentinel of the others."""
        with self.target.pinned():
            if self.sentinel is None:
                self.sentinel = self._load(candidates[0], batch_size)
            self.sentinel.samples = []
            subjects = [self._load(candidate, batch_size) for candidate in candidates[1:]]
            sample_passes(
                subjects,
                self.sentinel,
                random.Random(seed),
                repeats=repeats,
                max_seconds=max_seconds,
                watch=self.target.on_calling_thread,
            )
        return [
            Samples(samples=tuple(subject.samples), disturbed=subject.disturbed)
            for subject in (self.sentinel, *subjects)
        ]

    def _load(self, candidate: Candidate, batch_size: int) -> Subject:
        """Load a candidate and run it until its time is stable."""
        try:
            subject = Subject(run=self.target.prepare(candidate, batch_size))
            subject.warm_up()
        except OnceForAllError:
            raise
        except Exception as error:  # runtimes have kinds of their own, which share no root
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MeasurementError(
                f"{self.target.name} cannot run {candidate.name!r}: {reason}"
            ) from error
        return subject


class _Pace:
    """How slow the machine was while a group was sampled, seen by all that ran.

    Samples are relative to the lower quartile of their own network's: what disturbs only ever
    slows, and may do so for more than half of the time.
    """

    def __init__(self, sentinel: Samples, others: Sequence[Samples]) -> None:
        seen: list[tuple[float, float]] = []
        for samples in (sentinel, *others):
            usual_ms = _percentile(samples.times_ms, 25)
            seen += [(moment, value / usual_ms) for moment, value in samples.samples]
        seen.sort()
        self.moments = [moment for moment, _ in seen]
        self.slowness = [slowness for _, slowness in seen]
        # Only what was disturbed least: the sentinel is not slowed as networks are.
        quiet = sorted((self._at(moment), value) for moment, value in sentinel.samples)
        quiet = quiet[: max(_MIN_QUIET, len(quiet) // 3)]
        self.sentinel_ms = statistics.median(value / slowness for slowness, value in quiet)

    def steady_ms(self, samples: Samples) -> list[float]:
        """Return the samples of a network as on a machine that is not disturbed."""
        return [value / self._at(moment) for moment, value in samples.samples]

    def _at(self, moment: float) -> float:
        place = bisect.bisect(self.moments, moment)
        return statistics.median(self.slowness[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditions:
    """What the networks of one call have in common."""

    target: Target
    hardware: Hardware
    batch_size: int
    sentinel_ms: float
    sentinel_spread: float

    def record(self, candidate: Candidate, values: Sequence[float], disturbed: int) -> Latency:
        """Return the record of one network."""
        median = statistics.median(values)
        return Latency(
            name=candidate.name,
            latency_ms=median,
            latency_mad_ms=statistics.median(abs(value - median) for value in values),
            latency_p90_ms=_percentile(values, 90),
            repeats=len(values),
            disturbed=disturbed,
            sentinel_ms=self.sentinel_ms,
            sentinel_spread=self.sentinel_spread,
            batch_size=self.batch_size,
            resolution=candidate.resolution,
            target=self.target.name,
            threads=self.target.threads,
            hardware=self.hardware,
        )


def _percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated between neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
