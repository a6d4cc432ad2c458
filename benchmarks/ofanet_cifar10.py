"""Record a run of the published CIFAR-10 experiment: table, curves and a page for docs/results.

    ofa run cifar10 --recipe cifar10-ofanet --epochs-scale 0.12 --out runs/ofanet
    python benchmarks/ofanet_cifar10.py runs/ofanet --out docs/results --name ofanet_cifar10

The first command is the whole experiment, which takes 102 minutes on 2 cores at 0.12 of its length;
without ``--epochs-scale`` it is the published one, for an accelerator.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from onceforall.artifacts import RunSettings
from onceforall.files import read_jsonl, write_text


def curves(events: list[dict]) -> list[dict[str, object]]:
    """Return a line for each epoch of training and of every fine-tuning."""
    lines = []
    for event in events:
        if event["event"] not in ("epoch", "finetune_epoch"):
            continue
        probes = event.get("probes", {})
        lines.append(
            {
                "model": event.get("model", "supernet"),
                "phase": event["phase"],
                "epochs_done": event["epochs_done"],
                "elapsed_s": round(event["elapsed_s"]),
                "loss": event.get("loss"),
                "top1": event.get("top1"),
                "images_per_s": event.get("images_per_s"),
                **{f"valid_{name}": probes.get(name) for name in ("smallest", "random", "largest")},
                "valid_grid_mean": event.get("grid_mean"),
                "valid_grid_worst": min(event["grid"].values()) if "grid" in event else None,
            }
        )
    return lines


def write_csv(path: Path, lines: list[dict[str, object]]) -> None:
    rows = [",".join(lines[0])]
    rows += [",".join("" if v is None else str(v) for v in line.values()) for line in lines]
    write_text(path, "\n".join(rows) + "\n")


def page(run: Path, name: str, events: list[dict]) -> str:
    """Return the page: command, machine, times, table."""
    settings = RunSettings.read(run / "run.yaml")
    table = list(csv.DictReader((run / "finetuned.csv").read_text().splitlines()))
    steps = {event["step"]: event["seconds"] for event in events if event["event"] == "step_done"}
    whole_s = max(event.get("elapsed_s", 0.0) for event in events)
    train, machine = settings.config["train"], settings.hardware
    device = machine["gpu"] or f"{machine['cpu_threads']} CPU threads"
    times = ", ".join(f"{step} {seconds / 60:.0f} min" for step, seconds in steps.items())
    lines = [
        "# The published CIFAR-10 experiment",
        "",
        f"    ofa run cifar10 --recipe cifar10-ofanet --epochs-scale {train['epochs_scale']:g} "
        "--out runs/ofanet",
        "",
        f"{whole_s / 60:.0f} minutes in all ({times}) in {train['ranks']} processes on "
        f"{device}, torch {settings.versions.get('torch', '?')}, one seed.",
        f"Choices are made on {settings.config['data']['num_valid']:,} held-out training images; "
        f"the figures are of the {settings.data.test:,} test images.",
        f"Phases and rates: [experiments](../experiments.md). Curves: `{name}_curves.csv`.",
        "",
        "| (k, d, w) | MACs | params | top-1 before | after fine-tuning | gain |",
        "|---|---|---|---|---|---|",
    ]
    for row in table:
        before, after = float(row["top1_before"]), float(row["top1_after"])
        place = ", ".join(row[axis] for axis in ("kernel_size", "depth", "expand_ratio"))
        costs = f"{int(row['macs']):,} | {int(row['params']):,}"
        lines.append(
            f"| ({place}) | {costs} | {100 * before:.2f} % | {100 * after:.2f} % | "
            f"{100 * (after - before):+.2f} |"
        )
    worst = min(float(row["top1_before"]) for row in table)
    gain = min(float(row["top1_after"]) - float(row["top1_before"]) for row in table)
    lines += ["", f"Worst before {100 * worst:.2f} %; smallest gain {100 * gain:+.2f} points."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--name", default="ofanet_cifar10")
    arguments = parser.parse_args()
    events = read_jsonl(arguments.run / "events.jsonl")
    text = page(arguments.run, arguments.name, events)
    write_text(arguments.out / f"{arguments.name}.md", text)
    table = (arguments.run / "finetuned.csv").read_text()
    write_text(arguments.out / f"{arguments.name}.csv", table)
    write_csv(arguments.out / f"{arguments.name}_curves.csv", curves(events))
    print(text)


if __name__ == "__main__":
    main()
