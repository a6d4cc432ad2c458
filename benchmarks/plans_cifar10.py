"""Plans, distillation, channel sorting and recalibration on CIFAR-10, each in the same time.

    python benchmarks/plans_cifar10.py cifar10 --minutes 10 --csv docs/results/plans_cifar10.csv

Every variant of every seed trains in a process of its own on one thread, for the same processor
time: the engine keeps it as it keeps a budget, so that every schedule ends. Two run side by side.
Then the same subnets, spread over MACs, are measured on the images held out of training, with batch
norm recalibrated and as training left it. A line that is in the file already is not done again, so
that the same command goes on. The summary has mean and standard deviation over seeds, and what each
variant is better than its plan's usual form on the same seed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from onceforall.encoding import Encoding
from onceforall.job.config import resolve
from onceforall.job.data import open_data, start_session
from onceforall.job.machine import keep_freed_memory
from onceforall.job.recipes import ladder_for, recipe_for
from onceforall.measure.accuracy import evaluate
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.subnet import evaluate_arch
from onceforall.pareto import hypervolume, pareto_front
from onceforall.predictors.sampling import stratified_rows
from onceforall.supernets.supernet import elastic
from onceforall.training.budget import Pace
from onceforall.training.engine import train
from onceforall.training.plan import Plan
from onceforall.training.settings import Callbacks, TrainOptions

PLANS = ("progressive", "sandwich", "delayed")
WITHOUT = {"": PLANS, "distillation": PLANS, "sorting": ("progressive", "delayed")}
VARIANTS = {
    f"{plan}{f' without {what}' if what else ''}": (plan, what)
    for what, plans in WITHOUT.items()
    for plan in plans
}
# Epochs that a plan is made with; the clock decides how many there are.
_PLANNED_EPOCHS = 20
_SUBNETS = 14
_WORST_ERROR = 0.6


def plan_of(plan: Plan, what: str) -> Plan:
    """Return a plan without one of its parts."""
    changes = {"distillation": {"teacher": "none"}, "sorting": {"sort_channels": None}, "": {}}
    phases = tuple(dataclasses.replace(phase, **changes[what]) for phase in plan.phases)
    return dataclasses.replace(plan, phases=phases)


def rows_of(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Train one variant; return its line with recalibration and that without."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `ofa run` does
    name, what = VARIANTS[arguments.variant]
    recipe = recipe_for(
        arguments.data, image_side=32, num_train=50_000, num_classes=10, seed=arguments.seed
    )
    recipe = recipe.model_copy(update={"supernet": ladder_for(32)[1]})
    flags = [f"train.plan={name}", f"train.epochs={_PLANNED_EPOCHS}", "train.autocast=false"]
    config = resolve(recipe, flags=flags)
    bundle = open_data(config.data)
    session = start_session(config, bundle, device=torch.device("cpu"))
    spec = config.spec(bundle.num_classes)
    net = elastic(spec, seed=arguments.seed)
    done: list[int] = []
    end = time.process_time() + 60 * arguments.minutes
    plan = plan_of(config.plan(spec), what)
    with tempfile.TemporaryDirectory() as folder:
        train(
            net,
            plan,
            session.train,
            folder=Path(folder),
            options=TrainOptions(
                seed=arguments.seed,
                checkpoint_every_s=1e9,
                pace=Pace(
                    seconds_left=lambda crowding: end - time.process_time(),
                    step_seconds=tuple(
                        p.subnets_per_step + (p.teacher == "frozen") / 3 for p in plan.phases
                    ),
                    every_s=5.0,
                ),
            ),
            callbacks=Callbacks(
                change_batch=lambda images, labels, step: (
                    done.append(len(images)) or images,
                    labels,
                )
            ),
        )
    seconds = 60 * arguments.minutes - (end - time.process_time())
    encoding, costs = Encoding(spec.space), compile_costs(spec)
    drawn = stratified_rows(
        encoding.sample, costs.macs, count=_SUBNETS, rng=np.random.default_rng(0)
    )
    rows = encoding.unique(np.concatenate([encoding.smallest(), encoding.largest(), drawn]))
    archs, macs = encoding.to_archs(rows), costs.macs(rows)
    lines = []
    for is_recalibrated in (True, False):
        top1 = [
            evaluate_arch(
                net, arch, calibration=session.calibration_batches, images=session.valid
            ).top1
            if is_recalibrated
            else evaluate(net.extract(arch), session.valid.batches(arch.resolution)).top1
            for arch in archs
        ]
        points = np.stack([np.log10(macs), 1 - np.array(top1)], axis=1)
        front = points[pareto_front(points)]
        volume = hypervolume(front, (float(np.log10(macs.max())) + 0.1, _WORST_ERROR))
        lines.append(
            {
                "variant": arguments.variant,
                "seed": arguments.seed,
                "recalibrated": is_recalibrated,
                "minutes": arguments.minutes,
                "seconds": round(seconds, 1),
                "images": sum(done),
                "mean": round(float(np.mean(top1)), 5),
                "worst": round(min(top1), 5),
                "best": round(max(top1), 5),
                "hypervolume": round(volume, 5),
            }
        )
    return lines


def append(path: Path, lines: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(lines)


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []


def do_all(arguments: argparse.Namespace) -> None:
    """Do every variant and seed that is not in the file, two at a time."""
    known = {(line["variant"], int(line["seed"])) for line in read(arguments.csv)}
    # Seed by seed: what is there after an interruption is of all variants.
    left = [(v, s) for s in range(arguments.seeds) for v in VARIANTS if (v, s) not in known]

    def one(job: tuple[str, int]) -> None:
        command = [sys.executable, __file__, arguments.data, "--csv", str(arguments.csv)]
        command += ["--minutes", str(arguments.minutes)]
        subprocess.run([*command, "--variant", job[0], "--seed", str(job[1])], check=True)
        print(f"done: {job[0]}, seed {job[1]}", flush=True)

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(one, left))


def summarize(path: Path) -> None:
    """Print mean and spread over seeds, and the mean difference to the plan's usual form."""
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(dict)
    for line in read(path):
        figures = {key: float(line[key]) for key in ("mean", "worst", "best", "hypervolume")}
        found[line["variant"], line["recalibrated"]][int(line["seed"])] = figures
    for (variant, recalibrated), seeds in sorted(found.items()):
        usual = found.get((VARIANTS[variant][0], "True"), {})
        words = []
        for key in ("mean", "worst", "best", "hypervolume"):
            factor = 1 if key == "hypervolume" else 100
            values = [factor * each[key] for each in seeds.values()]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            pairs = [factor * (seeds[s][key] - usual[s][key]) for s in seeds if s in usual]
            change = f" ({statistics.mean(pairs):+.3f})" if pairs and any(pairs) else ""
            words.append(f"{key} {statistics.mean(values):.3f} +- {spread:.3f}{change}")
        form = "" if recalibrated == "True" else ", not recalibrated"
        print(f"{variant}{form}, {len(seeds)} seeds: {'; '.join(words)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.variant:
        append(arguments.csv, rows_of(arguments))
        return
    do_all(arguments)
    summarize(arguments.csv)


if __name__ == "__main__":
    main()
