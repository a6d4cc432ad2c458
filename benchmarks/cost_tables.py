"""How many archs a second the cost tables evaluate on one core, and that they are exact.

    python benchmarks/cost_tables.py

A million sampled archs of the MobileNetV3 supernet (width 1.2): MACs and published phone latency
together. A sample is compared with what its Blueprints say, layer by layer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from onceforall.measure.cost_tables import CostTable, compile_costs
from onceforall.measure.costs import count_macs
from onceforall.measure.latency.published import (
    PublishedLatencyTable,
    latency_at,
    read_published_latencies,
)
from onceforall.supernets.families import published_spec
from onceforall.supernets.spec import SupernetSpec

NET = "ofa_mbv3_d234_e346_k357_w1.2"
NAMES = ("macs", "latency_ms")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def default_data() -> Path:
    data = os.environ.get("ONCEFORALL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    return Path(data) / "published"


def check(
    costs: CostTable,
    spec: SupernetSpec,
    tables: dict[int, PublishedLatencyTable],
    rows: np.ndarray,
) -> None:
    """Stop unless MACs are the Blueprint's integers and latency its sum, but for rounding."""
    found = costs.evaluate(rows, NAMES)
    for i, arch in enumerate(costs.encoding.to_archs(rows)):
        plan, resolution = spec.blueprint(arch), arch.resolution
        macs, latency_ms = count_macs(plan, resolution=resolution), found["latency_ms"][i]
        if found["macs"][i] != macs:
            sys.exit(f"{arch}: {found['macs'][i]} MACs, its Blueprint has {macs}")
        exact_ms = tables[resolution].network_ms(plan)
        if not np.isclose(latency_ms, exact_ms, rtol=1e-12, atol=0):
            sys.exit(f"{arch}: {latency_ms} ms, its Blueprint has {exact_ms} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of note10/")
    parser.add_argument("--archs", type=int, default=1_000_000)
    parser.add_argument("--checked", type=int, default=200, help="archs to compare")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    # The thread pools of numpy read these once, when they are loaded.
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    torch.set_num_threads(1)

    spec = published_spec(NET)
    tables = read_published_latencies(args.data / "note10")
    space = spec.space.restrict(resolution=tuple(tables))
    start = time.perf_counter()
    costs = compile_costs(spec, space=space, layer_costs_at={"latency_ms": latency_at(tables)})
    print(f"compiled in {time.perf_counter() - start:.2f} s, {space.size:.3g} archs")
    rows = costs.encoding.sample(args.archs, np.random.default_rng(0))
    check(costs, spec, tables, rows[: args.checked])
    print(f"{min(args.checked, len(rows))} archs: MACs exact, latency equal to 12 digits")
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        costs.evaluate(rows, NAMES)
        seconds.append(time.perf_counter() - start)
    rates = ", ".join(f"{len(rows) / s / 1e6:.2f}" for s in seconds)
    print(f"MACs and latency of {len(rows)} archs: {rates} million archs a second, one core; "
          f"median {len(rows) / np.median(seconds) / 1e6:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
