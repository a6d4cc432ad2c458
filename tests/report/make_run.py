"""A run folder as the whole job leaves it, made up in a moment: for tests of what reads one."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from onceforall.arch import Arch
from onceforall.artifacts import Evaluation
from onceforall.blueprint import Layer
from onceforall.files import append_jsonl, write_json, write_text
from onceforall.measure.costs import (
    count_macs,
    count_params,
    layer_macs,
    peak_activation_bytes,
)
from onceforall.measure.latency.fit import FEATURES, LatencyReport
from onceforall.measure.latency.model import LatencyModel
from onceforall.measure.latency.table import space_entries
from onceforall.measure.latency.targets import Hardware
from onceforall.records import record_to_json
from onceforall.supernets.families import small_images
from onceforall.supernets.spec import SupernetSpec

CLASSES = tuple(str(digit) for digit in range(10))
STEPS = ("train", "evaluate", "predictor", "latency", "search", "models")
CPU = "Example CPU @ 2.50GHz"
HARDWARE = {"device": CPU, "cores": 8, "runtime": "onnxruntime 1.23.0", "system": "Linux 6.1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What kind of run to make up.

    Attributes:
        num_models: Shipped models.
        num_samples: Evaluated subnets.
        num_front: Points of the predicted front.
        epochs: Epochs of training.
        generations: Generations of the search.
        classes: Names of the classes.
        data_name: Name of the data set.
        until: The last step that is done; ``models`` for a finished run.
        test_images: Images that the shipped models were tested on.
        spec: The supernet.
        seed: Seed of everything random.
    """

    num_models: int = 8
    num_samples: int = 120
    num_front: int = 40
    epochs: int = 40
    generations: int = 60
    classes: Sequence[str] = CLASSES
    data_name: str = "digits"
    until: str = "models"
    test_images: int = 360
    spec: SupernetSpec | None = None
    seed: int = 0


def make_run(folder: Path, story: Story | None = None) -> Path:
    """Write a run folder and return it."""
    story = story or Story()
    spec = story.spec or small_images(
        num_classes=len(story.classes), resolutions=(16, 24, 32), widths=(16, 32, 64)
    )
    rng = random.Random(story.seed)
    folder.mkdir(parents=True, exist_ok=True)
    done = STEPS[: STEPS.index(story.until) + 1] if story.until in STEPS else ()
    _write_settings(folder, story, spec)
    writers = {
        "train": _write_training,
        "evaluate": _write_evaluations,
        "predictor": _write_predictor,
        "latency": _write_latency,
        "search": _write_front,
        "models": _write_models,
    }
    for step in done:
        writers[step](folder, story, spec, rng)
        seconds = {"train": 512.3, "evaluate": 93.1, "latency": 31.2, "models": 12.8}
        event = {"event": "step_done", "step": step, "seconds": seconds.get(step, 2.4)}
        append_jsonl(folder / "events.jsonl", event)
    return folder


def true_top1(spec: SupernetSpec, arch: Arch) -> float:
    """Return the accuracy of an arch in the made-up world: rises with MACs, levels off."""
    size = math.log(_macs(spec, arch) / _macs(spec, spec.space.smallest))
    span = math.log(_macs(spec, spec.space.largest) / _macs(spec, spec.space.smallest))
    kernels = [k for stage, d in zip(arch.kernel_size, arch.depth, strict=True) for k in stage[:d]]
    taste = 0.004 * (sum(kernels) / len(kernels) - 5)
    return min(0.995, 0.985 - 0.11 * (1 - size / span) ** 2 + taste)


def latency_ms(spec: SupernetSpec, arch: Arch) -> float:
    """Return the latency of an arch in the made-up world."""
    return 0.08 + 0.02 * sum(arch.depth) + _macs(spec, arch) / 9e6


@cache
def _macs(spec: SupernetSpec, arch: Arch) -> int:
    return count_macs(spec.blueprint(arch), resolution=arch.resolution)


