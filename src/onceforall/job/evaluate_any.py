"""Accuracy of any network on any data: published, of a run, or exported."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.arch_files import read_arch
from onceforall.data import (
    DataBundle,
    EvalBatches,
    ImageArrays,
    Images,
    ResidentEvalBatches,
    StreamedEvalBatches,
    open_dataset,
)
from onceforall.data.sources.folder import OnBadImage
from onceforall.data.splits import stratified_sample
from onceforall.deploy.model_folder import read_model
from onceforall.deploy.specialize import specialize
from onceforall.errors import ConfigError
from onceforall.measure.accuracy import evaluate
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.static import StaticNet
from onceforall.supernets.supernet import Supernet
from onceforall.supernets.weights import load_saved_supernet
from onceforall.zoo import (
    Preprocessing,
    find_entry,
    load_config_net,
    load_proxylessnas,
    load_specialized,
    load_supernet,
)

_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """What to evaluate.

    Attributes:
        net: A published id or alias, a ``net.config`` JSON file, a folder of a shipped model, a
            run, or the ``supernet.safetensors`` of one.
        weights: File of weights; by default the official ones of a published id.
        arch: JSON file of the subnet to run, in our spelling or the published one.
        resolution: Input side in pixels; by default the network's own.
        seed: Seed of the subnet that is sampled where none is given.
        num_calibration: Training images for batch-norm recalibration of a subnet.
        mean: Per-channel mean that replaces the network's own; empty to keep it.
        std: Per-channel standard deviation, likewise.
    """

    net: str
    weights: Path | None = None
    arch: Path | None = None
    resolution: int | None = None
    seed: int = 0
    num_calibration: int = 2000
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A network to evaluate; a supernet still needs an arch and calibration."""

    net: StaticNet | Supernet
    preprocessing: Preprocessing | None


def evaluate_request(
    request: EvalRequest,
    source: str,
    *,
    root: Path | None = None,
    on_bad_image: OnBadImage = "refuse",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return ``{"top1", "top5", "images", "net", "arch", "resolution", "macs", "params"}``.

    Static networks are evaluated with their own statistics. A subnet of a supernet is extracted
    and recalibrated on training images of the data set; where it has none, on images without
    labels of the part that is evaluated, and ``"calibration"`` says so.

    Raises:
        ConfigError: If the network, arch or data set is not there or does not fit.
    """
    bundle = open_dataset(source, root=root, on_bad_image=on_bad_image, max_resident_bytes=0)
    subject = _subject(request)
    arch = _arch(request, subject.net)
    used = "its own"
    if isinstance(subject.net, Supernet):
        if arch is None:
            raise ConfigError(f"{request.net} is a supernet and needs an arch")
        plan = subject.net.blueprint(arch)
        resolution = request.resolution or arch.resolution
        images, used = _calibration_images(bundle, request.num_calibration, request.seed)
        batches = _batches(bundle, images, subject, request, resolution)
        model = specialize(
            subject.net, arch, calibration=(x for x, _ in batches.batches(resolution))
        )
    else:
        model, plan = subject.net, subject.net.plan
        own = subject.preprocessing
        resolution = request.resolution or (own.resolution if own else 224)
    if plan.num_classes != bundle.num_classes:
        raise ConfigError(
            f"{request.net} has {plan.num_classes} classes, {bundle.name} has "
            f"{bundle.num_classes}; a folder may list its classes in classes.txt"
        )
    test = _batches(bundle, bundle.test, subject, request, resolution)
    accuracy = evaluate(model.eval(), _shown(test, resolution, progress))
    return {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "images": accuracy.images,
        "net": request.net,
        "arch": None if arch is None else arch.to_json(),
        "resolution": resolution,
        "macs": count_macs(plan, resolution=resolution),
        "params": count_params(plan),
        "calibration": used,
    }


def _subject(request: EvalRequest) -> _Subject:
    """Return the network that a request names."""
    path = Path(request.net)
    weights = request.weights
    if (path / "card.json").is_file():
        card, model = read_model(path)
        return _Subject(net=model, preprocessing=_own(dict(card), card.resolution))
    saved = path / "checkpoints" / "supernet.safetensors" if path.is_dir() else path
    if saved.suffix == ".safetensors" or path.is_dir():
        net, facts = load_saved_supernet(saved)
        return _Subject(net=net, preprocessing=_own(facts, net.space.resolutions[-1]))
    if path.is_file() or path.suffix == ".json":
        if weights is None:
            raise ConfigError(f"{path} is a configuration: --weights FILE is needed with it")
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        loaded = load_config_net(path, weights)
        return _Subject(net=loaded.model, preprocessing=loaded.preprocessing)
    entry = find_entry(request.net)
    chosen: str | Path = weights or "official"
    if entry.kind == "supernet":
        return _Subject(net=load_supernet(entry.id, chosen), preprocessing=None)
    load = load_specialized if entry.kind == "specialized" else load_proxylessnas
    loaded = load(entry.id, chosen)
    return _Subject(net=loaded.model, preprocessing=loaded.preprocessing)


def _own(facts: dict[str, Any], resolution: int) -> Preprocessing:
    mean, std = facts["mean"], facts["std"]
    return Preprocessing(
        resolution=resolution,
        resize=round(resolution / facts["crop_ratio"]),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def _arch(request: EvalRequest, net: StaticNet | Supernet) -> Arch | None:
    """Return the arch to run: the given one, or one drawn with the seed."""
    if not isinstance(net, Supernet):
        if request.arch is not None:
            raise ConfigError(f"{request.net} is not a supernet: it has no arch to choose")
        return None
    if request.arch is None:
        return net.space.sample(random.Random(request.seed))
    return read_arch(request.arch, net.space, resolution=request.resolution)


def _calibration_images(bundle: DataBundle, count: int, seed: int) -> tuple[Images, str]:
    images = bundle.test if bundle.train is None else bundle.train
    part = "test images without labels" if bundle.train is None else "training images"
    if count < len(images):
        generator = torch.Generator().manual_seed(seed)
        chosen = stratified_sample(images.labels, count, generator=generator, keep_one=False)
        images = images.subset(chosen)
    return images, f"{len(images)} {part}"


def _batches(
    bundle: DataBundle, images: Images, subject: _Subject, request: EvalRequest, resolution: int
) -> EvalBatches:
    """Return batches of ``images``, made as the network expects them."""
    own = subject.preprocessing
    mean = _three("--mean", request.mean) or (own.mean if own else bundle.mean)
    std = _three("--std", request.std) or (own.std if own else bundle.std)
    if isinstance(images, ImageArrays):
        ratio = own.resolution / own.resize if own else bundle.eval_crop_ratio
        return ResidentEvalBatches(images, mean=mean, std=std, batch_size=_BATCH, crop_ratio=ratio)
    # The short side is resized to ceil(resolution / ratio): half a pixel keeps that exact.
    ratio = own.resolution / (own.resize - 0.5) if own else bundle.eval_crop_ratio
    return StreamedEvalBatches(
        images, mean=mean, std=std, batch_size=_BATCH, crop_ratio=min(ratio, 1.0)
    )


def _three(name: str, values: Sequence[float]) -> tuple[float, float, float] | None:
    if not values:
        return None
    if len(values) != 3:
        raise ConfigError(f"{name} has {len(values)} values, not 3")
    return (values[0], values[1], values[2])


def _shown(
    batches: EvalBatches, resolution: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    for images, labels in batches.batches(resolution):
        progress(done, batches.num_images)
        yield images, labels
        done += len(labels)
    progress(done, batches.num_images)
