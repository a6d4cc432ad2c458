"""Images per second of a training step on an accelerator: layout, precision, supernet or static.

MobileNetV3 w1.0 at 224 px, forward, backward and SGD update of one subnet: the supernet in bf16
with channels_last, the supernet in fp32 contiguous (the published arrangement), and the extracted
static network in bf16 with channels_last. Interleaved rounds; medians and ratios are printed with
hardware and versions.

    python benchmarks/accelerator_step.py                      # on the GPU
    python benchmarks/accelerator_step.py --device cpu --batch-size 8 --resolution 64 --rounds 2
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.supernets.families import mobilenet_v3
from onceforall.supernets.supernet import Supernet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    print(f"{name}; torch {torch.__version__}; batch {args.batch_size} at {args.resolution} px")
    images = torch.randn(args.batch_size, 3, args.resolution, args.resolution, device=device)
    labels = torch.arange(args.batch_size, device=device) % 1000
    fast = images.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    nets = {
        layout: Supernet(mobilenet_v3()).to(device).to(memory_format=layout).train()
        for layout in (torch.channels_last, torch.contiguous_format)
    }
    space = nets[torch.channels_last].space
    archs = {
        "max": space.largest,
        "mid": space.uniform(kernel_size=5, expand_ratio=4, depth=3),
        "min": space.smallest,
    }
    supernet, contiguous = nets[torch.channels_last], nets[torch.contiguous_format]
    for arch_name, arch in archs.items():
        static = supernet.extract(arch).to(memory_format=torch.channels_last).train()
        runs = {
            "supernet bf16 channels_last": step(
                supernet, lambda x, arch=arch: supernet(x, arch), fast, labels, bf16=True
            ),
            "static bf16 channels_last": step(static, static, fast, labels, bf16=True),
            "supernet fp32 contiguous": step(
                contiguous, lambda x, arch=arch: contiguous(x, arch), images, labels, bf16=False
            ),
        }
        speeds: dict[str, list[float]] = {key: [] for key in runs}
        for round_ in range(args.rounds + 1):
            for key, run in runs.items():
                synchronize(device)
                started = time.perf_counter()
                for _ in range(args.steps):
                    run()
                synchronize(device)
                if round_:
                    seconds = time.perf_counter() - started
                    speeds[key].append(args.steps * args.batch_size / seconds)
        medians = {key: statistics.median(values) for key, values in speeds.items()}
        ours = medians["supernet bf16 channels_last"]
        for key, speed in medians.items():
            print(f"{arch_name}: {speed:8.0f} images/s  {key}  (ours is {ours / speed:.2f}x)")


def step(
    net: nn.Module,
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    bf16: bool,
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return run


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
