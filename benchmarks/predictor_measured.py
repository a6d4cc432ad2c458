"""The accuracy predictor on ImageNet subnets that others measured.

    python benchmarks/predictor_measured.py --data ../shared/data/measured

The logs of five searches over the MobileNetV3 supernet (width 1.0, 224 px): accuracies of 2,373
subnets, 2,162 of them distinct. Trained on 300 drawn at random and tested on all others, for five
draws; then trained on one search and tested on the subnets that only the others visited.
"""

from __future__ import annotations

import argparse
import ast
import csv
import time
from pathlib import Path

import numpy as np

from onceforall.arch import Arch
from onceforall.encoding import Encoding
from onceforall.predictors.accuracy import AccuracyPredictor, PredictorReport
from onceforall.predictors.sampling import learning_curve
from onceforall.published_archs import arch_from_published
from onceforall.space import SearchSpace
from onceforall.supernets.families import mobilenet_v3


def read_log(path: Path, space: SearchSpace) -> dict[Arch, list[float]]:
    """Measured accuracies of each distinct arch of one log; some were measured twice."""
    measured: dict[Arch, list[float]] = {}
    with path.open() as file:
        for line in csv.DictReader(file):
            arch = arch_from_published(space, ast.literal_eval(line["Sub-network"]))
            measured.setdefault(arch, []).append(float(line["Top-1 Acc (%)"]) / 100)
    return measured


def line(name: str, report: PredictorReport, seconds: float) -> str:
    return (
        f"{name:26s} {report.num_train:5d} -> {report.num_test:5d}   tau {report.kendall_tau:.4f} "
        f"(ridge {report.ridge_kendall_tau:.4f})   RMSE {report.rmse * 100:.3f} % "
        f"(ridge {report.ridge_rmse * 100:.3f} %)   90 % interval covers "
        f"{report.interval_coverage:.1%}   fit {seconds:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--num-train", type=int, default=300)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    encoding = Encoding(mobilenet_v3().space.restrict(resolution=[224]))
    logs = {
        path.stem: read_log(path, encoding.space) for path in sorted(args.data.glob("dynast_*.csv"))
    }
    measured: dict[Arch, list[float]] = {}
    for log in logs.values():
        for arch, values in log.items():
            measured.setdefault(arch, []).extend(values)
    archs = list(measured)
    x = encoding.features(encoding.from_archs(archs))
    y = np.array([np.mean(measured[arch]) for arch in archs])
    print(f"{sum(map(len, measured.values()))} measurements, {len(archs)} distinct archs, "
          f"{x.shape[1]} features")  # fmt: skip

    def run(name: str, train: np.ndarray, test: np.ndarray) -> AccuracyPredictor:
        start = time.perf_counter()
        predictor = AccuracyPredictor.fit(x[train], y[train], seed=0)
        seconds = time.perf_counter() - start
        print(line(name, predictor.report(x[test], y[test]), seconds))
        return predictor

    for draw in range(args.draws):
        order = np.random.default_rng(draw).permutation(len(y))
        run(f"random draw {draw}", order[: args.num_train], order[args.num_train :])
    for name, log in logs.items():
        inside = np.array([arch in log for arch in archs])
        (train,), (test,) = np.nonzero(inside), np.nonzero(~inside)
        run(name.removeprefix("dynast_mbnv3w10_"), train, test)

    order = np.random.default_rng(0).permutation(len(y))
    for count in (60, 150, 300):
        print(learning_curve(x[order[:count]], y[order[:count]]))
    predictor = AccuracyPredictor.fit(x[order[:300]], y[order[:300]], seed=0)
    population = np.tile(x, (10, 1))
    start = time.perf_counter()
    predictor.predict(population)
    print(f"{len(population) / (time.perf_counter() - start):,.0f} predictions a second")


if __name__ == "__main__":
    main()
