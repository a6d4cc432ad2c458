"""The last steps of a run: winners become measured, verified files, and a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onceforall.arch import Arch
from onceforall.deploy.model_folder import check_files, export_files, write_card
from onceforall.deploy.specialize import specialize
from onceforall.files import read_json
from onceforall.measure.accuracy import evaluate
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from onceforall.measure.latency import Latency, measure_latency
from onceforall.measure.latency_targets import Candidate, make_target
from onceforall.run import Run, read_front, trained_supernet, versions
from onceforall.session import DataSession
from onceforall.supernets.supernet import Supernet

Point = dict[str, Any]
_CHECK_IMAGES = 16


def choose_winners(points: Sequence[Point], count: int) -> list[Point]:
    """Return ``count`` points of a front, both ends included, spread evenly over log latency.

    Args:
        points: Points with ``latency_ms``; any order.
        count: Points to choose; all of them if there are not more.
    """
    ordered = sorted(points, key=lambda point: (point["latency_ms"], point["macs"]))
    if len(ordered) <= count:
        return ordered
    low, high = (math.log(ordered[i]["latency_ms"]) for i in (0, -1))
    chosen: list[int] = []
    for k in range(count):
        wanted = high if count == 1 else low + (high - low) * k / (count - 1)
        left = [i for i in range(len(ordered)) if i not in chosen]
        chosen.append(
            min(left, key=lambda i: (abs(math.log(ordered[i]["latency_ms"]) - wanted), i))
        )
    return [ordered[i] for i in sorted(chosen)]


def model_name(arch: Arch, macs: int, number: int) -> str:
    """Return a model's folder name: its number, MACs and resolution."""
    size = f"{macs / 1e6:.1f}M" if macs < 1e8 else f"{macs / 1e6:.0f}M"
    return f"net{number:02d}-{size}-{arch.resolution}px"


def models_step(run: Run) -> None:
    """Specialise, measure, export and verify the winners of the front."""
    points = choose_winners(read_front(run.folder)["points"], run.config.search.num_models)
    archs = [Arch.from_json(point["arch"]) for point in points]
    spec = run.spec
    costs = [count_macs(spec.blueprint(a), resolution=a.resolution) for a in archs]
    names = [model_name(a, m, i) for i, (a, m) in enumerate(zip(archs, costs, strict=True), 1)]
    left = [
        (name, arch, point)
        for name, arch, point in zip(names, archs, points, strict=True)
        if not (run.folder.models / name / "card.json").is_file()
    ]
    if not left:
        return
    session, net = run.session(), trained_supernet(run).cpu()
    ready = []
    for position, (name, arch, point) in enumerate(left):
        run.progress("models", position, len(left))
        ready.append((name, point, *_prepare(run, session, net, run.folder.models / name, arch)))
    target = make_target(run.config.latency.target, threads=run.config.latency.threads)
    latencies = measure_latency([candidate for *_, candidate in ready], target=target, repeats=40)
    for (name, point, facts, checks, candidate), latency in zip(ready, latencies, strict=True):
        facts |= _latency_facts(latency) | _predicted(point) | {"name": name}
        write_card(run.folder.models / name, candidate.plan, checks, facts)
    run.progress("models", len(left), len(left))


def _prepare(
    run: Run, session: DataSession, net: Supernet, folder: Path, arch: Arch
) -> tuple[dict[str, Any], Any, Candidate]:
    """Export one winner and measure its accuracy on the test images."""
    batches = [images.cpu() for images in session.calibration_batches(arch.resolution)]
    model = specialize(net, arch, calibration=batches)
    plan = net.blueprint(arch)
    export_files(folder, model, plan, arch)
    test = ((x.cpu(), y.cpu()) for x, y in session.test.batches(arch.resolution))
    accuracy = evaluate(model, test)
    images = next(iter(session.test.batches(arch.resolution)))[0][:_CHECK_IMAGES].cpu()
    checks = check_files(
        folder, plan, net=net, arch=arch, calibration=batches, images=images.contiguous()
    )
    bundle = run.bundle
    facts = {
        "arch": arch.to_json(),
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "images": accuracy.images,
        "macs": count_macs(plan, resolution=arch.resolution),
        "params": count_params(plan),
        "peak_activation_bytes": peak_activation_bytes(plan, resolution=arch.resolution),
        "resolution": arch.resolution,
        "data": bundle.name,
        "classes": list(bundle.class_names),
        "mean": list(bundle.mean),
        "std": list(bundle.std),
        "crop_ratio": bundle.eval_crop_ratio,
        "versions": versions(),
    }
    onnx = (folder / "model.onnx").read_bytes()
    return (
        facts,
        checks,
        Candidate(
            plan=plan, resolution=arch.resolution, name=folder.name, weights=model, onnx=onnx
        ),
    )


def _latency_facts(latency: Latency) -> dict[str, Any]:
    return {
        "latency_ms": latency.latency_ms,
        "latency_mad_ms": latency.latency_mad_ms,
        "latency_p90_ms": latency.latency_p90_ms,
        "target": {
            "name": latency.target,
            "threads": latency.threads,
            "hardware": latency.hardware.to_json(),
        },
    }


def _predicted(point: Point) -> dict[str, Any]:
    return {
        "predicted_top1": point["predicted_top1"],
        "predicted_top1_std": point.get("predicted_top1_std"),
        "predicted_latency_ms": point["latency_ms"],
    }


def read_cards(models: Path) -> list[dict[str, Any]]:
    """Return the cards of all finished models, smallest first; ``on_front`` says who is optimal.

    A model is on the front when no other is both at least as accurate and as fast, and better in
    one of the two, as measured.
    """
    paths = sorted(models.glob("*/card.json")) if models.is_dir() else []
    cards = [read_json(path) for path in paths]
    for card in cards:
        card["on_front"] = not any(_beats(other, card) for other in cards)
    return sorted(cards, key=lambda card: card["macs"])


def _beats(first: dict[str, Any], second: dict[str, Any]) -> bool:
    as_good = first["top1"] >= second["top1"] and first["latency_ms"] <= second["latency_ms"]
    return as_good and (first["top1"], first["latency_ms"]) != (
        second["top1"],
        second["latency_ms"],
    )


def model_table(cards: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table that a run ends with."""
    rows = [("model", "arch", "MACs", "params", "latency ms", "test top-1")]
    for card in cards:
        arch = Arch.from_json(card["arch"])
        rows.append(
            (
                card["name"],
                str(arch),
                f"{card['macs'] / 1e6:.2f} M",
                f"{card['params'] / 1e3:.1f} k",
                f"{card['latency_ms']:.3f} +- {card['latency_mad_ms']:.3f}",
                f"{card['top1'] * 100:.2f} %" + (" *" if card["on_front"] else "  "),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (0, 1)
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return [*itertools.chain(lines[:1], [rule], lines[1:])]
