"""Published networks, built and loaded: from fresh weights, a local file, the cache, or the net."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onceforall.arch import MAX_RESOLUTION, Arch
from onceforall.blueprint import Blueprint
from onceforall.errors import ArchError, ConfigError, ZooError
from onceforall.files import read_json_file
from onceforall.reading import is_number
from onceforall.supernets.families import published_spec
from onceforall.supernets.published.checkpoint import load_published, read_weights
from onceforall.supernets.published.config_read import blueprint_from_config
from onceforall.supernets.published.recover import arch_from_blueprint
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet
from onceforall.zoo.download import Progress, cached, fetch
from onceforall.zoo.entries import Figures, ZooEntry, find_entry, with_classes

OFFICIAL = "official"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CROP_FRACTION = 0.875
_LARGEST = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How images become the input of a network: resize the short side, crop, scale, normalise.

    Attributes:
        resolution: Side of the centre crop, in pixels.
        crop_ratio: Side of the crop over the resized short side, in (0, 1].
        mean: Mean of each of red, green, blue, on a scale of 0 to 1.
        std: Standard deviation, likewise.
    """

    resolution: int
    crop_ratio: float = _CROP_FRACTION
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def resize(self) -> int:
        """Return the length of the short side before the crop, in pixels."""
        return math.ceil(self.resolution / self.crop_ratio)

    @classmethod
    def published(cls, resolution: int) -> Preprocessing:
        """Return the published evaluation: crop 0.875 of the resized image, ImageNet's moments."""
        return cls(resolution=resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooNet:
    """A static network with what belongs to it.

    Attributes:
        id: Published id, or the name of the configuration file.
        model: The network, in eval mode.
        resolution: Input side it is made for, in pixels.
        preprocessing: How to make its input.
        arch: Its arch in the supernet it came from; None if it is no subnet of one.
        published: Its published figures; None for a network of your own.
    """

    id: str
    model: StaticNet
    resolution: int
    preprocessing: Preprocessing
    arch: Arch | None = None
    published: Figures | None = None


def load_supernet(
    net_id: str,
    weights: str | Path | None = None,
    *,
    num_classes: int = 1000,
    reinit_head: bool = False,
    progress: Progress | None = None,
) -> Supernet:
    """Return a published supernet, in eval mode.

    Args:
        net_id: One of the four published ids, e.g. ``"ofa_mbv3_d234_e346_k357_w1.0"``.
        weights: None for fresh weights, ``"official"`` for the released ones (from the cache,
            else downloaded), or the path of a file, in any spelling that ``load_published`` reads.
        num_classes: Outputs of the classifier.
        reinit_head: Keep a fresh classifier; for another number of classes than the weights have.
        progress: Called while bytes arrive.

    Raises:
        ZooError: If there is no such id, or the official weights cannot be had.
        CheckpointError: If the weights do not fit.
    """
    entry = find_entry(net_id, "supernet")
    net = Supernet(published_spec(entry.id, num_classes=num_classes))
    path = _weights_path(entry, weights, progress)
    if path is not None:
        load_published(net, read_weights(path), reinit_head=reinit_head)
    return net.eval()


def load_specialized(
    net_id: str,
    weights: str | Path | None = None,
    *,
    num_classes: int = 1000,
    reinit_head: bool = False,
    progress: Progress | None = None,
) -> ZooNet:
    """Return a published specialised network, in eval mode.

    The architecture of a ResNet50D is not in our table, only in its published ``net.config``:
    it is read from a folder given as ``weights`` or from the cache, or downloaded (``"official"``).

    Args:
        net_id: Published id or alias, e.g. ``"note10_lat@22ms_top1@76.6_finetune@25"``.
        weights: None for fresh weights, ``"official"``, the path of a weights file, or of a
            folder with ``init`` (and, for a ResNet50D, ``net.config`` and ``run.config``).
        num_classes: Outputs of the classifier.
        reinit_head: Keep a fresh classifier; for another number of classes than the weights have.
        progress: Called while bytes arrive.

    Raises:
        ZooError: If there is no such id, or a file that is needed cannot be had.
        CheckpointError: If the weights do not fit.
    """
    entry = find_entry(net_id, "specialized")
    if entry.arch is None:
        entry, plan = _from_config(entry, weights, progress)
        plan = with_classes(plan, num_classes)
    else:
        plan = entry.blueprint(num_classes=num_classes)
    return _static_net(entry, plan, weights, reinit_head=reinit_head, progress=progress)


def load_proxylessnas(
    net_id: str,
    weights: str | Path | None = None,
    *,
    num_classes: int = 1000,
    reinit_head: bool = False,
    progress: Progress | None = None,
) -> ZooNet:
    """Return a published ProxylessNAS network, in eval mode.

    Args:
        net_id: ``proxyless_cpu``, ``proxyless_gpu``, ``proxyless_mobile`` or
            ``proxyless_mobile_14``.
        weights: None for fresh weights, ``"official"``, or the path of a file.
        num_classes: Outputs of the classifier.
        reinit_head: Keep a fresh classifier; for another number of classes than the weights have.
        progress: Called while bytes arrive.

    Raises:
        ZooError: If there is no such id, or the official weights cannot be had.
        CheckpointError: If the weights do not fit.
    """
    entry = find_entry(net_id, "proxylessnas")
    plan = entry.blueprint(num_classes=num_classes)
    return _static_net(entry, plan, weights, reinit_head=reinit_head, progress=progress)


def load_static(net_id: str, weights: str | Path | None = None) -> ZooNet:
    """Return a published static network, specialised or ProxylessNAS, in eval mode.

    Args:
        net_id: Published id or alias.
        weights: As of :func:`load_specialized`.

    Raises:
        ZooError: If there is no such id, or a file that is needed cannot be had.
        CheckpointError: If the weights do not fit.
    """
    kind = find_entry(net_id, "specialized", "proxylessnas").kind
    load = load_specialized if kind == "specialized" else load_proxylessnas
    return load(net_id, weights)


def load_config_net(
    config: Mapping[str, Any] | str | Path,
    weights: str | Path | None = None,
    *,
    resolution: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> ZooNet:
    """Return any static network in the published configuration format, in eval mode.

    Args:
        config: The configuration, or the path of its JSON file, in either spelling.
        weights: Path of a weights file; None for fresh weights.
        resolution: Input side in pixels; by default the configuration's ``resolution``, else the
            ``image_size`` in ``run.config`` beside the file.
        mean: Mean of each channel, 0 to 1; by default the configuration's, else ImageNet's.
        std: Standard deviation of each channel, likewise.

    A ``crop_ratio`` in the configuration, as in our own exports, replaces the published 0.875.

    Raises:
        ConfigError: If the configuration is wrong, or nothing says the resolution.
        CheckpointError: If the weights do not fit.
    """
    path = None if isinstance(config, Mapping) else Path(config)
    content = config if isinstance(config, Mapping) else _read_object(Path(config))
    size = content.get("resolution") if resolution is None else resolution
    size = _run_config_size(path) if size is None else size
    if size is None:
        raise ConfigError("the configuration says no resolution; give one (pixels)")
    size = _pixels("resolution", size)
    model = build(blueprint_from_config(content))
    if weights is not None:
        load_published(model, read_weights(weights))
    preprocessing = Preprocessing.published(size)
    if (ratio := content.get("crop_ratio")) is not None:  # our own exports say it
        if not is_number(ratio, 0.01, 1):
            raise ConfigError(f"crop_ratio {ratio!r} is not from 0.01 to 1")
        preprocessing = replace(preprocessing, crop_ratio=float(ratio))
    mean = _triple("mean", content.get("mean") if mean is None else mean, -_LARGEST)
    std = _triple("std", content.get("std") if std is None else std, 1e-6)
    return ZooNet(
        id=str(content["name"]) if path is None else path.stem,
        model=model.eval(),
        resolution=size,
        preprocessing=replace(
            preprocessing, mean=mean or preprocessing.mean, std=std or preprocessing.std
        ),
    )


# -- parts ----------------------------------------------------------------------------------------


def _static_net(
    entry: ZooEntry,
    plan: Blueprint,
    weights: str | Path | None,
    *,
    reinit_head: bool,
    progress: Progress | None,
) -> ZooNet:
    model = build(plan)
    path = _weights_path(entry, weights, progress)
    if path is not None:
        load_published(model, read_weights(path), reinit_head=reinit_head)
    if entry.resolution is None:
        raise ZooError(f"{entry.id}: nothing says its input resolution")
    return ZooNet(
        id=entry.id,
        model=model.eval(),
        resolution=entry.resolution,
        preprocessing=Preprocessing.published(entry.resolution),
        arch=entry.arch,
        published=entry.published,
    )


def weights_file(net_id: str, *, progress: Progress | None = None) -> Path:
    """Return the file of a published network's official weights: cached, else downloaded.

    Raises:
        ZooError: If there is no such id, or the file cannot be had.
    """
    return fetch(find_entry(net_id).file("weights"), progress=progress)


def _weights_path(
    entry: ZooEntry, weights: str | Path | None, progress: Progress | None
) -> Path | None:
    if weights is None:
        return None
    if str(weights) == OFFICIAL:
        return fetch(entry.file("weights"), progress=progress)
    path = Path(weights)
    return path / "init" if path.is_dir() else path


def _from_config(
    entry: ZooEntry, weights: str | Path | None, progress: Progress | None
) -> tuple[ZooEntry, Blueprint]:
    """Return the entry with what its configuration files say, and the network."""
    names = {"config": "net.config", "run_config": "run.config"}
    paths: dict[str, Path | None]
    if str(weights) == OFFICIAL:
        paths = {name: fetch(entry.file(name), progress=progress) for name in names}
    elif weights is not None and Path(weights).is_dir():
        paths = {name: Path(weights) / file for name, file in names.items()}
    else:
        paths = {name: cached(entry.file(name)) for name in names}
    contents = {}
    for name, path in paths.items():
        if path is None or not path.is_file():
            raise ZooError(
                f"{entry.id}: its architecture is only in its published {names[name]} "
                f"({entry.file(name).url}); use weights='official', or a folder that has the file"
            )
        contents[name] = _read_object(path)
    plan = blueprint_from_config(contents["config"])
    resolution = _pixels("image_size", contents["run_config"].get("image_size"))
    try:
        arch = arch_from_blueprint(published_spec(str(entry.supernet)), plan, resolution=resolution)
    except ArchError:  # a network that was changed after it left the supernet
        arch = None
    return replace(entry, arch=arch, resolution=resolution), plan


def _read_object(path: Path) -> Mapping[str, Any]:
    content = read_json_file(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} does not hold a JSON object")
    return content


def _run_config_size(path: Path | None) -> Any:
    beside = None if path is None else path.with_name("run.config")
    if beside is None or not beside.is_file():
        return None
    return _read_object(beside).get("image_size")


def _triple(name: str, value: Any, low: float) -> tuple[float, float, float] | None:
    if value is None:
        return None
    is_list = isinstance(value, list | tuple) and len(value) == 3
    if not is_list or not all(is_number(part, low, _LARGEST) for part in value):
        raise ConfigError(f"{name} {value!r} is not three numbers from {low:g} to {_LARGEST:g}")
    return float(value[0]), float(value[1]), float(value[2])


def _pixels(name: str, value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_RESOLUTION:
        raise ConfigError(f"{name} {value!r} is not a number of pixels from 1 to {MAX_RESOLUTION}")
    return value
