"""What an elastic form of any network costs and predicts: training steps, and latency models.

    python benchmarks/elastic_any.py step
    python benchmarks/elastic_any.py latency --net torchvision:resnet18 --budget 480

``step``: a training step of the elastic network against the static network that is extracted, at
the largest arch and at half of every width; channels_last, one thread, 112 pixels, batch 16.
Steps alternate between the two; times are CPU time of the thread, and the ratio is the median of
the ratios of neighbouring steps. ``latency``: a latency model of the network's space at 128 to 224
pixels, checked on 30 subnets that it has not seen, measured seven times each. Exit status 1 says
that a bar is missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onceforall.arch import Arch
from onceforall.job.machine import keep_freed_memory
from onceforall.job.outside_nets import make_network
from onceforall.measure.latency.model import build_latency_model
from onceforall.measure.latency.repeated import measure_repeatedly
from onceforall.measure.latency.targets import Candidate, OrtCpu
from onceforall.measure.ranking import kendall_tau
from onceforall.supernets.graphs.elasticize import ElasticChoices, elasticize
from onceforall.supernets.graphs.supernet import GraphSupernet

NETS = ("resnet18", "resnet50", "mobilenet_v3_large", "efficientnet_b0")
SIDE, BATCH = 112, 16
BARS = {"largest": 1.05, "half": 1.20}
LEAST_TAU, MOST_ERROR = 0.93, 0.05
SIDES = (128, 160, 192, 224)
ROUNDS = 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("step", "latency"))
    parser.add_argument("--net", default="", help="torchvision:NAME; of step, all by default")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds of measuring")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "latency":
        return _latency(arguments.net or "torchvision:resnet18", arguments.budget)
    keep_freed_memory()  # as `ofa run` does, for both sides
    names = [arguments.net] if arguments.net else [f"torchvision:{name}" for name in NETS]
    return max(_step(name, arguments.repeats) for name in names)


def _step(name: str, repeats: int) -> int:
    """Print the ratios of one network and return whether one is above its bar."""
    torch.manual_seed(0)
    model = make_network(name, num_classes=100)
    net = elasticize(model, torch.zeros(1, 3, SIDE, SIDE), name=name)
    net = net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    net.sort_channels()
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,))
    missed = 0
    for kind, arch in (("largest", net.space.largest), ("half", _half(net))):
        plain = net.extract(arch).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        ratios = []
        for _ in range(repeats):
            elastic_s = _seconds(net, (images, arch), labels)
            ratios.append(elastic_s / _seconds(plain, (images,), labels))
        ratio = statistics.median(ratios[2:])
        missed |= int(ratio > BARS[kind])
        print(f"{name} {kind}: {ratio:.3f} of the static step (bar {BARS[kind]})", flush=True)
    return missed


def _half(net: GraphSupernet) -> Arch:
    """Return the arch with half of every width, where that is an option, and everything else."""
    row = []
    for gene in net.space.genes:
        is_width = gene.axis in ("width_mult", "expand_ratio")
        wanted = 0.5 if is_width else gene.choices[-1]
        distance = [abs(choice - wanted) for choice in gene.choices]
        row.append(distance.index(min(distance)))
    return net.space.decode(row)


def _seconds(net: nn.Module, inputs: tuple[Tensor | Arch, ...], labels: Tensor) -> float:
    net.zero_grad(set_to_none=True)
    start = time.thread_time()
    F.cross_entropy(net(*inputs), labels).backward()
    return time.thread_time() - start


def _latency(name: str, budget_s: float) -> int:
    """Print how well a latency model predicts unseen subnets; return whether a bar is missed."""
    torch.manual_seed(0)
    model = make_network(name, num_classes=1000)
    net = elasticize(
        model, torch.zeros(1, 3, SIDES[-1], SIDES[-1]), name=name,
        choices=ElasticChoices(resolutions=SIDES),
    )  # fmt: skip
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fitted = build_latency_model(
            net.spec, journal=Path(folder) / "journal.jsonl", target=OrtCpu(), budget_s=budget_s,
            num_networks=360,
        )  # fmt: skip
    taken_s = time.monotonic() - started
    rng = random.Random(1)
    archs = [net.space.sample(rng) for _ in range(30)]
    candidates = [Candidate(plan=net.blueprint(arch), resolution=arch.resolution) for arch in archs]
    # One measurement of networks this small is a few percent off: of where in memory they lie.
    rounds = measure_repeatedly(
        candidates, target=OrtCpu(), rounds=ROUNDS, sentinel_ms=fitted.sentinel_ms
    )
    measured = np.array([each.latency_ms for each in rounds])
    first = np.array([each.rounds[0].latency_ms for each in rounds])
    others = np.array([statistics.median(x.latency_ms for x in e.rounds[1:]) for e in rounds])
    predicted = np.array([
        fitted.latency_ms(net.blueprint(arch), resolution=arch.resolution) for arch in archs
    ])  # fmt: skip
    tau = kendall_tau(predicted, measured)
    error = float(np.median(np.abs(predicted / measured - 1)))
    print(f"{name}: built in {taken_s:.0f} s; tau {tau:.3f}, median error {error:.1%} on 30 unseen")
    once, off = kendall_tau(first, others), float(np.median(np.abs(first / others - 1)))
    print(f"  median of {ROUNDS} measurements; one and the others agree: {once:.3f}, {off:.1%}")
    print(f"  of the model: {fitted.report}")
    return int(tau < LEAST_TAU or error > MOST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
