"""The zoo checks itself: what is published against what the networks really are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onceforall.blueprint import Blueprint
from onceforall.errors import ZooError
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.families import published_spec
from onceforall.supernets.published.keys import supernet_keys
from onceforall.zoo.download import cached
from onceforall.zoo.entries import ZooEntry, find_entry, zoo_entries

Status = Literal["ok", "misprint", "differs", "absent"]
# Tensors in the released supernet checkpoints.
_SUPERNET_TENSORS = {
    "ofa_mbv3_d234_e346_k357_w1.0": 475,
    "ofa_mbv3_d234_e346_k357_w1.2": 475,
    "ofa_proxyless_d234_e346_k357_w1.3": 446,
    "ofa_resnet50": 368,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing about one published network.

    Attributes:
        id: Id of the network.
        name: What was checked.
        expected: The published value, as text.
        found: What we compute or have, as text.
        status: ``ok``; ``misprint`` where the published figure is known to be wrong; ``differs``;
            ``absent`` where there is nothing to check, such as a file that is not in the cache.
    """

    id: str
    name: str
    expected: str
    found: str
    status: Status


def verify(*net_ids: str) -> tuple[Check, ...]:
    """Recompute what can be known of published networks without downloading anything.

    Parameters and multiply-accumulates against the published figures, the number of tensors
    against the released checkpoints, and the content of cached files against their checksums.

    Args:
        net_ids: Published ids or aliases; none means all.

    Raises:
        ZooError: If there is no such id or alias.
    """
    checks: list[Check] = []
    for entry in map(find_entry, net_ids) if net_ids else zoo_entries().values():
        if entry.kind == "supernet":
            checks.append(_check_tensors(entry))
        elif entry.kind == "proxylessnas" or entry.arch is not None:
            checks += _check_costs(entry, entry.blueprint())
        checks += _check_files(entry)
    return tuple(checks)


def entry_costs(entry: ZooEntry) -> tuple[int, int] | None:
    """Return (params, macs at the entry's resolution), exact; None where no plan is known."""
    if entry.kind == "supernet" or entry.resolution is None:
        return None
    plan = entry.blueprint()
    return count_params(plan), count_macs(plan, resolution=entry.resolution)


def _check_tensors(entry: ZooEntry) -> Check:
    found = len(supernet_keys(published_spec(entry.id)))
    expected = _SUPERNET_TENSORS[entry.id]
    return Check(
        id=entry.id,
        name="tensors",
        expected=str(expected),
        found=str(found),
        status="ok" if found == expected else "differs",
    )


def _check_costs(entry: ZooEntry, plan: Blueprint) -> list[Check]:
    costs = entry_costs(entry)
    if costs is None:
        return []
    figures = entry.published
    published = (figures.params_millions, figures.macs_millions)
    checks = []
    for name, value, figure in zip(
        ("params_millions", "macs_millions"), costs, published, strict=True
    ):
        if figure is None:
            continue
        # Some published figures are rounded up, some to nearest: within one unit of the last digit.
        digits = len(f"{figure:g}".partition(".")[2])
        right = abs(value / 1e6 - figure) < 10**-digits
        known = "misprint" if name in entry.misprints else "differs"
        checks.append(
            Check(
                id=entry.id,
                name=name,
                expected=f"{figure:g}",
                found=f"{value / 1e6:.6f}",
                status="ok" if right else known,  # type: ignore[arg-type]
            )
        )
    return checks


def _check_files(entry: ZooEntry) -> list[Check]:
    checks = []
    for file in entry.files:
        expected = file.git_blob_sha1 or "any content"
        status: Status = "ok"
        try:
            path = cached(file)
            found = "not in the cache" if path is None else str(path)
            status = "absent" if path is None else "ok"
        except ZooError as error:
            found, status = str(error), "differs"
        checks.append(
            Check(
                id=entry.id, name=f"file {file.name}", expected=expected, found=found, status=status
            )
        )
    return checks
