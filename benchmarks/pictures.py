"""The main job on pictures: wall time kept, models made.

    python benchmarks/pictures.py photos/ --budget 12m --csv docs/results/photos.csv
    python benchmarks/pictures.py cifar10.npz --budget 60m --busy --csv ...

Runs ``ofa run`` once in a fresh folder, on the code that is installed, and appends a row for each
model. With ``--busy`` another process takes a core during the second half of the time.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from onceforall.cli.options import parse_budget

FIELDS = (
    "data", "budget_s", "wall_s", "busy", "seed", "model", "macs", "params", "latency_ms",
    "top1", "low", "high", "images", "torch", "machine",
)  # fmt: skip


def busy_core(stop: threading.Event, after_s: float) -> None:
    """Take a core from ``after_s`` seconds on."""
    if stop.wait(after_s):
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    stop.wait()
    process.kill()


def run(arguments: argparse.Namespace, out: Path) -> float:
    """Run the command; return its wall time in seconds."""
    stop = threading.Event()
    budget_s = parse_budget(arguments.budget) or 0.0
    other = threading.Thread(target=busy_core, args=(stop, budget_s / 2))
    if arguments.busy:
        other.start()
    started = time.perf_counter()
    command = [sys.executable, "-m", "onceforall", "run", arguments.data, "--out", str(out)]
    command += ["--budget", arguments.budget, "--seed", str(arguments.seed), *arguments.more]
    try:
        subprocess.run(command, check=True)
        return time.perf_counter() - started
    finally:
        stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--budget", default="12m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="keep the run here")
    parser.add_argument("more", nargs="*", help="further options of ofa run, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "run"
        wall_s = run(arguments, out)
        cards = [json.loads(path.read_text()) for path in sorted(out.glob("models/*/card.json"))]
    is_new = not arguments.csv.exists()
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for card in cards:
            low, high = card["top1_interval"]
            writer.writerow(
                {
                    "data": Path(arguments.data).name,
                    "budget_s": parse_budget(arguments.budget),
                    "wall_s": round(wall_s, 1),
                    "busy": int(arguments.busy),
                    "seed": arguments.seed,
                    "model": card["name"],
                    "low": round(low, 4),
                    "high": round(high, 4),
                    "torch": card["versions"]["torch"],
                    "machine": platform.machine(),
                    **{name: card[name] for name in ("macs", "params", "top1", "images")},
                    "latency_ms": round(card["latency_ms"], 4),
                }
            )
    best = max(card["top1"] for card in cards)
    print(f"{len(cards)} models, best {best:.1%}, {wall_s:.1f} s")


if __name__ == "__main__":
    main()
