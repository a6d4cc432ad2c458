"""What latency is measured on: one small plugin for each runtime.

A target prepares a candidate once and gives back a function that runs it once and returns the
milliseconds it took. Adding a runtime of this machine is adding one class here with the members of
``LocalTarget`` (`candidate.py`), and its name to ``make_target``. Another machine takes samples by
itself: see ``SshOrt.sample_group`` (`ssh.py`), which `measure.py` asks instead.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onceforall.errors import ConfigError, MeasurementError
from onceforall.measure.latency.candidate import (
    Candidate,
    Hardware,
    LocalTarget,
    Runner,
    candidate_onnx,
    input_shape,
)
from onceforall.measure.latency.ssh import SSH_PREFIX, SshOrt
from onceforall.measure.latency.worker import cores, cpu_name, ort_runner
from onceforall.measure.onnx.model import import_extra
from onceforall.supernets.nets import build_net

_CUDA = "torch-cuda"

# Candidates and hardware are used wherever targets are: their names are here too.
__all__ = [
    "TARGETS",
    "Candidate",
    "Hardware",
    "OpenVino",
    "OrtCpu",
    "Runner",
    "SshOrt",
    "Target",
    "TorchCpu",
    "TorchCuda",
    "make_target",
]


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
        runtime = import_extra("onnxruntime", "onnx")
        model, images = candidate_onnx(candidate, batch_size), _images(candidate, batch_size)
        return ort_runner(runtime, model, images, self.threads)


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
    """PyTorch, eager, on a CUDA device; timed by events on its stream.

    Attributes:
        index: Which device; None for the current one, which is that of this process's rank.
    """

    threads: int = 1
    index: int | None = None

    @property
    def name(self) -> str:
        """Return the name that :func:`make_target` takes."""
        return _CUDA if self.index is None else f"{_CUDA}:{self.index}"

    @property
    def hardware(self) -> Hardware:
        """Return facts about the device and the runtime."""
        device = self._device()
        host = _cpu(f"torch {torch.__version__}")
        return Hardware(
            device=torch.cuda.get_device_name(device),
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
        device = self._device()
        # A copy: the candidate's own weights stay where they are.
        plain = build_net(candidate.known_plan)
        if candidate.weights is not None:
            plain.load_state_dict(candidate.weights.state_dict())
        module = plain.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.from_numpy(_images(candidate, batch_size)).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

        @torch.inference_mode()
        def run() -> float:
            # Both events on the stream that the network runs on: it may not be the current one's.
            stream = torch.cuda.current_stream(device)
            torch.cuda.synchronize(device)
            start.record(stream)
            module(images)
            end.record(stream)
            end.synchronize()
            return float(start.elapsed_time(end))

        return run

    def _device(self) -> torch.device:
        """Return the device.

        Raises:
            MeasurementError: If there is no such device here.
        """
        if not torch.cuda.is_available():
            raise MeasurementError(f"target {self.name}: PyTorch sees no CUDA device here")
        index, count = self.index, torch.cuda.device_count()
        if index is not None and index >= count:
            raise MeasurementError(f"target {self.name}: there are {count} CUDA devices, from 0")
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)


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
        model = core.read_model(candidate_onnx(candidate, batch_size), b"")
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        feed = {0: _images(candidate, batch_size)}  # files of others call their input otherwise
        request.infer(feed)  # the input tensor stays set

        def run() -> float:
            start = time.perf_counter()
            request.infer()
            return (time.perf_counter() - start) * 1e3

        return run


# Anywhere that latency is measured.
Target = LocalTarget | SshOrt

TARGETS: Mapping[str, Callable[[int], LocalTarget]] = {
    "ort-cpu": lambda threads: OrtCpu(threads=threads),
    "torch-cpu": lambda threads: TorchCpu(threads=threads),
    _CUDA: lambda threads: TorchCuda(threads=threads),
    "openvino": lambda threads: OpenVino(threads=threads),
}


def make_target(name: str, *, threads: int = 1) -> Target:
    """Return the target of a name.

    Args:
        name: One of ``TARGETS``, one GPU of several such as ``torch-cuda:1``, or
            ``ssh:USER@HOST``.
        threads: Processor threads of a run.

    Raises:
        ConfigError: If there is no such target, or ``threads`` is below 1 or means nothing to it.
    """
    if threads < 1:
        raise ConfigError(f"threads {threads} is not at least 1")
    if threads != 1 and name.startswith("torch-cuda"):
        raise ConfigError(f"threads {threads} are of a processor, {name} measures a GPU")
    if name.startswith(SSH_PREFIX):
        return SshOrt(host=name.removeprefix(SSH_PREFIX), threads=threads)
    if "/" in name:  # it is part of the name of a file
        raise ConfigError(f"latency target {name!r} has a /")
    index = name.removeprefix(f"{_CUDA}:")
    if index != name and index.isdecimal():
        return TorchCuda(threads=threads, index=int(index))
    if name not in TARGETS:
        allowed = ", ".join([*TARGETS, f"{_CUDA}:N", f"{SSH_PREFIX}USER@HOST"])
        raise ConfigError(f"latency target {name!r} is not one of {allowed}")
    return TARGETS[name](threads)


def _module(candidate: Candidate) -> torch.nn.Module:
    """Return a copy of the network in eval mode, with the same random weights where it has none."""
    if candidate.weights is not None:
        return copy.deepcopy(candidate.weights).eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build_net(candidate.known_plan).eval()


def _images(candidate: Candidate, batch_size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = input_shape(candidate, batch_size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _cpu(runtime: str) -> Hardware:
    return Hardware(
        device=cpu_name(), cores=cores(), runtime=runtime, system=platform.platform(terse=True)
    )


def _version(package: str) -> str:
    import_extra(package, "onnx" if package == "onnxruntime" else package)
    return importlib.metadata.version(package)
