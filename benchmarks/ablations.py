"""One setting against another on pictures: the same passes, one thread, validation images.

    python benchmarks/ablations.py photos/ --csv docs/results/ablations.csv --name wd1e-3 \
        --set train.epochs=36 --set train.weight_decay=1e-3

Trains the recipe of the data set with the changes given, then measures the largest, the smallest
and three random subnets on the images held out of training. Passes are fixed and not the time, so
that a busy machine changes nothing but the seconds.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from pathlib import Path

import torch

from onceforall.job.config import resolve
from onceforall.job.data import image_side, open_data, start_session
from onceforall.job.recipes import recipe_for
from onceforall.measure.costs import count_macs
from onceforall.measure.subnet import evaluate_arch
from onceforall.supernets.supernet import Supernet
from onceforall.training.engine import train
from onceforall.training.settings import TrainOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--name", required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = recipe_for(arguments.data, image_side=32, num_train=5000, num_classes=10).data
    bundle = open_data(facts)
    recipe = recipe_for(
        arguments.data,
        image_side=image_side(bundle.test),
        num_train=bundle.num_train,
        num_classes=bundle.num_classes,
    )
    config = resolve(recipe, flags=arguments.set)
    bundle = open_data(config.data, image_size=config.supernet.resolutions[-1])
    session = start_session(config, bundle, device=torch.device("cpu"))
    torch.manual_seed(config.seed)
    spec = config.spec(bundle.num_classes)
    net = Supernet(spec).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(
            net,
            config.plan(spec),
            session.train,
            folder=Path(folder),
            options=TrainOptions(
                seed=config.seed,
                autocast=bool(config.train.autocast),
                checkpoint_every_s=1e9,
            ),
        )
    seconds = time.perf_counter() - started
    space = spec.space
    archs = {"largest": space.largest, "smallest": space.smallest}
    archs |= {f"random{i}": space.sample(random.Random(i)) for i in (1, 2, 3)}
    row: dict[str, object] = {"name": arguments.name, "settings": " ".join(arguments.set)}
    row |= {"seed": config.seed, "seconds": round(seconds)}
    for name, arch in archs.items():
        found = evaluate_arch(
            net, arch, calibration=session.calibration_batches, images=session.valid
        )
        macs = count_macs(spec.blueprint(arch), resolution=arch.resolution)
        row |= {f"{name}_mmacs": round(macs / 1e6, 1), f"{name}_top1": round(found.top1, 4)}
    is_new = not arguments.csv.exists()
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
