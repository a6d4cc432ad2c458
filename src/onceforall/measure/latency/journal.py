"""The journal of a latency model: what was measured, so that it is never measured again.

One JSON object a line: a header with the conditions, then blocks and whole networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from onceforall.arch import MAX_RESOLUTION, Arch
from onceforall.errors import ConfigError, MeasurementError
from onceforall.files import append_jsonl, damaged, read_jsonl, reason_of
from onceforall.measure.latency.measure import Latency, measure_latency
from onceforall.measure.latency.table import Entry, layer_from_json, layer_to_json
from onceforall.measure.latency.targets import Candidate, Target
from onceforall.reading import is_number

_MOST_MS = 1e9


class NetworkTime(NamedTuple):
    """What a journal knows of one network.

    Attributes:
        latency_ms: Median milliseconds.
        standard_error_ms: Of that.
        sentinel_ms: Of the sentinel in the same call: networks that share it were measured
            side by side.
    """

    latency_ms: float
    standard_error_ms: float
    sentinel_ms: float


@dataclass(slots=True, kw_only=True)
class Journal:
    """A journal and what is in it."""

    path: Path
    target: Target
    batch_size: int
    repeats: int
    sentinel_ms: float | None = None
    blocks: dict[Entry, float] = field(default_factory=dict)
    networks: dict[Arch, NetworkTime] = field(default_factory=dict)
    progress: Callable[[int, int], None] | None = None
    total: int = 0

    @classmethod
    def open(cls, path: Path, *, target: Target, batch_size: int, repeats: int) -> Journal:
        """Read the journal; a missing one is empty."""
        journal = cls(path=path, target=target, batch_size=batch_size, repeats=repeats)
        try:
            for line in read_jsonl(path):
                journal._read(line)
        except (KeyError, TypeError, ValueError, MeasurementError) as error:
            if isinstance(error, ConfigError):
                raise
            what = f"no {error}" if isinstance(error, KeyError) else reason_of(error)
            raise damaged(path, what) from error
        return journal

    def _read(self, line: Mapping[str, Any]) -> None:
        """Take in one line.

        Raises:
            ConfigError: If it is a header of other conditions.
        """
        if line["kind"] == "header":
            for name, value in self.conditions().items():
                if line[name] != value:
                    raise ConfigError(
                        f"{self.path} was measured with {name} {line[name]!r}, not {value!r}: "
                        "give another journal or delete it"
                    )
            self.sentinel_ms = _ms(line["sentinel_ms"])
        elif line["kind"] == "block":
            entry = layer_from_json(line["layer"]), _pixels(line["size"])
            self.blocks[entry] = _ms(line["latency_ms"])
        else:
            self.networks[Arch.from_json(line["arch"])] = NetworkTime(
                *(_ms(line[name]) for name in NetworkTime._fields)
            )

    def measure_blocks(
        self, entries: Sequence[Entry], candidates: Sequence[Candidate], seconds: float
    ) -> None:
        """Measure blocks and write them down."""
        records = self._measure(candidates, seconds)
        for entry, record in zip(entries, records, strict=True):
            self.blocks[entry] = record.latency_ms
            named = {"kind": "block", "layer": layer_to_json(entry[0]), "size": entry[1]}
            append_jsonl(self.path, named | _figures(record))
        self._report()

    def measure_networks(
        self, archs: Sequence[Arch], candidates: Sequence[Candidate], seconds: float
    ) -> None:
        """Measure whole networks and write them down."""
        records = self._measure(candidates, seconds)
        for arch, record in zip(archs, records, strict=True):
            self.networks[arch] = NetworkTime(
                record.latency_ms, record.standard_error_ms, record.sentinel_ms
            )
            append_jsonl(self.path, {"kind": "network", "arch": arch.to_json()} | _figures(record))
        self._report()

    def _measure(self, candidates: Sequence[Candidate], seconds: float) -> list[Latency]:
        records = measure_latency(
            candidates,
            target=self.target,
            batch_size=self.batch_size,
            repeats=self.repeats,
            max_seconds=seconds,
            sentinel_ms=self.sentinel_ms,
        )
        if self.sentinel_ms is None:
            # The first call sets the pace that all later ones are scaled to.
            self.sentinel_ms = records[0].sentinel_ms
            header = {"kind": "header", "sentinel_ms": self.sentinel_ms}
            append_jsonl(self.path, header | self.conditions())
        return records

    def conditions(self) -> dict[str, Any]:
        """Return what all measurements of a journal have in common."""
        return {
            "target": self.target.name,
            "threads": self.target.threads,
            "batch_size": self.batch_size,
            "hardware": self.target.hardware.to_json(),
        }

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(len(self.blocks) + len(self.networks), self.total)


def _ms(value: Any) -> float:
    if not is_number(value, 0, _MOST_MS):
        raise ValueError(f"{value!r} is not a number of milliseconds")
    return float(value)


def _pixels(value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_RESOLUTION:
        raise ValueError(f"{value!r} is not a number of pixels")
    return value


def _figures(record: Latency) -> dict[str, Any]:
    return {
        "latency_ms": record.latency_ms,
        "standard_error_ms": record.standard_error_ms,
        "repeats": record.repeats,
        "sentinel_ms": record.sentinel_ms,
    }
