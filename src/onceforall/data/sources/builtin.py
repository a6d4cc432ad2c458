"""Data sets known by name: one that ships with scikit-learn and three that are downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from onceforall import files
from onceforall.data.bundle import DataBundle
from onceforall.data.sources.arrays import bundle_from_arrays
from onceforall.data.sources.folder import split_test
from onceforall.errors import ConfigError, MissingExtraError

_FILES = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "fashion_mnist": "FashionMNIST/raw/*-ubyte.gz",
}


def open_builtin(name: str, *, root: Path | None) -> DataBundle:
    """Open the data set called ``name``, one of `BUILTIN_NAMES`.

    Args:
        name: Name of the data set.
        root: Folder where downloads are and go; None is ``onceforall/data`` in the user's cache.

    Raises:
        ConfigError: If it is neither there nor can be downloaded.
        MissingExtraError: If scikit-learn is needed and missing.
    """
    return _OPENERS[name](name, root or default_root())


def default_root() -> Path:
    """Return the folder for downloads in the user's cache."""
    return files.cache_folder("data")


def _open_digits(name: str, root: Path) -> DataBundle:
    """Open the 1,797 images of 8 x 8 pixels that come with scikit-learn; no network."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("sklearn", "quickstart") from error
    source = load_digits()
    # Values are 0 .. 16 ink levels.
    pixels = np.round(source.images * (255 / 16)).astype(np.uint8)
    labels = source.target.astype(np.int64)
    train, test = (part.numpy() for part in split_test(torch.from_numpy(labels)))
    arrays = {
        "x_train": pixels[train],
        "y_train": labels[train],
        "x_test": pixels[test],
        "y_test": labels[test],
    }
    return bundle_from_arrays(arrays, name=name, flip=False)


def _open_torchvision(name: str, root: Path) -> DataBundle:
    from torchvision import datasets

    opener = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "fashion_mnist": datasets.FashionMNIST,
    }[name]
    try:
        # torchvision checks sizes and MD5 sums before it reads a file.
        train, test = (opener(str(root), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{name}: not in {root} and cannot be downloaded; put {_FILES[name]} there or name "
            "its folder as root"
        ) from error
    arrays = {
        "x_train": np.asarray(train.data),
        "y_train": np.asarray(train.targets),
        "x_test": np.asarray(test.data),
        "y_test": np.asarray(test.targets),
    }
    return bundle_from_arrays(arrays, name=name, class_names=list(train.classes))


_OPENERS: dict[str, Callable[[str, Path], DataBundle]] = {
    "digits": _open_digits,
    "cifar10": _open_torchvision,
    "cifar100": _open_torchvision,
    "fashion_mnist": _open_torchvision,
}

BUILTIN_NAMES = tuple(_OPENERS)
DOWNLOADED_NAMES = tuple(_FILES)
