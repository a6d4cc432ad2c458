"""From an answer of a published search to a proven model: weights, calibration images, a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from onceforall.arch import Arch
from onceforall.artifacts import Card
from onceforall.data import DataBundle, open_dataset
from onceforall.deploy.ship import ship
from onceforall.errors import ConfigError
from onceforall.files import check_writable
from onceforall.job.tasks.evaluate_any import BatchMaker, EvalRequest
from onceforall.supernets.supernet import Supernet
from onceforall.training.ranks import Ranks
from onceforall.zoo import load_supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipyard:
    """What a subnet of a published supernet is shipped with.

    Attributes:
        net: The supernet, with its weights.
        bundle: Images to calibrate with, and to report accuracy on.
        out: Folder of the model.
    """

    net: Supernet
    bundle: DataBundle
    out: Path


def open_shipyard(net: str, *, weights: str, source: str, out: Path) -> Shipyard:
    """Return what is needed to ship a subnet of a published supernet, before one is looked for.

    Args:
        net: Published id.
        weights: A checkpoint file, or ``official``.
        source: Data set with the classes of the weights.
        out: Folder of the model; must hold none.

    Raises:
        CheckpointError: If the weights do not fit.
        ConfigError: If the folder holds a model, or the data has other classes.
        ZooError: If there is no such id, or official weights cannot be had.
    """
    if (out / "card.json").is_file():
        raise ConfigError(f"{out} holds a model already; use another --out")
    check_writable(out / "card.json")
    bundle = open_dataset(source, max_resident_bytes=0)
    supernet = load_supernet(net, weights)
    if supernet.spec.num_classes != bundle.num_classes:
        raise ConfigError(
            f"{net} has {supernet.spec.num_classes} classes, {bundle.name} has "
            f"{bundle.num_classes}; a folder may list its classes in classes.txt"
        )
    return Shipyard(net=supernet, bundle=bundle, out=out)


def ship_published(
    yard: Shipyard,
    arch: Arch,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda text: None,
) -> Card:
    """Extract a subnet, recalibrate, measure, export and verify it, on the processor.

    Args:
        yard: What it is shipped with.
        arch: The subnet.
        progress: Told the test images done and of all.
        report: Told about every image file that is left out.

    Raises:
        VerificationError: If the files compute something else; nothing is left of them then.
    """
    bundle = yard.bundle
    maker = BatchMaker(
        bundle=bundle,
        own=None,
        varied=None,
        request=EvalRequest(net=""),
        on_bad_image="refuse",
        report=report,
        device=torch.device("cpu"),
        ranks=Ranks(),
    )
    model, _ = maker.calibrated(yard.net, arch, arch.resolution)
    return ship(
        model.eval(),
        yard.out,
        arch=arch,
        test=maker.test_batches(arch.resolution, progress),
        data=bundle,
    )
