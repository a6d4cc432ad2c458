"""The published networks as data: ids, archs, published figures, files and their checksums.

The table is ``published.json``; it was decoded from the released configurations, and ``verify``
recomputes what can be recomputed.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint, Linear
from onceforall.errors import ZooError
from onceforall.files import read_json
from onceforall.supernets.families import published_spec
from onceforall.supernets.static_families import proxylessnas_net

Kind = Literal["supernet", "specialized", "proxylessnas"]

LICENCE = "MIT (of the project that publishes the weights; no separate licence of the weights)"
PROVENANCE = (
    "trained on ImageNet-1k by the authors of Once-for-All (Cai et al., ICLR 2020) and released "
    "with their code at github.com/mit-han-lab/once-for-all"
)
PROVENANCE_PROXYLESSNAS = (
    "trained on ImageNet-1k by the authors of ProxylessNAS (Cai et al., ICLR 2019) and released "
    "with their code at github.com/mit-han-lab/proxylessnas"
)
# Dropout before the classifier in the released configurations of specialised networks.
_DROPOUT = {
    "ofa_mbv3_d234_e346_k357_w1.0": 0.1,
    "ofa_mbv3_d234_e346_k357_w1.2": 0.2,
    "ofa_proxyless_d234_e346_k357_w1.3": 0.0,
    "ofa_resnet50": 0.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One published file.

    Attributes:
        name: What it is: ``weights``, ``config`` or ``run_config``.
        url: Published address.
        cache_path: Where it is kept, relative to the zoo's cache folder.
        git_blob_sha1: Git's hash of the content, 40 hex digits; None where it is not known.
    """

    name: str
    url: str
    cache_path: str
    git_blob_sha1: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures as published, rounded as they are there; None where there is none.

    Attributes:
        top1: ImageNet top-1, fraction of the 50,000 validation images.
        top5: ImageNet top-5, likewise.
        params_millions: Parameters, in millions.
        macs_millions: Multiply-accumulates at the entry's resolution, in millions.
    """

    top1: float | None = None
    top5: float | None = None
    params_millions: float | None = None
    macs_millions: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry:
    """One published network.

    Attributes:
        id: Published id.
        alias: Short display name; None where there is none.
        kind: What it is.
        supernet: Id of the supernet it came from; None for supernets and ProxylessNAS.
        resolution: Input side in pixels; for a supernet the largest it was trained with; None
            until the configuration is at hand (ResNet50D).
        arch: The subnet; None for what is no subnet, and for ResNet50D.
        published: Figures as published.
        misprints: Names of figures that are known to be printed wrong.
        files: What can be downloaded.
        licence: Licence of the weights.
        provenance: Who trained them, on what.
    """

    id: str
    alias: str | None = None
    kind: Kind
    supernet: str | None = None
    resolution: int | None = None
    arch: Arch | None = None
    published: Figures
    misprints: tuple[str, ...] = ()
    files: tuple[RemoteFile, ...]
    licence: str = LICENCE
    provenance: str = PROVENANCE

    def file(self, name: str) -> RemoteFile:
        """Return the published file of that name."""
        return next(file for file in self.files if file.name == name)

    def blueprint(self, *, num_classes: int = 1000) -> Blueprint:
        """Return the static network.

        Raises:
            ZooError: If it is a supernet, or a ResNet50D whose architecture is only in its
                configuration file.
        """
        if self.kind == "proxylessnas":
            return with_classes(_proxylessnas_plans()[self.id], num_classes, dropout=0.0)
        if self.arch is None or self.supernet is None:
            what = "is a supernet" if self.kind == "supernet" else "has its arch in its net.config"
            raise ZooError(f"{self.id} {what}: no static network without more")
        plan = published_spec(self.supernet).blueprint(self.arch)
        return with_classes(plan, num_classes, dropout=_DROPOUT[self.supernet])


def zoo_entries() -> Mapping[str, ZooEntry]:
    """Return every published network by id."""
    return _load()


def find_entry(net_id: str, *kinds: Kind) -> ZooEntry:
    """Return the entry of an id or alias.

    Args:
        net_id: Published id, or short name such as ``ofa-note10-22``.
        kinds: Kinds to look in; none means all.

    Raises:
        ZooError: If there is none; the nearest names are given.
    """
    known = {
        name: entry
        for entry in _load().values()
        if not kinds or entry.kind in kinds
        for name in (entry.id, entry.alias)
        if name is not None
    }
    if net_id in known:
        return known[net_id]
    near = difflib.get_close_matches(net_id, known, n=3, cutoff=0.0)
    what = " or ".join(kinds) or "network"
    raise ZooError(f"no published {what} {net_id!r}; the nearest are {', '.join(near)}")


def display_alias(net_id: str) -> str:
    """Return the short name of a specialised network, as in the published tables.

    ``note10_lat@8ms_top1@71.4_finetune@25`` is ``ofa-note10-08``.
    """
    if match := re.match(r"flops@(\d+)M_", net_id):
        return f"ofa-{match[1]}M"
    if match := re.match(r"resnet50D_MAC@(\d)\.(\d)B_", net_id):
        return f"ofa-resnet50D-{match[1]}{match[2]}"
    match = re.match(r"([^_@]+)_(?:lat|gpu\d+)@(\d+)ms_", net_id)
    if match is None:
        raise ZooError(f"{net_id!r} is not the id of a specialised network")
    device = "lg" if match[1] == "LG-G8" else match[1]
    return f"ofa-{device}-{int(match[2]):02d}"


def with_classes(plan: Blueprint, num_classes: int, *, dropout: float | None = None) -> Blueprint:
    """Return the network with another number of classes, and another dropout where given."""
    *body, last = plan.head
    if not isinstance(last, Linear):
        raise ZooError(f"the last layer must be Linear, got {last}")
    rate = last.dropout if dropout is None else dropout
    classifier = replace(last, out_features=num_classes, dropout=rate)
    return replace(plan, head=(*body, classifier))


# -- the table ------------------------------------------------------------------------------------


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = read_json(Path(__file__).with_name("published.json"))
    return table


@functools.cache
def _load() -> dict[str, ZooEntry]:
    table = _table()
    base = table["base_url"]
    entries = [_supernet(row) for row in table["supernets"]]
    entries += [_specialized(row, base) for row in table["specialized"]]
    entries += [_proxylessnas(row, base) for row in table["proxylessnas"]]
    return {entry.id: entry for entry in entries}


def _supernet(row: Mapping[str, Any]) -> ZooEntry:
    weights = RemoteFile(
        name="weights",
        url=row["url"],
        cache_path=f"ofa_nets/{row['id']}",
        git_blob_sha1=row["git_blob_sha1"],
    )
    return ZooEntry(
        id=row["id"],
        kind="supernet",
        resolution=row["trained_resolutions"][1],
        published=Figures(),
        files=(weights,),
    )


def _specialized(row: Mapping[str, Any], base: str) -> ZooEntry:
    folder = f"ofa_specialized/{row['id'].replace('@', '-')}"
    files = tuple(
        RemoteFile(
            name=name,
            url=f"{base}ofa/{folder}/{file}",
            cache_path=f"{folder}/{file}",
            git_blob_sha1=row["git_blob_sha1"] if name == "weights" else None,
        )
        for name, file in (
            ("weights", "init"),
            ("config", "net.config"),
            ("run_config", "run.config"),
        )
    )
    return ZooEntry(
        id=row["id"],
        alias=display_alias(row["id"]),
        kind="specialized",
        supernet=row["supernet"],
        resolution=row["resolution"],
        arch=None if row["kernel_size"] is None else _arch(row),
        published=Figures(
            top1=row["top1"],
            top5=row["top5"],
            params_millions=row["params_millions"],
            macs_millions=row["macs_millions"],
        ),
        misprints=(row["misprint"],) if "misprint" in row else (),
        files=files,
    )


def _proxylessnas(row: Mapping[str, Any], base: str) -> ZooEntry:
    weights = RemoteFile(
        name="weights",
        url=f"{base}proxylessnas/{row['id']}.pth",
        cache_path=f"proxylessnas/{row['id']}.pth",
        git_blob_sha1=row["git_blob_sha1"],
    )
    return ZooEntry(
        id=row["id"],
        kind="proxylessnas",
        resolution=row["resolution"],
        published=Figures(params_millions=row["params"] / 1e6, macs_millions=row["macs_millions"]),
        files=(weights,),
        provenance=PROVENANCE_PROXYLESSNAS,
    )


def _arch(row: Mapping[str, Any]) -> Arch:
    kernels, ratios = _digits(row["kernel_size"]), _digits(row["expand_ratio"])
    return Arch(
        resolution=row["resolution"],
        depth=tuple(len(stage) for stage in kernels),
        kernel_size=kernels,
        expand_ratio=ratios,
    )


def _digits(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(digit) for digit in stage) for stage in text.split("."))


@functools.cache
def _proxylessnas_plans() -> dict[str, Blueprint]:
    return {
        row["id"]: proxylessnas_net(
            stem_width=row["stem_width"],
            fixed_width=row["fixed_width"],
            widths=row["widths"],
            kernels=_digits(row["kernel_size"]),
            ratios=_digits(row["expand_ratio"]),
            mix_width=row["mix_width"],
        )
        for row in _table()["proxylessnas"]
    }
