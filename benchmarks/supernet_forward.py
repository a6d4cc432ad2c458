"""How much slower a subnet runs inside the supernet than extracted.

    python benchmarks/supernet_forward.py

Both run the same arch on the same images: eval mode, channels_last, float32, one thread. Passes
alternate between the two, so that whatever else the machine does falls on both; times are CPU time
of the thread, and the ratio is the median of the ratios of neighbouring passes. Exit status 1 says
that a ratio is above the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from onceforall.supernets.families import mobilenet_v3
from onceforall.supernets.supernet import Supernet

BAR = 1.05
# Keep freed memory: mapping and clearing large blocks anew for every activation costs about as
# much as the difference that is measured here, at random on either side. (glibc reads these.)
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of passes per arch")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Supernet(mobilenet_v3()).eval().to(memory_format=torch.channels_last)
    size = options.resolution
    images = torch.randn(options.batch_size, 3, size, size).to(memory_format=torch.channels_last)
    space = net.space
    archs = {
        "max": space.largest,
        "mid": space.uniform(kernel_size=5, expand_ratio=4, depth=3),
        "min": space.smallest,
        "random": space.sample(random.Random(0)),
    }
    results = {}
    for name, arch in archs.items():
        plain = net.extract(arch).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            results[name] = compare(
                partial(net, images, arch), partial(plain, images), options.rounds
            )
    if options.json:
        print(json.dumps(results))
    else:
        print(f"batch {options.batch_size} at {size} px, one thread, torch {torch.__version__}")
        for name, row in results.items():
            print(f"{name:>7}: supernet {row['supernet_ms']:7.2f} ms  extracted "
                  f"{row['extracted_ms']:7.2f} ms  ratio {row['ratio']:.3f}")  # fmt: skip
    return int(any(row["ratio"] > BAR for row in results.values()))


def compare(
    supernet: Callable[[], object], extracted: Callable[[], object], rounds: int
) -> dict[str, float]:
    """Return median milliseconds of both and the median ratio of neighbouring passes."""
    pairs = []
    for step in range(rounds + 5):  # the first five warm up
        order = (supernet, extracted) if step % 2 else (extracted, supernet)
        times = {}
        for run in order:
            start = time.thread_time()
            run()
            times[run] = time.thread_time() - start
        pairs.append((times[supernet], times[extracted]))
    pairs = pairs[5:]
    return {
        "supernet_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "extracted_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


if __name__ == "__main__":
    if not MALLOC.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    sys.exit(main())
