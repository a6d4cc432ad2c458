"""BN recalibration: fused kernels against the published way of computing statistics.

The published way replaces every batch norm's forward by a chain of means and squares over the
activations (mean over images, then height, then width; the same for the squared deviations) and
then normalises. Both run in one process, interleaved; the ratio of the medians is printed.

    python benchmarks/bn_recalibration.py [--batch 200]

The published recalibration takes batches of 200 images. Smaller batches favour it: its many
temporary tensors then fit into memory that the allocator keeps.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.families import mobilenet_v3
from onceforall.supernets.supernet import Supernet


@contextlib.contextmanager
def means_and_squares(
    model: nn.Module,
) -> Iterator[dict[nn.Module, list[tuple[Tensor, Tensor, int]]]]:
    """Let every batch norm compute its batch statistics operation by operation."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor, int]]] = {}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward_of(norm: nn.BatchNorm2d):
        def forward(x: Tensor) -> Tensor:
            mean = x.mean(0, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
            square = (x - mean) * (x - mean)
            var = square.mean(0, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
            mean, var = mean.flatten(), var.flatten()
            seen.setdefault(norm, []).append((mean, var, len(x)))
            return F.batch_norm(x, mean, var, norm.weight, norm.bias, False, 0.0, norm.eps)

        return forward

    for norm in norms:
        norm.forward = forward_of(norm)  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        for norm in norms:
            del norm.forward


@torch.no_grad()
def recalibrate_as_published(model: nn.Module, batches: list[Tensor]) -> None:
    with means_and_squares(model) as seen:
        for images in batches:
            model(images)
    for norm, records in seen.items():
        images = sum(count for _, _, count in records)
        norm.running_mean.copy_(sum(m * n for m, _, n in records) / images)
        norm.running_var.copy_(sum(v * n for _, v, n in records) / images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = Supernet(mobilenet_v3()).to(memory_format=torch.channels_last)
    batches = [torch.randn(args.batch, 3, args.resolution, args.resolution)]
    arrangements = {
        "published: contiguous, means and squares": (
            torch.contiguous_format,
            recalibrate_as_published,
        ),
        "means and squares, channels_last": (torch.channels_last, recalibrate_as_published),
        "ours: channels_last, fused": (torch.channels_last, recalibrate_bn),
    }
    for name, arch in (("mid", net.space.uniform(kernel_size=5, expand_ratio=4, depth=3)),):
        seconds: dict[str, list[float]] = {key: [] for key in arrangements}
        statistics_of: dict[str, Tensor] = {}
        for _ in range(args.repeats):
            for key, (layout, recalibrate) in arrangements.items():
                model = net.extract(arch).to(memory_format=layout)
                images = [x.to(memory_format=layout) for x in batches]
                started = time.perf_counter()
                recalibrate(model, images)
                seconds[key].append(time.perf_counter() - started)
                statistics_of[key] = model.head[0].bn.running_var.clone()  # type: ignore[union-attr]
        medians = {key: statistics.median(values) for key, values in seconds.items()}
        first, *_, ours = arrangements
        torch.testing.assert_close(statistics_of[first], statistics_of[ours], rtol=1e-3, atol=1e-5)
        for key, median in medians.items():
            print(f"{name}: {median:.3f} s  {key}  ({medians[key] / medians[ours]:.2f}x ours)")
        print(f"ratio {medians[first] / medians[ours]:.2f} (bar 2.5)")


if __name__ == "__main__":
    main()
