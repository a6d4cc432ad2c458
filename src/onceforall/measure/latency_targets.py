"""What latency is measured on: one small plugin for each runtime.

A target prepares a candidate once and gives back a function that runs it once and returns the
milliseconds it took. Adding a runtime is adding one class with the members of ``Target``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from onceforall.blueprint import Blueprint
from onceforall.errors import ConfigError, MeasurementError
from onceforall.measure.onnx_model import (
    INPUT_NAME,
    OUTPUT_NAME,
    blueprint_to_onnx,
    import_extra,
    input_channels,
    ort_session,
)
from onceforall.supernets.static import StaticNet, build

# Runs a candidate once and returns the milliseconds that it took.
Runner = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network whose latency is wanted.

    Attributes:
        plan: Blueprint; it may be a part of a network.
        resolution: Side of the square input, in pixels.
        name: What to call it in the results.
        weights: Its weights; None for fixed random ones, which take the same time.
        onnx: The very ONNX file to measure (ONNX targets only); None writes it from the plan.
    """

    plan: Blueprint
    resolution: int
    name: str = ""
    weights: StaticNet | None = None
    onnx: bytes | None = None


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


class Target(Protocol):
    """A runtime on a device."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtCpu:
    """ONNX Runtime on this processor: what ships, and the default."""

    threads: int = 1
    name: str = "ort-cpu"

    @property
    def hardware(self) -> Hardware:
        """Return facts about this processor and the runtime."""
        return _cpu(f"onnxruntime {_version('onnxruntime')}")

    @property
    def on_calling_thread(self) -> bool:
        """Return whether there is one thread: it is the caller's."""
        return self.threads == 1

    def pinned(self) -> AbstractContextManager[None]:
        """Do nothing: every session has its own threads."""
        return contextlib.nullcontext()

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        """Load a candidate into a session whose input stays bound."""
        session = ort_session(_onnx(candidate, batch_size), threads=self.threads)
        binding = session.io_binding()
        binding.bind_cpu_input(INPUT_NAME, _images(candidate, batch_size))
        binding.bind_output(OUTPUT_NAME)

        def run() -> float:
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            return (time.perf_counter() - start) * 1e3

        return run


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCpu:
    """PyTorch, eager, on this processor."""

    threads: int = 1
    name: str = "torch-cpu"

    @property
    def hardware(self) -> Hardware:
        """Return facts about this processor and the runtime."""
        return _cpu(f"torch {torch.__version__}")

    @property
    def on_calling_thread(self) -> bool:
        """Return whether there is one thread: it is the caller's."""
        return self.threads == 1

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Hold the number of threads."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        """Build the plain network."""
        module = _module(candidate)
        images = torch.from_numpy(_images(candidate, batch_size))

        @torch.inference_mode()
        def run() -> float:
            start = time.perf_counter()
            module(images)
            return (time.perf_counter() - start) * 1e3

        return run


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCuda:
    """PyTorch, eager, on the current CUDA device; timed by events on its stream."""

    threads: int = 1
    name: str = "torch-cuda"

    @property
    def hardware(self) -> Hardware:
        """Return facts about the device and the runtime."""
        self._check()
        host = _cpu(f"torch {torch.__version__}")
        return Hardware(
            device=torch.cuda.get_device_name(),
            cores=host.cores,
            runtime=host.runtime,
            system=host.system,
        )

    @property
    def on_calling_thread(self) -> bool:
        """Return False: the time is the device's."""
        return False

    def pinned(self) -> AbstractContextManager[None]:
        """Do nothing: the device has no setting of ours."""
        return contextlib.nullcontext()

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        """Build the plain network on the device."""
        self._check()
        # A copy: the candidate's own weights stay where they are.
        plain = build(candidate.plan)
        if candidate.weights is not None:
            plain.load_state_dict(candidate.weights.state_dict())
        module = plain.eval().to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.from_numpy(_images(candidate, batch_size)).to("cuda")
        images = images.contiguous(memory_format=torch.channels_last)
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

        @torch.inference_mode()
        def run() -> float:
            torch.cuda.synchronize()
            start.record()
            module(images)
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return run

    def _check(self) -> None:
        if not torch.cuda.is_available():
            raise MeasurementError("target torch-cuda: PyTorch sees no CUDA device here")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVino:
    """OpenVINO on this processor."""

    threads: int = 1
    name: str = "openvino"

    @property
    def hardware(self) -> Hardware:
        """Return facts about this processor and the runtime."""
        import_extra("openvino", "openvino")
        return _cpu(f"openvino {_version('openvino')}")

    @property
    def on_calling_thread(self) -> bool:
        """Return False: the runtime has threads of its own."""
        return False

    def pinned(self) -> AbstractContextManager[None]:
        """Do nothing: every compiled model has its own threads."""
        return contextlib.nullcontext()

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        """Compile the ONNX model."""
        core = import_extra("openvino", "openvino").Core()
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # Some processors would silently get bfloat16: another network than the one exported.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = core.read_model(_onnx(candidate, batch_size), b"")
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        feed = {INPUT_NAME: _images(candidate, batch_size)}
        request.infer(feed)  # the input tensor stays set

        def run() -> float:
            start = time.perf_counter()
            request.infer()
            return (time.perf_counter() - start) * 1e3

        return run


TARGETS: Mapping[str, Callable[[int], Target]] = {
    "ort-cpu": lambda threads: OrtCpu(threads=threads),
    "torch-cpu": lambda threads: TorchCpu(threads=threads),
    "torch-cuda": lambda threads: TorchCuda(threads=threads),
    "openvino": lambda threads: OpenVino(threads=threads),
}


def make_target(name: str, *, threads: int = 1) -> Target:
    """Return the target called ``name``.

    Raises:
        ConfigError: If there is no such target, or ``threads`` is below 1.
    """
    if name not in TARGETS:
        raise ConfigError(f"latency target {name!r} is not one of {', '.join(TARGETS)}")
    if threads < 1:
        raise ConfigError(f"threads {threads} is not at least 1")
    return TARGETS[name](threads)


def _onnx(candidate: Candidate, batch_size: int) -> bytes:
    if candidate.onnx is not None:
        return candidate.onnx
    return blueprint_to_onnx(
        candidate.plan,
        candidate.weights,
        resolution=candidate.resolution,
        batch_size=batch_size,
    )


def _module(candidate: Candidate) -> torch.nn.Module:
    return build(candidate.plan).eval() if candidate.weights is None else candidate.weights


def _images(candidate: Candidate, batch_size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    side = candidate.resolution
    shape = (batch_size, input_channels(candidate.plan), side, side)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _cpu(runtime: str) -> Hardware:
    return Hardware(
        device=_cpu_name(), cores=_cores(), runtime=runtime, system=platform.platform(terse=True)
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _version(package: str) -> str:
    import_extra(package, "onnx" if package == "onnxruntime" else package)
    return importlib.metadata.version(package)