def _write_settings(folder: Path, story: Story, spec: SupernetSpec) -> None:
    settings = {
        "request": {"source": story.data_name, "flags": [], "seed": story.seed},
        "config": {
            "data": {"source": story.data_name, "num_valid": 270, "padding": 0.125},
            "train": {"plan": "sandwich", "epochs": story.epochs, "batch_size": 64},
            "search": {"population_size": 128, "generations": story.generations, "limits": {}},
        },
        "data": {
            "name": story.data_name,
            "classes": len(story.classes),
            "train": 1437,
            "test": story.test_images,
            "fingerprint": hashlib.sha256(story.data_name.encode()).hexdigest(),
        },
        "seed": story.seed,
        "space_size": float(spec.space.size),
        "versions": {"python": "3.11.2", "onceforall": "0.1.0", "torch": "2.15.0", "onnx": "1.23"},
        "hardware": {"system": "Linux-6.1-x86_64", "cpu_threads": 8, "gpu": None},
    }
    write_text(folder / "run.yaml", yaml.safe_dump(settings, sort_keys=False))


def _write_training(folder: Path, story: Story, spec: SupernetSpec, rng: random.Random) -> None:
    lines = []
    for epoch in range(1, story.epochs + 1):
        share = epoch / story.epochs
        event: dict[str, Any] = {
            "event": "epoch",
            "phase": "warm-up" if share <= 0.2 else "sandwich",
            "epochs_done": epoch,
            "epochs": story.epochs,
            "seconds": round(12.8 * epoch, 3),
            "loss": round(0.35 + 1.9 * math.exp(-5 * share) + rng.gauss(0, 0.01), 5),
            "top1": round(0.975 - 0.8 * math.exp(-6 * share) + rng.gauss(0, 0.004), 5),
            "images_per_s": 1120.5,
        }
        if epoch % max(1, story.epochs // 10) == 0 or epoch == story.epochs:
            event["probes"] = {
                "smallest": round(0.87 - 0.7 * math.exp(-5 * share), 5),
                "largest": round(0.98 - 0.6 * math.exp(-7 * share), 5),
            }
        lines.append(event)
        if epoch == story.epochs // 3:
            lines.append({"event": "rollback", "reason": "loss is nan", "step": 420})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(folder / "events.jsonl", text)
    write_json(folder / "checkpoints" / "supernet.json", {"spec": record_to_json(spec)})


def _write_evaluations(folder: Path, story: Story, spec: SupernetSpec, rng: random.Random) -> None:
    lines = []
    for _ in range(story.num_samples):
        arch = spec.space.sample(rng)
        top1 = true_top1(spec, arch) - abs(rng.gauss(0, 0.012))
        lines.append(evaluation(spec, arch, round(top1, 5)).to_json())
    write_text(folder / "evaluations.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def evaluation(spec: SupernetSpec, arch: Arch, top1: float) -> Evaluation:
    """Return what is written of a subnet that was measured."""
    return Evaluation(
        arch=arch,
        top1=top1,
        top5=1.0,
        loss=0.1,
        images=270,
        macs=_macs(spec, arch),
        resolution=arch.resolution,
    )


def _write_predictor(folder: Path, story: Story, spec: SupernetSpec, rng: random.Random) -> None:
    report = {
        "kendall_tau": 0.871,
        "rmse": 0.0062,
        "interval_coverage": 0.913,
        "interval_width": 0.021,
        "ridge_kendall_tau": 0.7,
        "ridge_rmse": 0.008,
        "mlp_share": 0.4,
        "num_train": story.num_samples * 4 // 5,
        "num_test": story.num_samples // 5,
    }
    write_json(folder / "predictor.json", {"format": "example", "report": report})


def _write_latency(folder: Path, story: Story, spec: SupernetSpec, rng: random.Random) -> None:
    sides = (spec.space.resolutions[0], spec.space.resolutions[-1])
    table: dict[Layer, dict[int, float]] = {}
    for layer, size in space_entries(spec, resolutions=sides):
        table.setdefault(layer, {})[size] = 0.02 + layer_macs(layer, size) / 9e6
    model = LatencyModel(
        target="ort-cpu",
        threads=1,
        batch_size=1,
        hardware=Hardware.from_json(HARDWARE),
        sentinel_ms=0.61,
        table=table,
        weights={name: float(name == "table_ms") for name in FEATURES},
        report=LatencyReport(
            kendall_tau=0.962,
            median_error=0.021,
            p90_error=0.058,
            noise=0.004,
            macs_kendall_tau=0.801,
            num_networks=120,
        ),
    )
    write_json(folder / "latency" / "ort-cpu-1t.json", model.to_json())


def front_archs(story: Story, spec: SupernetSpec, rng: random.Random) -> list[Arch]:
    """Return the best of many sampled archs, fastest first, both ends included."""
    pool = [spec.space.sample(rng) for _ in range(5 * story.num_front)]
    pool += [spec.space.smallest, spec.space.largest]
    pool.sort(key=lambda arch: latency_ms(spec, arch))
    front: list[Arch] = []
    for arch in pool:
        if not front or true_top1(spec, arch) > true_top1(spec, front[-1]):
            front.append(arch)
    step = max(1, math.ceil(len(front) / story.num_front))
    return [*front[:-1:step], front[-1]]


def _write_front(folder: Path, story: Story, spec: SupernetSpec, rng: random.Random) -> None:
    points = [
        {
            "arch": arch.to_json(),
            "predicted_top1": round(true_top1(spec, arch) + rng.gauss(0, 0.0015), 5),
            "cautious_top1": 0.5,
            "predicted_top1_std": round(0.004 + 0.003 * rng.random(), 5),
            "latency_ms": round(latency_ms(spec, arch), 5),
            "macs": _macs(spec, arch),
            "params": count_params(spec.blueprint(arch)),
        }
        for arch in front_archs(story, spec, rng)
    ]
    history = [round(0.82 * (1 - math.exp(-(g + 2) / 9)), 6) for g in range(story.generations)]
    front = {
        "objectives": ["error", "latency_ms", "macs"],
        "limits": {},
        "reference": [1.0, 9.0, 1e9],
        "points": points,
        "hypervolume": history,
        "evaluations": 128 * story.generations,
    }
    write_json(folder / "search" / "front.json", front)
    confirmed = [
        {
            **point,
            "predicted_latency_ms": point["latency_ms"],
            "latency_ms": point["latency_ms"] * (1 + rng.gauss(0, 0.02)),
            "valid_top1": round(point["predicted_top1"] + rng.gauss(0, 0.003), 5),
            "valid_loss": 0.1,
            "valid_images": 270,
        }
        for point in points[:: max(1, len(points) // (2 * story.num_models))]
    ]
    write_json(folder / "search" / "confirmed.json", {"points": confirmed})


def _write_models(folder: Path, story: Story, spec: SupernetSpec, rng: random.Random) -> None:
    points = json.loads((folder / "search" / "front.json").read_text())["points"]
    last = max(1, story.num_models - 1)
    chosen = [points[round(i * (len(points) - 1) / last)] for i in range(story.num_models)]
    for number, point in enumerate(chosen, 1):
        arch = Arch.from_json(point["arch"])
        name = f"net{number:02d}-{_macs(spec, arch) / 1e6:.1f}M-{arch.resolution}px"
        write_json(folder / "models" / name / "card.json", _card(name, point, story, spec, rng))


def _card(
    name: str, point: dict[str, Any], story: Story, spec: SupernetSpec, rng: random.Random
) -> dict[str, Any]:
    arch = Arch.from_json(point["arch"])
    plan = spec.blueprint(arch)
    measured = latency_ms(spec, arch) * (1 + rng.gauss(0, 0.02))
    correct = round((true_top1(spec, arch) + rng.gauss(0, 0.004)) * story.test_images)
    return {
        "arch": arch.to_json(),
        "top1": min(correct, story.test_images) / story.test_images,
        "top5": 0.9985,
        "images": story.test_images,
        "macs": _macs(spec, arch),
        "params": count_params(plan),
        "peak_activation_bytes": peak_activation_bytes(plan, resolution=arch.resolution),
        "resolution": arch.resolution,
        "data": story.data_name,
        "classes": list(story.classes),
        "mean": [0.3, 0.3, 0.3],
        "std": [0.2, 0.2, 0.2],
        "crop_ratio": 1.0,
        "versions": {},
        "latency_ms": measured,
        "latency_mad_ms": 0.02 * measured,
        "latency_p90_ms": 1.08 * measured,
        "target": {"name": "ort-cpu", "threads": 1, "hardware": HARDWARE},
        "predicted_top1": point["predicted_top1"],
        "predicted_top1_std": point["predicted_top1_std"],
        "predicted_latency_ms": point["latency_ms"],
        "valid_top1": point["predicted_top1"],
        "name": name,
        "files": {
            file: {"bytes": size, "sha256": hashlib.sha256((name + file).encode()).hexdigest()}
            for file, size in (
                ("model.onnx", 4 * count_params(plan) + 9000),
                ("model.safetensors", 4 * count_params(plan) + 3000),
                ("arch.json", 412),
            )
        },
        "checks": {
            "extracted_bitwise": True,
            "safetensors_bitwise": True,
            "onnx_relative_error": 1.4e-7,
            "depends_on_input": True,
        },
        "blueprint": record_to_json(plan),
    }
