"""One way to open any data set: a known name, an ``.npz`` file or a folder of class folders.

A new source is a function here that returns a :class:`DataBundle`: images in memory, or paths.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import get_args

from onceforall.data.bundle import DataBundle
from onceforall.data.sources.arrays import open_npz
from onceforall.data.sources.builtin import BUILTIN_NAMES, DOWNLOADED_NAMES, open_builtin
from onceforall.data.sources.folder import OnBadImage, open_folder
from onceforall.errors import ConfigError

MAX_RESIDENT_BYTES = 2 * 2**30


def open_dataset(
    spec: str | Path,
    *,
    root: Path | None = None,
    on_bad_image: OnBadImage = "refuse",
    image_size: int | None = None,
    max_resident_bytes: int = MAX_RESIDENT_BYTES,
) -> DataBundle:
    """Open a data set.

    Args:
        spec: ``digits``, ``cifar10``, ``cifar100``, ``fashion_mnist``, the path of an ``.npz``
            file, or the path of a folder of class folders.
        root: Where the downloads of named data sets are and go; None is the user's cache. Other
            data sets have none.
        on_bad_image: Whether an unreadable image is an error or is left out.
        image_size: Largest size in pixels that the images are needed at. Folders that fit into
            ``max_resident_bytes`` at that size are decoded into memory; without it only folders
            of small equal squares are.
        max_resident_bytes: Largest decoded size of a folder that is kept in memory; 0 streams.

    Raises:
        ConfigError: If ``spec`` names nothing that exists, or a download fails.
        DataError: If the images or labels cannot be used.
        MissingExtraError: If a named data set needs a package that is missing.

    Example:
        >>> bundle = open_dataset("digits")
        >>> bundle.num_train + bundle.num_test, bundle.num_classes
        (1797, 10)
    """
    spec = str(spec)
    if on_bad_image not in get_args(OnBadImage):
        raise ConfigError(f"on_bad_image {on_bad_image!r} is not refuse or skip")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size {image_size} is not at least 1")
    if root is not None and spec not in DOWNLOADED_NAMES:
        names = ", ".join(DOWNLOADED_NAMES)
        raise ConfigError(f"root {root} is for downloads ({names}), {spec} is none")
    if spec in BUILTIN_NAMES:
        return open_builtin(spec, root=root)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return open_folder(
            path,
            image_size=image_size,
            on_bad_image=on_bad_image,
            max_resident_bytes=max_resident_bytes,
        )
    if path.is_file() and path.suffix == ".npz":
        return open_npz(path)
    raise _unknown(spec, path)


def _unknown(spec: str, path: Path) -> ConfigError:
    if path.is_file():
        return ConfigError(f"{spec}: is a file, but neither a folder nor an .npz file")
    if os.sep in spec or path.suffix or not spec:
        return ConfigError(f"{spec or 'empty data set name'}: no such folder or .npz file")
    nearest = difflib.get_close_matches(spec, BUILTIN_NAMES, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return ConfigError(
        f"unknown data set {spec!r}: {hint}known are {', '.join(BUILTIN_NAMES)}, the path of an "
        ".npz file or of a folder of class folders"
    )
