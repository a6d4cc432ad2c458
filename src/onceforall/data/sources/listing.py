"""What is in a folder of images: classes, files and splits, before anything is decoded.

Layouts:

    root/CLASS/...                          one set; a test part is split off
    root/train/CLASS/...                    likewise
    root/train/CLASS/... root/val/CLASS/... ("valid", "validation" and "test" are other names)
    root/val/CLASS/...                      only for evaluation

With both ``val`` and ``test`` the first validates and the second is what numbers are reported on.
``classes.txt`` at the root (one class a line in index order, folder name first) fixes the label
indices, even of classes without images. Hidden files and folders do not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from onceforall.data.bundle import ImageFiles, PackedNames
from onceforall.data.images.decode import IMAGE_SUFFIXES
from onceforall.errors import DataError
from onceforall.reading import named, read_bounded

_VALID_NAMES = ("val", "valid", "validation")
CLASSES_FILE = "classes.txt"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a folder data set.

    Attributes:
        class_names: Folder names in label order.
        class_titles: Words of ``classes.txt``, or the folder names.
        splits: Files of ``"all"``, or of some of ``"train"``, ``"valid"`` and ``"test"``.
        fingerprint: sha256 in hex over class names, labels, file names and sizes.
        empty_files: Names of files of no bytes, which are not in ``splits``.
        notes: What was ignored, for people.
    """

    class_names: tuple[str, ...]
    class_titles: tuple[str, ...]
    splits: Mapping[str, ImageFiles]
    fingerprint: str
    empty_files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(slots=True)
class _Found:
    """Files of one class folder: (name relative to the root, bytes)."""

    images: list[tuple[str, int]]
    others: list[str]


def list_folder(root: Path) -> Listing:
    """Return what is in ``root``.

    Raises:
        DataError: If there are no classes, one class only, a class without images, a class to
            evaluate that is not trained, or a damaged ``classes.txt``.
    """
    titles = _read_classes(root)
    places = _split_places(root)
    found = {
        split: {name: _find(root, place / name) for name in _subfolders(place)}
        for split, place in places.items()
    }
    names = tuple(titles) or tuple(sorted(set().union(*found.values())))
    for split, classes in found.items():
        where = str(root) if split == "all" else f"{root} ({split})"
        _check_classes(where, classes, names, listed=bool(titles))
    _check_trained(root, found)
    if len(names) < 2:
        raise DataError(f"{root}: {len(names)} class is not enough: at least 2 class folders")
    splits = {split: _files(root, classes, names) for split, classes in found.items()}
    empty = [n for cs in found.values() for f in cs.values() for n, size in f.images if not size]
    return Listing(
        class_names=names,
        class_titles=tuple(titles.values()) or names,
        splits=splits,
        fingerprint=_fingerprint(names, found),
        empty_files=tuple(empty),
        notes=_notes(root, places, found),
    )


def _split_places(root: Path) -> dict[str, Path]:
    """Return the folder that holds the class folders of each split."""
    folders = {name: root / name for name in _subfolders(root)}
    # A class may be called "train" (the vehicle): a split is a folder of folders.
    splits = {name: path for name, path in folders.items() if _subfolders(path)}
    valid = [splits[name] for name in _VALID_NAMES if name in splits]
    if len(valid) > 1:
        raise DataError(f"{root}: both {valid[0].name} and {valid[1].name}: keep one of them")
    if "train" not in splits and "test" not in splits and not valid:
        return {"all": root}
    if "test" in splits and valid:
        places = {"valid": valid[0], "test": splits["test"]}
    elif "test" in splits or valid:
        places = {"test": valid[0] if valid else splits["test"]}
    else:
        return {"all": splits["train"]}
    return {"train": splits["train"], **places} if "train" in splits else places


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _find(root: Path, folder: Path) -> _Found:
    """Find the image files below ``folder``, sorted; links to folders are followed once."""
    found = _Found([], [])
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(f for f in folders if not f.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        relative = os.path.relpath(place, root).replace(os.sep, "/")
        for name in sorted(f for f in files if not f.startswith(".")):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                facts = os.stat(os.path.join(place, name))
                if stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
                    found.images.append((f"{relative}/{name}", facts.st_size))
                else:
                    found.others.append(f"{relative}/{name}")
            else:
                found.others.append(f"{relative}/{name}")
    return found


def _read_classes(root: Path) -> dict[str, str]:
    """Return folder name -> words from ``classes.txt``; empty where there is no such file."""
    path = root / CLASSES_FILE
    if not path.exists():
        return {}
    try:
        lines = read_bounded(named(path)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text") from error
    titles: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        name, _, words = line.partition(" ") if "\t" not in line else line.partition("\t")
        if name in titles:
            raise DataError(f"{path}: class {name} is listed twice")
        titles[name] = words.strip() or name
    if not titles:
        raise DataError(f"{path}: no classes in it: one folder name a line")
    return titles


def _check_classes(
    where: str, classes: Mapping[str, _Found], names: Iterable[str], *, listed: bool
) -> None:
    if not classes:
        raise DataError(f"{where}: no class folders in it")
    unknown = sorted(set(classes) - set(names))
    if unknown:
        raise DataError(f"{where}: class folder {unknown[0]} is not listed in {CLASSES_FILE}")
    empty = sorted(name for name, found in classes.items() if not _num_images(found))
    if empty and (not listed or len(empty) == len(classes)):
        raise DataError(f"{where}: class folder {empty[0]} has no images ({len(empty)} such)")


def _check_trained(root: Path, found: Mapping[str, Mapping[str, _Found]]) -> None:
    if "train" not in found:
        return
    trained = {name for name, files in found["train"].items() if _num_images(files)}
    for split, classes in found.items():
        strange = sorted(
            n for n, files in classes.items() if _num_images(files) and n not in trained
        )
        if strange:
            raise DataError(f"{root}: class {strange[0]} is in {split} but not in train")


def _num_images(found: _Found) -> int:
    return sum(size > 0 for _, size in found.images)


def _files(root: Path, classes: Mapping[str, _Found], names: tuple[str, ...]) -> ImageFiles:
    index = {name: label for label, name in enumerate(names)}
    pairs = [
        (name, index[class_name])
        for class_name in sorted(classes, key=index.__getitem__)
        for name, size in classes[class_name].images
        if size > 0
    ]
    labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
    return ImageFiles(root=root, names=PackedNames(name for name, _ in pairs), labels=labels)


def _fingerprint(names: Iterable[str], found: Mapping[str, Mapping[str, _Found]]) -> str:
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape"))
    for split, classes in sorted(found.items()):
        for class_name, files in sorted(classes.items()):
            for name, size in files.images:
                line = f"\n{split}\t{class_name}\t{name}\t{size}"
                digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _notes(
    root: Path, places: Mapping[str, Path], found: Mapping[str, Mapping[str, _Found]]
) -> tuple[str, ...]:
    notes = []
    others = [name for cs in found.values() for files in cs.values() for name in files.others]
    if others:
        notes.append(f"{len(others)} files are no images and are ignored (first: {others[0]})")
    if "all" not in places:
        used = {place.name for place in places.values()}
        unused = [name for name in _subfolders(root) if name not in used]
        notes.extend(f"folder {name} is ignored" for name in unused)
    return tuple(notes)
