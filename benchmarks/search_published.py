"""What the search finds with the published predictor and phone tables, for several seeds.

    python benchmarks/search_published.py                  # default effort, 10 seeds
    python benchmarks/search_published.py --budget 60s     # a minute for the five limits together

Searches the MobileNetV3 supernet (width 1.2) for the best predicted top-1 under five limits on the
published latency, on one thread. The worst seed of every limit stands beside the bar to reach.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from onceforall.cli.options import parse_budget
from onceforall.job.tasks.published_search import PublishedRequest, search_published

NET = "ofa_mbv3_d234_e346_k357_w1.2"
LIMITS_MS = (15, 20, 25, 30, 40)
# Predicted top-1 to reach at each limit: by default, and when told how long to search.
BARS = (0.78750, 0.80730, 0.82150, 0.82983, 0.84081)
BARS_OF_A_BUDGET = (0.78780, 0.80769, 0.82202, 0.83091, 0.84192)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def default_data() -> Path:
    data = os.environ.get("ONCEFORALL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    return Path(data) / "published"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_data(), help="predictor and note10/")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", help="time for the five limits of a seed, e.g. 60s")
    args = parser.parse_args()
    # The thread pools of numpy read these once, when they are loaded.
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    torch.set_num_threads(1)
    budget_s = parse_budget(args.budget)

    found: list[list[float]] = []
    longest_s = 0.0
    for seed in range(args.seeds):
        request = PublishedRequest(
            net=NET,
            predictor=args.data / "acc_predictor.pth",
            latency=args.data / "note10",
            limits={"latency_ms": LIMITS_MS},
            seed=seed,
            budget_s=budget_s,
        )
        best = search_published(request)
        seconds = sum(line.seconds for line in best)
        longest_s = max(longest_s, seconds)
        found.append([line.predicted_top1 for line in best])
        print(f"seed {seed:3d}  " + "  ".join(f"{x:.5f}" for x in found[-1]) + f"  {seconds:.1f} s",
              flush=True)  # fmt: skip

    bars = BARS if budget_s is None else BARS_OF_A_BUDGET
    print(f"\n{'limit':>6s}  {'worst':>7s}  {'mean':>7s}  {'bar':>7s}  of {len(found)} seeds")
    for limit, bar, values in zip(LIMITS_MS, bars, zip(*found, strict=True), strict=True):
        reached = sum(value >= bar for value in values)
        print(f"{limit:3d} ms  {min(values):.5f}  {sum(values) / len(values):.5f}  {bar:.5f}  "
              f"{reached} reach it")  # fmt: skip
    print(f"longest search of five limits: {longest_s:.1f} s")


if __name__ == "__main__":
    main()
