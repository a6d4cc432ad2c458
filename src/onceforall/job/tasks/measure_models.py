"""The latency of models and ONNX files, measured side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onceforall.deploy.model_folder import model_folders, read_model
from onceforall.deploy.ship import as_shipped
from onceforall.errors import ConfigError
from onceforall.measure.latency.candidate import Candidate
from onceforall.measure.latency.repeated import Repeated, measure_repeatedly
from onceforall.measure.latency.targets import make_target
from onceforall.measure.onnx.model import import_extra, ort_session
from onceforall.reading import MAX_BINARY_BYTES, named, read_bounded


def measure_models(
    paths: Sequence[Path],
    *,
    target: str,
    threads: int,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Repeated]:
    """Measure model folders, all models of runs, and ONNX files, in turns.

    Args:
        paths: What to measure.
        target: Name of the target; ONNX files run on those that take them.
        threads: Threads of a run.
        rounds: Measurements that the stated spread comes from.
        progress: Told the rounds done and of all.

    Raises:
        ConfigError: If something is neither, or an ONNX file takes no batch of one square image.
        MeasurementError: If the target cannot run one.
        VerificationError: If a file of a model was changed since it shipped.
    """
    where = make_target(target, threads=threads)
    found = [pair for path in paths for pair in _candidates(path)]
    times = Counter(candidate.name for _, candidate in found)
    candidates = [  # models of two runs may be called alike
        candidate if times[candidate.name] == 1 else replace(candidate, name=str(path))
        for path, candidate in found
    ]
    return measure_repeatedly(candidates, target=where, rounds=rounds, progress=progress)


def measured_line(found: Repeated) -> str:
    """Return for example ``net01: 0.0223 +- 0.0008 ms (5 rounds, ...)``."""
    one = found.rounds[0]
    plural = "" if one.threads == 1 else "s"
    spread = f"{found.spread_ms:.2g}"
    return (
        f"{one.name}: {found.latency_ms:.3g} +- {spread} ms ({len(found.rounds)} rounds, "
        f"{found.low_ms:.3g} to {found.high_ms:.3g}; {one.target}, {one.threads} thread{plural}, "
        f"{one.hardware.device})"
    )


def _candidates(path: Path) -> list[tuple[Path, Candidate]]:
    if path.is_dir():
        return [(folder, _shipped(folder)) for folder in model_folders(path)]
    return [(path, _onnx_file(path))]


def _shipped(folder: Path) -> Candidate:
    card, model = read_model(folder)
    return as_shipped(model.plan, folder, card.arch)


def _onnx_file(path: Path) -> Candidate:
    data = read_bounded(named(path), MAX_BINARY_BYTES)
    import_extra("onnxruntime", "onnx")
    try:
        inputs: list[Any] = ort_session(data).get_inputs()
    except Exception as error:  # the runtime's own kinds, which share no root
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is no ONNX file that runs: {said}") from error
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or inputs[0].type != "tensor(float)":
        raise ConfigError(f"{path} takes something else than one batch of float32 images")
    batch, channels, height, width = shape
    if height != width or not (isinstance(height, int) and isinstance(channels, int)):
        raise ConfigError(f"{path} takes images {channels} x {height} x {width}: no fixed square")
    if isinstance(batch, int) and batch != 1:
        raise ConfigError(f"{path} takes batches of {batch} images, not of one")
    return Candidate(plan=None, resolution=height, channels=channels, name=path.name, onnx=data)
