"""The published networks as rows and lines, for the command line."""

from __future__ import annotations

from typing import Any

from onceforall.zoo import ZooEntry, cached, entry_costs, find_entry, zoo_entries


def zoo_rows() -> list[dict[str, Any]]:
    """Return one JSON object for each published network."""
    return [_row(entry) for entry in zoo_entries().values()]


def zoo_lines() -> list[str]:
    """Return the lines of the table of published networks."""
    lines = [f"{'id':42} {'alias':18} {'px':>4} {'top-1':>6} {'MACs':>8} {'params':>8}"]
    for entry in zoo_entries().values():
        row = _row(entry)
        lines.append(
            f"{row['id']:42} {row['alias'] or '':18} {row['resolution'] or '':>4} "
            f"{_percent(row['top1']):>6} {_millions(row['macs_millions']):>8} "
            f"{_millions(row['params_millions']):>8}".rstrip()
        )
    return lines


def zoo_facts(net_id: str) -> dict[str, Any]:
    """Return everything known of one published network.

    Raises:
        ZooError: If there is no such id or alias.
    """
    entry = find_entry(net_id)
    facts = _row(entry)
    costs = entry_costs(entry)
    if costs is not None:
        facts |= {"params": costs[0], "macs": costs[1]}
    facts["arch"] = None if entry.arch is None else entry.arch.to_json()
    for file in entry.files:
        path = cached(file)
        facts[file.name] = file.url if path is None else f"{file.url} (here: {path})"
    return facts | {"licence": entry.licence, "provenance": entry.provenance}


def _row(entry: ZooEntry) -> dict[str, Any]:
    figures = entry.published
    return {
        "id": entry.id,
        "alias": entry.alias,
        "kind": entry.kind,
        "supernet": entry.supernet,
        "resolution": entry.resolution,
        "top1": figures.top1 if figures else None,
        "top5": figures.top5 if figures else None,
        "params_millions": figures.params_millions if figures else None,
        "macs_millions": figures.macs_millions if figures else None,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.1f}"


def _millions(value: float | None) -> str:
    return "" if value is None else f"{value:g}M"
