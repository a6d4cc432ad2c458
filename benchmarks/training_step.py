"""One training step: supernet against the extracted network, and against the published layout.

Forward and backward of the same arch on the same images, batch 16 at 128 px, MobileNetV3 w1.0:
the supernet and the extracted static network, both channels_last (bar: 1.10x), and the supernet
in the published arrangement, contiguous. Interleaved in one process; medians and ratios printed.

    python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall.supernets.families import mobilenet_v3
from onceforall.supernets.supernet import Supernet


def step_of(
    forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> Callable[[], None]:
    def step() -> None:
        F.cross_entropy(forward(images), labels).backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    spec = mobilenet_v3()
    net = Supernet(spec).to(memory_format=torch.channels_last).train()
    contiguous = Supernet(spec).train()
    space = net.space
    images = torch.randn(16, 3, 128, 128)
    fast = images.to(memory_format=torch.channels_last)
    labels = torch.arange(16)
    archs = {
        "max": space.largest,
        "mid": space.uniform(kernel_size=5, expand_ratio=4, depth=3),
        "min": space.smallest,
    }
    for name, arch in archs.items():
        static = net.extract(arch).to(memory_format=torch.channels_last).train()
        steps = {
            "supernet": step_of(lambda x, arch=arch: net(x, arch), fast, labels),
            "static": step_of(static, fast, labels),
            "published": step_of(lambda x, arch=arch: contiguous(x, arch), images, labels),
        }
        seconds: dict[str, list[float]] = {key: [] for key in steps}
        for repeat in range(args.repeats + 2):
            for key, step in steps.items():
                for module in (net, static, contiguous):
                    module.zero_grad(set_to_none=True)
                started = time.perf_counter()
                step()
                if repeat >= 2:
                    seconds[key].append(time.perf_counter() - started)
        best = {key: min(values) for key, values in seconds.items()}
        median = {key: statistics.median(values) for key, values in seconds.items()}
        print(
            f"{name}: supernet {median['supernet'] * 1e3:.0f} ms, static "
            f"{median['static'] * 1e3:.0f} ms, ratio {median['supernet'] / median['static']:.3f} "
            f"(fastest runs {best['supernet'] / best['static']:.3f}, bar 1.10); contiguous "
            f"{median['published'] / median['supernet']:.2f}x slower"
        )


if __name__ == "__main__":
    main()
