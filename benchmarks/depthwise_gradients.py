"""Gradients of depthwise convolutions on a CPU: ours beside PyTorch's.

    python benchmarks/depthwise_gradients.py

Forward and backward of one convolution, batch 64, channels_last, one thread, in float32 and
bfloat16; the two alternate, and the best time of each counts. The last line is a training step of
MobileNetV3 (width 1.0, kernels of up to 7) at 96 px with and without them, in the precision that
is faster. Bars: 1.5 times faster for 5x5 and 7x7 kernels with stride 1, and nothing slower by more
than 20 %, the noise of a shared machine. Exit status 1 says that one is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F

from onceforall.job.machine import keep_freed_memory
from onceforall.ops import depthwise
from onceforall.ops.depthwise import depthwise_conv2d
from onceforall.supernets.families import mobilenet_v3
from onceforall.supernets.supernet import elastic

# Channels, side, kernel, stride.
CASES = (
    (256, 16, 3, 1), (256, 16, 3, 2),
    (256, 16, 5, 1), (512, 8, 5, 1), (480, 7, 5, 1), (256, 16, 5, 2),
    (256, 16, 7, 1), (512, 8, 7, 1), (960, 4, 7, 1), (256, 16, 7, 2),
)  # fmt: skip
BATCH, SIDE = 64, 96
LEAST_GAIN, MOST_LOSS = 1.5, 0.8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    missed = False
    print(f"{'':24}{'float32':>24}{'bfloat16':>24}")
    for case in CASES:
        gains = [_gain(*case, dtype, repeats) for dtype in (torch.float32, torch.bfloat16)]
        channels, side, kernel, stride = case
        name = f"{channels} x {side} x {side}, k{kernel} s{stride}"
        print(f"{name:24}" + "".join(f"{text:>24}" for _, text in gains), flush=True)
        bar = LEAST_GAIN if kernel > 3 and stride == 1 else MOST_LOSS
        missed |= min(gain for gain, _ in gains) < bar
    before, after = _network(repeats)
    print(f"MobileNetV3, {SIDE} px: {before:.0f} -> {after:.0f} images/s ({after / before:.2f}x)")
    return int(missed)


def _gain(
    channels: int, side: int, kernel: int, stride: int, dtype: torch.dtype, repeats: int
) -> tuple[float, str]:
    """Return how many times faster ours is, and that as text."""
    x = torch.randn(BATCH, channels, side, side).to(memory_format=torch.channels_last).to(dtype)
    x.requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
    grad = torch.randn_like(depthwise_conv2d(x, weight.to(dtype), stride=stride))

    def ours() -> None:
        depthwise_conv2d(x, weight.to(dtype), stride=stride).backward(grad)

    def torchs() -> None:
        F.conv2d(x, weight.to(dtype), None, stride, kernel // 2, groups=channels).backward(grad)

    own_s, torch_s = _best((ours, torchs), repeats)
    return torch_s / own_s, f"{1e3 * torch_s:.1f} -> {1e3 * own_s:.1f} ms ({torch_s / own_s:.1f}x)"


def _network(repeats: int) -> tuple[float, float]:
    """Return images a second of a training step, without and with gradients of our own."""
    net = elastic(mobilenet_v3(), seed=0).train()
    images = torch.randn(BATCH // 4, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels = torch.arange(len(images))

    def step(is_own: bool, is_low: bool) -> None:
        net.zero_grad(set_to_none=True)
        with mock.patch.object(depthwise, "_is_known_cpu", lambda: is_own):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                logits = net(images, net.space.largest)
            F.cross_entropy(logits.float(), labels).backward()

    ways = [partial(step, is_own, is_low) for is_own in (False, True) for is_low in (False, True)]
    seconds = _best(ways, repeats)
    return len(images) / min(seconds[:2]), len(images) / min(seconds[2:])


def _best(calls: Sequence[Callable[[], None]], repeats: int) -> list[float]:
    """Return the best time of each call in seconds; they take turns, after warming up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 2):
        for call, own in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if repeat >= 2:
                own.append(time.perf_counter() - started)
    return [min(own) for own in seconds]


if __name__ == "__main__":
    sys.exit(main())
