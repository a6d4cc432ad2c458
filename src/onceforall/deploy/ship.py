"""From a plain network to a model folder: exported, proven, measured, described."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.artifacts import Card
from onceforall.data.bundle import DataBundle, Rgb
from onceforall.deploy.model_folder import (
    check_plain_files,
    export_files,
    finished_or_removed,
    write_card,
)
from onceforall.errors import ConfigError
from onceforall.measure.accuracy import evaluate
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from onceforall.measure.latency.measure import Latency, measure_latency
from onceforall.measure.latency.targets import Candidate, make_target
from onceforall.measure.proportion import Share
from onceforall.supernets.nets import NetPlan, PlainNet
from onceforall.supernets.weights import load_plain
from onceforall.versions import versions

_CHECK_IMAGES = 16
_REPEATS = 40


def ship(
    model: PlainNet,
    out: str | Path,
    *,
    arch: Arch,
    test: Iterable[tuple[Tensor, Tensor]],
    classes: Sequence[str] | None = None,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    crop_ratio: float | None = None,
    data: str | DataBundle = "",
    target: str = "ort-cpu",
    threads: int = 1,
) -> Card:
    """Write a plain network as a model folder, prove its files, measure it, and return its card.

    Args:
        model: Network in eval mode with batch-norm statistics of its own (``ofa.specialize``).
        out: Folder to write; there must be no model in it.
        arch: The subnet that it is.
        test: Normalised image batches ``(B, 3, R, R)`` and labels ``(B,)`` to report top-1 on.
        classes: Class names in the order of the logits; by default the data set's, or numbers.
        mean: Mean of each channel, of images in [0, 1], that was taken off ``test``. Who loads
            the model prepares images with it.
        std: Standard deviation that they were then divided by.
        crop_ratio: Share of the side that evaluation shows; by default the data set's, or 1.
        data: The open data set (``ofa.open_dataset``; ``ofa.train`` returns it as ``bundle``),
            which knows its classes, mean and deviation; or just its name.
        target: What latency is measured on.
        threads: Threads of a run.

    Raises:
        ConfigError: If there is a model already, or no test image, or if nothing says what mean
            and deviation images have.
        VerificationError: If the files compute something else; nothing is left of them then.
    """
    folder, batches = Path(out), iter(test)
    if (folder / "card.json").is_file():
        raise ConfigError(f"{folder} holds a model already")
    if isinstance(data, DataBundle):
        classes = data.class_names if classes is None else classes
        mean, std = mean or data.mean, std or data.std
        crop_ratio, data = crop_ratio or data.eval_crop_ratio, data.name
    if mean is None or std is None:
        raise ConfigError(
            "mean and std, that images are normalised by, are not said: give both, or data, the "
            "open data set"
        )
    first = next(batches, None)
    if first is None:
        raise ConfigError("test has no batch: top-1 cannot be measured")
    seen = [first]
    while sum(len(images) for images, _ in seen) < 2 and (batch := next(batches, None)):
        seen.append(batch)  # of a single image nobody can tell whether logits depend on it
    compared = torch.cat([images for images, _ in seen])[:_CHECK_IMAGES].cpu()
    host = copy.deepcopy(model).cpu()
    count = model.plan.num_classes
    names = [str(name) for name in (range(count) if classes is None else classes)]
    if len(names) != count:
        raise ConfigError(f"{len(names)} classes are named, the network has {count}")
    with finished_or_removed(folder):
        export_files(folder, host, model.plan, arch)
        checks = check_plain_files(folder, host, images=compared)
        facts = measured_facts(model, arch, itertools.chain(seen, batches))
        (latency,) = measure_latency(
            [as_shipped(model.plan, folder, arch)],
            target=make_target(target, threads=threads),
            repeats=_REPEATS,
        )
        about = {"data": data, "classes": tuple(names), "mean": mean, "std": std}
        facts |= {"name": folder.name, "crop_ratio": crop_ratio or 1.0, **about}
        return write_card(folder, model.plan, checks, facts | latency_facts(latency))


def as_shipped(plan: NetPlan, folder: Path, arch: Arch) -> Candidate:
    """Return the files of a model as what is measured, just as who loads them has them."""
    return Candidate(
        plan=plan,
        resolution=arch.resolution,
        name=folder.name,
        weights=load_plain(plan, folder / "model.safetensors"),
        onnx=(folder / "model.onnx").read_bytes(),
    )


@torch.no_grad()
def measured_facts(
    model: PlainNet, arch: Arch, test: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Return what a card says of a network, measured where it and the images are."""
    accuracy = evaluate(model, test)
    plan = model.plan
    return {
        "arch": arch,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "top1_interval": Share(value=accuracy.top1, count=accuracy.images).interval,
        "images": accuracy.images,
        "macs": count_macs(plan, resolution=arch.resolution),
        "params": count_params(plan),
        "peak_activation_bytes": peak_activation_bytes(plan, resolution=arch.resolution),
        "resolution": arch.resolution,
        "versions": versions(),
    }


def latency_facts(latency: Latency) -> dict[str, Any]:
    """Return what a card says of a latency."""
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
