"""Accuracy of any network on any data: published, of a run, or exported."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from onceforall.data.batches.loaders import LoaderSettings, augmented_calibration
from onceforall.data.bundle import ImageFiles, Rgb
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.sources.folder import OnBadImage, decode_files
from onceforall.data.splits import stratified_sample
from onceforall.deploy.model_folder import read_model
from onceforall.deploy.specialize import specialize
from onceforall.errors import ConfigError
from onceforall.job.interpolation import Subnets, subnets_beside
from onceforall.measure.accuracy import evaluate
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.nets import ElasticNet, NetPlan, PlainNet
from onceforall.supernets.weights import load_saved_supernet
from onceforall.training.ranks import Ranks, gather_rows, main_rank_first, sum_over_ranks
from onceforall.zoo import (
    Preprocessing,
    find_entry,
    load_config_net,
    load_static,
    load_supernet,
)

_NUM_CALIBRATION = 2000
_CALIBRATION_BATCH = 100
_PUBLISHED_SIDE = 224
# Processes of each rank that read image files for a GPU.
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """What to evaluate.

    Attributes:
        net: A published id or alias, a ``net.config`` JSON file, a folder of a shipped model, a
            run, or the ``supernet.safetensors`` of one.
        weights: File of weights; by default the official ones of a published id.
        arch: JSON file of the subnet to run, in our spelling or the published one.
        resolution: Input side in pixels; by default the network's own.
        seed: Seed of the calibration images, and of the subnet that is sampled where none is
            given; None for 0. Only supernets take one.
        num_calibration: Training images for batch-norm recalibration of a subnet; None for 2,000.
            Only supernets take a number.
        mean: Per-channel mean that replaces the network's own; empty to keep it.
        std: Per-channel standard deviation, likewise.
        batch_size: Images that are evaluated at once.
        num_workers: Processes of each rank that read image files; None for what suits the device.
    """

    net: str
    weights: Path | None = None
    arch: Path | None = None
    resolution: int | None = None
    seed: int | None = None
    num_calibration: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    batch_size: int = 100
    num_workers: int | None = None

    def __post_init__(self) -> None:
        _three("--mean", self.mean)
        _three("--std", self.std)
        if not all(value > 0 for value in self.std):
            raise ConfigError(f"--std {','.join(map(str, self.std))} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A network to evaluate; a supernet still needs an arch and calibration.

    Attributes:
        net: The network.
        preprocessing: What images it expects; None for what the data set says.
        varied: How images were varied that recalibrated it in its run; None where they were not.
        at: Gives the supernet with the weights of a subnet; None where they are the same of all.
    """

    net: PlainNet | ElasticNet
    preprocessing: Preprocessing | None
    varied: Augmentation | None = None
    at: Subnets | None = None


