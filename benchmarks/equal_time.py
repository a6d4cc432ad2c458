"""Was the supernet worth it? Its front against the same architectures trained alone, in equal time.

    ofa run cifar10.npz --budget 60m --out RUN
    ofa baseline RUN --budget 7.5m
    python benchmarks/equal_time.py RUN

Prints both hypervolumes (log latency, error; the reference point is the slowest network of both
sets at 40 % error) and at how many devices, each with a network of its own, the supernet breaks
even: the number of networks trained alone that its whole time would have paid for.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from onceforall.pareto import hypervolume

WORST_ERROR = 0.4


def points(records: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(math.log(r["latency_ms"]), 1 - r["top1"]) for r in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    cards = {
        card["name"]: card
        for path in sorted(run.glob("models/*/card.json"))
        if "finetuned_from" not in (card := json.loads(path.read_text()))
    }
    alone = [json.loads(path.read_text()) for path in sorted(run.glob("baselines/*.json"))]
    alone = [{**r, "latency_ms": cards[r["name"]]["latency_ms"]} for r in alone]
    reference = np.array([max(math.log(c["latency_ms"]) for c in cards.values()), WORST_ERROR])
    ours = hypervolume(np.array(points(list(cards.values()))), reference)
    theirs = hypervolume(np.array(points(alone)), reference)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    done = [e for e in events if e["event"] == "step_done" and e["step"] == "models"]
    whole_s = done[0]["elapsed_s"]
    each_s = sum(r["seconds"] for r in alone) / len(alone)
    print(f"hypervolume: supernet {ours:.4f}, alone {theirs:.4f}, ratio {ours / theirs:.3f}")
    print(
        f"the supernet's {whole_s:.0f} s pay for {whole_s / each_s:.1f} networks of {each_s:.0f} s"
    )


if __name__ == "__main__":
    main()
