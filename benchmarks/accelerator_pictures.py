"""One supernet on a GPU in at most 30 minutes: what its subnets reach without fine-tuning.

    python benchmarks/accelerator_pictures.py cifar10.npz --out RUN --csv docs/results/gpu.csv

Trains one elastic residual network by  ofa run  with a budget of 28 minutes, takes the best
predicted arch under each bound on MACs, extracts and recalibrates it, and measures it on the test
images. Bars: 90.2 % at 11M, 92.9 at 28M, 93.8 at 59M, 93.96 at 68M, 94.4 at 126M, 95 at 170M.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from onceforall.job.start import open_run
from onceforall.job.steps.search import best_under_limits
from onceforall.job.weights import trained_supernet
from onceforall.measure.subnet import evaluate_arch

BARS = {11e6: 0.902, 28e6: 0.929, 59e6: 0.938, 68e6: 0.9396, 126e6: 0.944, 170e6: 0.95}
NETWORK = (
    "supernet.family=residual", "supernet.widths=[16,64,128]", "supernet.depths=[1,2,3]",
    "supernet.expand_ratios=[0.25,0.5,1]", "supernet.width_mults=[0.5,0.75,1]",
    "supernet.stem_width=32", "supernet.resolutions=[24,28,32]", "train.batch_size=512",
    "train.subnets_per_step=4", "train.autocast=true",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--budget", default="28m")
    arguments = parser.parse_args()
    flags = [part for setting in NETWORK for part in ("--set", setting)]
    subprocess.run(
        [
            sys.executable, "-m", "onceforall", "run", arguments.data, "--out", arguments.out,
            "--budget", arguments.budget, *flags,
        ],
        check=True,
    )  # fmt: skip
    run = open_run(arguments.out, tell=lambda event: None)
    session, net = run.session(), trained_supernet(run)
    with arguments.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["max_macs", "macs", "top1", "bar", "arch"])
        for bound, bar in BARS.items():
            (found,) = best_under_limits(run, {"macs": [bound]})
            top1 = evaluate_arch(
                net, found.arch, calibration=session.calibration_batches, images=session.test
            ).top1
            writer.writerow([int(bound), found.macs, round(top1, 4), bar, str(found.arch)])
            print(
                f"<= {bound / 1e6:.0f}M MACs: {top1:.2%} (bar {bar:.2%})  {found.arch}", flush=True
            )


if __name__ == "__main__":
    main()
