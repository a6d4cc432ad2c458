"""How well a latency model predicts networks that it has not seen, on this machine.

    python benchmarks/latency_model.py --out latency-bench --budget 300

Profiles the space (blocks, then whole networks), then measures 40 other random networks twice and
compares. The second measurement says what repeating the measurement itself would reach.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch

from onceforall.files import write_json
from onceforall.measure.costs import count_macs, sized_layers
from onceforall.measure.latency.measure import measure_latency
from onceforall.measure.latency.model import LatencyModel, build_latency_model
from onceforall.measure.latency.targets import Candidate, make_target
from onceforall.measure.ranking import kendall_tau
from onceforall.supernets.families import published_spec, small_images
from onceforall.supernets.spec import SupernetSpec


def line(name: str, predicted: np.ndarray, measured: np.ndarray) -> str:
    error = np.abs(predicted / measured - 1)
    return (
        f"{name:34s} tau {kendall_tau(predicted, measured):.3f}   median error "
        f"{np.median(error):6.1%}   p90 {np.quantile(error, 0.9):6.1%}"
    )


def measured_ms(
    candidates: list[Candidate], model: LatencyModel, repeats: int, seed: int
) -> np.ndarray:
    records = measure_latency(
        candidates,
        target=make_target(model.target, threads=model.threads),
        repeats=repeats,
        sentinel_ms=model.sentinel_ms,
        seed=seed,
    )
    disturbed = sum(r.disturbed for r in records) / sum(r.repeats for r in records)
    print(
        f"  measured {len(records)} networks: sentinel p90/p10 {records[0].sentinel_spread:.2f}, "
        f"{disturbed:.0%} of samples disturbed, e.g. {records[0]}"
    )
    return np.array([record.latency_ms for record in records])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="ofa_mbv3_d234_e346_k357_w1.0", help="or small_images")
    parser.add_argument("--target", default="ort-cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of profiling")
    parser.add_argument("--networks", type=int, default=40, help="unseen networks to compare on")
    parser.add_argument("--repeats", type=int, default=40, help="samples of each unseen network")
    parser.add_argument("--out", type=Path, required=True, help="folder of journal and model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec: SupernetSpec = (
        small_images(num_classes=10) if args.net == "small_images" else published_spec(args.net)
    )
    print(f"load average before: {os.getloadavg()}")
    start = time.perf_counter()
    model = build_latency_model(
        spec,
        target=make_target(args.target, threads=args.threads),
        journal=args.out / "journal.jsonl",
        budget_s=args.budget,
    )
    seconds = time.perf_counter() - start
    write_json(args.out / "model.json", model.to_json())
    print(f"profiled in {seconds:.0f} s on {model.hardware}")
    print(f"  table of {sum(map(len, model.table.values()))} entries, "
          f"{(args.out / 'model.json').stat().st_size / 1e3:.0f} kB")  # fmt: skip
    print(f"  left-out networks while profiling: {json.dumps(model.report.to_json())}")

    rng = random.Random(2024)
    archs = [spec.space.sample(rng) for _ in range(args.networks)]
    plans = [(spec.blueprint(arch), arch.resolution) for arch in archs]
    candidates = [Candidate(plan=p, resolution=r, name=str(a))
                  for a, (p, r) in zip(archs, plans, strict=True)]  # fmt: skip
    first = measured_ms(candidates, model, args.repeats, seed=1)
    second = measured_ms(candidates, model, args.repeats, seed=2)
    truth = (first + second) / 2
    macs = np.array([float(count_macs(p, resolution=r)) for p, r in plans])
    alone = np.array(
        [
            sum(model.table_ms(layer, size) for layer, size, _ in sized_layers(p, r))
            for p, r in plans
        ]
    )
    predicted = np.array([model.latency_ms(p, resolution=r) for p, r in plans])
    print(f"{args.networks} unseen networks, {truth.min():.2f} .. {truth.max():.2f} ms")
    print(line("MACs, best scale", macs * np.median(truth / macs), truth))
    print(line("sum of blocks, best scale", alone * np.median(truth / alone), truth))
    print(line("latency model", predicted, truth))
    print(line("latency model, one measurement", predicted, first))
    print(line("repeating the measurement", second, first))
    print(f"load average after: {os.getloadavg()}")


if __name__ == "__main__":
    main()