def evaluate_request(
    request: EvalRequest,
    source: str,
    *,
    root: Path | None = None,
    on_bad_image: OnBadImage = "refuse",
    device: torch.device | None = None,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Return ``{"top1", "top5", "images", "net", "arch", "resolution", "macs", "params"}``.

    Static networks are evaluated with their own statistics. A subnet of a supernet is extracted
    and recalibrated on training images of the data set, varied as its run varied them; where it
    has none, on images without labels of the part that is evaluated: ``"calibration"`` says so.

    Several ranks share the batches and all return the same, to the bit: the batches are the same
    ones on any number of ranks and workers.

    Args:
        request: What to evaluate.
        source: Data set.
        root: Folder of downloads.
        on_bad_image: What happens to files that cannot be read.
        device: Where to compute; the CPU by default.
        ranks: This process among all that share the images.
        progress: Told the images done and of all, of this process.
        report: Told about every file that is left out.

    Raises:
        ConfigError: If the network, arch or data set is not there or does not fit, or an option
            means nothing to them.
    """
    ranks, device = ranks or Ranks(), device or torch.device("cpu")
    with main_rank_first(ranks):  # it downloads what is missing
        bundle = open_dataset(source, root=root, on_bad_image=on_bad_image, max_resident_bytes=0)
        subject = _subject(request)
    if request.num_workers and bundle.is_resident:
        raise ConfigError(f"--workers read image files; {bundle.name} is in memory")
    arch = _arch(request, subject.net, ranks)
    net = subject.at(arch) if subject.at and arch else subject.net
    plan = _plan(net, arch)
    if plan.num_classes != bundle.num_classes:
        raise ConfigError(
            f"{request.net} has {plan.num_classes} classes, {bundle.name} has "
            f"{bundle.num_classes}; a folder may list its classes in classes.txt"
        )
    own = subject.preprocessing
    resolution = request.resolution or (
        arch.resolution if arch else own.resolution if own else _PUBLISHED_SIDE
    )
    maker = BatchMaker(
        bundle=bundle,
        own=own,
        varied=subject.varied,
        request=request,
        on_bad_image=on_bad_image,
        report=report,
        device=device,
        ranks=ranks,
    )
    model: nn.Module = net.to(device)
    used = "its own"
    if isinstance(net, ElasticNet) and arch is not None:
        model, used = maker.calibrated(net, arch, resolution)
    accuracy = evaluate(
        model.eval(),
        maker.test_batches(resolution, progress),
        add_up=lambda counts: sum_over_ranks(counts.to(device), ranks),
    )
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
    saved = path / "checkpoints" / "supernet.safetensors" if path.is_dir() else path
    if weights is not None and (path.is_dir() or saved.suffix == ".safetensors"):
        raise ConfigError(f"{path} has weights of its own: --weights {weights} has no place")
    if (path / "card.json").is_file():
        card, model = read_model(path)
        return _Subject(net=model, preprocessing=_own(dict(card), card.resolution))
    if saved.suffix == ".safetensors" or path.is_dir():
        net, facts = load_saved_supernet(saved)
        varied = facts.get("calibration_augmentation")
        return _Subject(
            net=net,
            preprocessing=_own(facts, net.space.resolutions[-1]),
            varied=None if varied is None else Augmentation(**varied),
            at=subnets_beside(saved, net),
        )
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
    loaded = load_static(entry.id, chosen)
    return _Subject(net=loaded.model, preprocessing=loaded.preprocessing)


def _own(facts: dict[str, Any], resolution: int) -> Preprocessing:
    (r, g, b), std = facts["mean"], facts["std"]
    mean, std = (r, g, b), (std[0], std[1], std[2])
    return Preprocessing(resolution=resolution, crop_ratio=facts["crop_ratio"], mean=mean, std=std)


def _arch(request: EvalRequest, net: PlainNet | ElasticNet, ranks: Ranks) -> Arch | None:
    """Return the arch to run: the given one, or one drawn with the seed; None of a static network.

    Raises:
        ConfigError: If an option means nothing to the network.
    """
    if not isinstance(net, ElasticNet):
        options = {
            "an arch": request.arch, "a seed": request.seed, "calibration": request.num_calibration,
        }  # fmt: skip
        for name, value in options.items():
            if value is not None:
                raise ConfigError(f"{request.net} is not a supernet: {name} means nothing to it")
        return None
    if request.arch is None:
        return net.space.sample(random.Random(request.seed or 0))
    if ranks.world_size > 1 and str(request.arch) == "-":
        raise ConfigError("several processes cannot share standard input: give --arch a file")
    return read_arch(request.arch, net.space, resolution=request.resolution)


def _plan(net: PlainNet | ElasticNet, arch: Arch | None) -> NetPlan:
    if isinstance(net, PlainNet):
        return net.plan
    return net.blueprint(arch or net.space.largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMaker:
    """Makes batches as a network expects them, and calibrates with some of them."""

    bundle: DataBundle
    own: Preprocessing | None
    varied: Augmentation | None
    request: EvalRequest
    on_bad_image: OnBadImage
    report: Callable[[str], None]
    device: torch.device
    ranks: Ranks

    def calibrated(self, net: ElasticNet, arch: Arch, resolution: int) -> tuple[PlainNet, str]:
        """Return a recalibrated copy of one subnet, and what it was recalibrated on."""
        count, seed = self.request.num_calibration or _NUM_CALIBRATION, self.request.seed or 0
        images, used = _calibration_images(self.bundle, count, seed)
        if self.varied is not None:
            as_trained = self._as_trained(images, self.varied, resolution)
            return specialize(net, arch, calibration=as_trained), f"{used}, varied as in training"
        # Statistics depend on which images are normalised together: always as many.
        mine = share_of(images, _CALIBRATION_BATCH, self.ranks)
        batches = () if mine is None else self.batches(mine, _CALIBRATION_BATCH).batches(resolution)
        ranks = self.ranks
        gather = partial(gather_rows, ranks=ranks) if ranks.world_size > 1 else None
        return specialize(net, arch, calibration=(x for x, _ in batches), gather=gather), used

    def _as_trained(
        self, images: Images, varied: Augmentation, resolution: int
    ) -> Iterator[Tensor]:
        """Yield images that are varied as they were for the run, on every rank the same."""
        if isinstance(images, ImageFiles):
            side = self.own.resolution if self.own else resolution
            images, _ = decode_files(images, side, self.on_bad_image)
        mean, std = self._normalization()
        settings = LoaderSettings(
            batch_size=_CALIBRATION_BATCH,
            eval_batch_size=_CALIBRATION_BATCH,
            seed=self.request.seed or 0,
            augmentation=varied,
        )
        bundle = replace(self.bundle, mean=mean, std=std)
        batches = augmented_calibration(bundle, images, settings, device=self.device)
        return batches.calibration_batches(resolution)

    def _normalization(self) -> tuple[Rgb, Rgb]:
        """Return mean and standard deviation: the user's, the network's own, or the data set's."""
        own, bundle = self.own, self.bundle
        mean = _three("--mean", self.request.mean) or (own.mean if own else bundle.mean)
        std = _three("--std", self.request.std) or (own.std if own else bundle.std)
        return mean, std

    def test_batches(
        self, resolution: int, progress: Callable[[int, int], None]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's test batches."""
        images = share_of(self.bundle.test, self.request.batch_size, self.ranks)
        if images is None:
            return
        batches = self.batches(images, self.request.batch_size)
        done = 0
        for x, labels in batches.batches(resolution):
            progress(done, batches.num_images)
            yield x, labels
            done += len(labels)
        progress(done, batches.num_images)

    def batches(self, images: Images, batch_size: int) -> EvalBatches:
        """Return batches of ``images`` on the device."""
        own, bundle = self.own, self.bundle
        mean, std = self._normalization()
        crop_ratio = own.crop_ratio if own else bundle.eval_crop_ratio
        if isinstance(images, ImageArrays):
            return ResidentEvalBatches(
                images,
                mean=mean,
                std=std,
                batch_size=batch_size,
                crop_ratio=crop_ratio,
                device=self.device,
            )
        return StreamedEvalBatches(
            images,
            mean=mean,
            std=std,
            batch_size=batch_size,
            crop_ratio=crop_ratio,
            device=self.device,
            num_workers=self._num_workers(),
            on_bad_image=self.on_bad_image,
            report=self.report,
            max_cache_bytes=0,  # every image is read once
        )

    def _num_workers(self) -> int:
        if self.request.num_workers is not None:
            return self.request.num_workers
        # A GPU outruns one reader by far; on a processor the network itself needs the cores.
        cores = (os.cpu_count() or 1) // self.ranks.world_size
        return min(_MOST_WORKERS, cores) if self.device.type == "cuda" else 0


def share_of(images: Images, batch_size: int, ranks: Ranks) -> Images | None:
    """Return the images of every ``world_size``-th batch; None where this rank has none.

    Batches stay whole, so that each is computed as it is by one process, to the bit.

    Args:
        images: All images.
        batch_size: Images of a batch; only the last may have fewer.
        ranks: This process among all.
    """
    if ranks.world_size == 1:
        return images
    parts = torch.split(torch.arange(len(images)), batch_size)
    mine = parts[ranks.rank :: ranks.world_size]
    return images.subset(torch.cat(mine)) if mine else None


def _calibration_images(bundle: DataBundle, count: int, seed: int) -> tuple[Images, str]:
    images = bundle.test if bundle.train is None else bundle.train
    part = "test images without labels" if bundle.train is None else "training images"
    if count < len(images):
        generator = torch.Generator().manual_seed(seed)
        chosen = stratified_sample(images.labels, count, generator=generator, keep_one=False)
        images = images.subset(chosen)
    return images, f"{len(images)} {part}"


def _three(name: str, values: Sequence[float]) -> tuple[float, float, float] | None:
    if not values:
        return None
    if len(values) != 3:
        raise ConfigError(f"{name} has {len(values)} values, not 3")
    return (values[0], values[1], values[2])
