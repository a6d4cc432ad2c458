"""What is measured, and on what: candidates, facts about hardware, targets of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from onceforall.errors import MeasurementError
from onceforall.measure.onnx.model import blueprint_to_onnx, input_channels
from onceforall.supernets.nets import NetPlan, PlainNet

# Runs a candidate once and returns the milliseconds that it took.
Runner = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network whose latency is wanted.

    Attributes:
        plan: The network; it may be a part of a network. None of an ONNX file that nothing else is
            known of.
        resolution: Side of the square input, in pixels.
        name: What to call it in the results.
        weights: Its weights; None for fixed random ones, which take the same time.
        onnx: The very ONNX file to measure (ONNX targets only); None writes it from the plan.
        channels: Channels of the input, where there is no plan.
    """

    plan: NetPlan | None
    resolution: int
    name: str = ""
    weights: PlainNet | None = None
    onnx: bytes | None = None
    channels: int = 3

    @property
    def known_plan(self) -> NetPlan:
        """Return the network.

        Raises:
            MeasurementError: If there is none.
        """
        if self.plan is None:
            raise MeasurementError(f"{self.name} is an ONNX file: only ONNX targets can run it")
        return self.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Where a latency was measured.

    Attributes:
        device: Model name of the processor or accelerator.
        cores: Logical processors that this process may use.
        runtime: Runtime and its version, e.g. ``onnxruntime 1.23.0``.
        system: Operating system and its version.
    """

    device: str
    cores: int
    runtime: str
    system: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hardware:
        """Return what :meth:`to_json` wrote."""
        return cls(
            device=str(value["device"]),
            cores=int(value["cores"]),
            runtime=str(value["runtime"]),
            system=str(value["system"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What was measured of one candidate.

    Attributes:
        samples: Moment in seconds (of the machine's clock) and milliseconds of each sample.
        disturbed: Samples during which the system took the processor away.
    """

    samples: tuple[tuple[float, float], ...]
    disturbed: int

    @property
    def times_ms(self) -> list[float]:
        """Return the milliseconds of each sample."""
        return [value for _, value in self.samples]


class LocalTarget(Protocol):
    """A runtime on this machine."""

    @property
    def name(self) -> str:
        """Name in records and on the command line."""

    @property
    def threads(self) -> int:
        """Processor threads that a run may use."""

    @property
    def hardware(self) -> Hardware:
        """Facts about the device and the runtime."""

    @property
    def on_calling_thread(self) -> bool:
        """Whether a run spends its time on the thread that starts it, and on no other."""

    def pinned(self) -> AbstractContextManager[None]:
        """Hold the runtime's settings while candidates run; restore them afterwards."""

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        """Load a candidate and return its runner."""


def candidate_onnx(candidate: Candidate, batch_size: int) -> bytes:
    """Return the ONNX file to measure: the candidate's own, or one of its plan."""
    if candidate.onnx is not None:
        return candidate.onnx
    return blueprint_to_onnx(
        candidate.known_plan,
        candidate.weights,
        resolution=candidate.resolution,
        batch_size=batch_size,
    )


def input_shape(candidate: Candidate, batch_size: int) -> tuple[int, int, int, int]:
    """Return the shape ``(B, C, H, W)`` of a batch."""
    side, plan = candidate.resolution, candidate.plan
    channels = candidate.channels if plan is None else input_channels(plan)
    return batch_size, channels, side, side
