"""Which training plan gives the better front in the same time, on the handwritten digits.

Every plan gets the same processor time (one thread). Then the same subnets, spread over MACs, are
extracted, recalibrated and measured on the test split. The front's quality is the hypervolume
over log10 MACs and test error, relative to the worst corner; larger is better.

    python benchmarks/plans_digits.py --seconds 90 --seeds 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from onceforall.data import open_dataset
from onceforall.encoding import Encoding
from onceforall.job.config import RunConfig, resolve
from onceforall.job.data import start_session
from onceforall.job.recipes import recipe_for
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.subnet import evaluate_arch
from onceforall.pareto import hypervolume, pareto_front
from onceforall.predictors.sampling import stratified_rows
from onceforall.supernets.supernet import Supernet
from onceforall.training.engine import train
from onceforall.training.settings import TrainOptions

PLANS = {"sandwich": 0.3, "delayed": 0.3, "progressive": 0.3}


def trained(config: RunConfig, num_classes: int, session, seed: int) -> tuple[Supernet, float]:
    """Train from scratch; return the supernet and the processor seconds."""
    torch.manual_seed(seed)
    net = Supernet(config.spec(num_classes)).to(memory_format=torch.channels_last)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train(
            net,
            config.plan(net.spec),
            session.train,
            folder=Path(folder),
            options=TrainOptions(seed=seed, checkpoint_every_s=1e9),
        )
    return net, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--archs", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = open_dataset("digits")
    for name, learning_rate in PLANS.items():
        volumes, means, worst, best = [], [], [], []
        for seed in range(args.seeds):
            recipe = recipe_for(
                "digits", image_side=8, num_train=bundle.num_train, num_classes=10, seed=seed
            )
            flags = [f"train.plan={name}", f"train.learning_rate={learning_rate}"]
            pilot = resolve(recipe, flags=[*flags, "train.epochs=10"])
            session = start_session(pilot, bundle, device=torch.device("cpu"))
            plan_epochs = pilot.plan(pilot.spec(10)).epochs
            _, seconds = trained(pilot, 10, session, seed)
            epochs = max(10, round(args.seconds / (seconds / plan_epochs)))
            config = resolve(recipe, flags=[*flags, f"train.epochs={epochs}"])
            net, seconds = trained(config, 10, session, seed)
            encoding = Encoding(net.space)
            costs = compile_costs(net.spec)
            rows = stratified_rows(
                encoding.sample, costs.macs, count=args.archs, rng=np.random.default_rng(0)
            )
            top1 = np.array(
                [
                    evaluate_arch(
                        net, a, calibration=session.calibration_batches, images=session.test
                    ).top1
                    for a in encoding.to_archs(rows)
                ]
            )
            points = np.stack([np.log10(costs.macs(rows)), 1 - top1], axis=1)
            front = points[pareto_front(points)]
            volumes.append(hypervolume(front, (np.log10(4e6), 0.1)))
            means.append(top1.mean())
            worst.append(top1.min())
            best.append(top1.max())
            print(
                f"{name} seed {seed}: {epochs} epochs in {seconds:.0f} s; top-1 mean "
                f"{top1.mean() * 100:.2f} %, worst {top1.min() * 100:.2f} %, best "
                f"{top1.max() * 100:.2f} %; hypervolume {volumes[-1]:.4f}",
                flush=True,
            )
        print(
            f"{name}: hypervolume {statistics.mean(volumes):.4f}, mean "
            f"{statistics.mean(means) * 100:.2f} %, worst {statistics.mean(worst) * 100:.2f} %, "
            f"best {statistics.mean(best) * 100:.2f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
