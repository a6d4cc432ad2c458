"""Images per second and core: our training input against the published transform stack.

    python benchmarks/input_pipeline.py [--images 64] [--rounds 8]

Both read the same 500 x 375 JPEG files on one thread, in turn within every round, and end with a
normalised float batch on the CPU:

- published: Pillow decodes, RandomResizedCrop, flip, ColorJitter(32/255, saturation 0.5),
  ToTensor, Normalize, default collation;
- ours: `StreamedBatches` with the same variations. "workers" is the part that worker processes do
  where a GPU does the rest (colours and normalisation).

The time is CPU time of the thread, median over rounds, so that other programs on the machine
count less. Ordinary JPEG files are decoded by simplejpeg where it is installed (it comes with
``pip install 'onceforall[jpeg]'``), else by Pillow, which ``--decoder pillow`` measures. The
pictures are mosaics of six photographs at their own scale (quality 92, about 80 KB, which is the
usual size), from ``imagenet_val1300`` below ``ONCEFORALL_TEST_DATA`` where that is present,
otherwise grained smooth noise of about the same size.

Recorded on two quiet virtual x86-64 cores (torch 2.15, Pillow 13, simplejpeg 1.9), mean over the
four sizes: published 359, ours 783 (2.18 times; 2.0 to 2.3 by size), workers 893 images a second
(2.49 times). With Pillow 1.82 and 2.04 times. Decoding JPEG is 0.9 of our 1.3 ms, and most of that
is entropy decoding, which only `lower_height` makes less of.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms

from onceforall.data.batches.readers import TrainKey, TrainReader
from onceforall.data.batches.streaming import StreamedBatches
from onceforall.data.bundle import IMAGENET_MEAN, IMAGENET_STD, ImageFiles, PackedNames
from onceforall.data.images import pixels
from onceforall.data.images.augmentation import PUBLISHED_PHOTOS

RESOLUTIONS = (128, 160, 192, 224)
SIZE = (500, 375)
SEED = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one table and, on the last line, one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="files, and batch size")
    parser.add_argument("--decoder", choices=("simplejpeg", "pillow"), default="simplejpeg")
    parser.add_argument("--rounds", type=int, default=8, help="epochs of each kind and size")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.decoder == "pillow":
        pixels.simplejpeg = None
    decoder = "pillow" if pixels.simplejpeg is None else "simplejpeg"
    with tempfile.TemporaryDirectory() as folder:
        files, content = write_files(Path(folder), options.images)
        size_kb = sum(Path(files.path(i)).stat().st_size for i in range(len(files))) / 1e3
        size_kb /= len(files)
        print(f"{len(files)} files of {content}, {SIZE[0]} x {SIZE[1]}, {size_kb:.0f} KB each")
        print(f"{platform.machine()}, torch {torch.__version__}, decoder {decoder}")
        print("size  published   ours  workers   images/s of one core;   ratio  ratio of workers")
        rows = [measure(files, resolution, options.rounds) for resolution in RESOLUTIONS]
    mean = {
        key: statistics.harmonic_mean([row[key] for row in rows])
        for key in ("published", "ours", "workers")
    }
    report("all", mean)
    result = {"rows": rows, "mean": mean, "content": content, "file_kb": size_kb}
    print(json.dumps(result | {"ratio": mean["ours"] / mean["published"]}))


def measure(files: ImageFiles, resolution: int, rounds: int) -> dict[str, float]:
    """Return images per second of CPU time for each way, at one size."""
    published = published_epoch(files, resolution)
    ours = our_epoch(files, resolution)
    workers = worker_epoch(files, resolution)
    seconds: dict[str, list[float]] = {"published": [], "ours": [], "workers": []}
    for epoch in range(rounds + 1):
        for name, run in (("published", published), ("ours", ours), ("workers", workers)):
            start = time.thread_time()
            run(epoch)
            if epoch > 0:  # the first warms up
                seconds[name].append(time.thread_time() - start)
    rates = {name: len(files) / statistics.median(times) for name, times in seconds.items()}
    report(str(resolution), rates)
    return {"resolution": resolution, **rates}


def report(name: str, rates: dict[str, float]) -> None:
    published, ours, workers = (rates[key] for key in ("published", "ours", "workers"))
    print(
        f"{name:>4}  {published:9.0f}  {ours:5.0f}  {workers:7.0f}"
        f"{ours / published:31.2f}  {workers / published:16.2f}"
    )


def published_epoch(files: ImageFiles, resolution: int) -> Callable[[int], None]:
    """Return the published transform stack over all files, as one batch."""
    stack = transforms.Compose(
        [
            transforms.RandomResizedCrop(resolution, scale=(0.08, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=32 / 255, saturation=0.5),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def run(epoch: int) -> None:
        torch.manual_seed(epoch)
        samples = []
        for index in range(len(files)):
            with open(files.path(index), "rb") as file:
                samples.append((stack(Image.open(file).convert("RGB")), int(files.labels[index])))
        default_collate(samples)

    return run


def our_epoch(files: ImageFiles, resolution: int) -> Callable[[int], None]:
    """Return our training batches, complete, in this thread."""
    batches = StreamedBatches(
        files,
        augmentation=PUBLISHED_PHOTOS,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        batch_size=len(files),
        seed=SEED,
    )

    def run(epoch: int) -> None:
        for _ in batches.iterate(epoch, resolution_of=lambda step: resolution):
            pass

    return run


def worker_epoch(files: ImageFiles, resolution: int) -> Callable[[int], None]:
    """Return what a worker process does for a batch that is finished on a GPU."""
    reader = TrainReader(files, PUBLISHED_PHOTOS, seed=SEED, crop_ratio=0.875, stack=True)

    def run(epoch: int) -> None:
        reader.__getitems__([TrainKey(index, epoch, resolution) for index in range(len(files))])

    return run


def write_files(folder: Path, count: int) -> tuple[ImageFiles, str]:
    """Write ``count`` JPEG files; return them and what is on them."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ONCEFORALL_TEST_DATA", default)) / "imagenet_val1300"
    photographs = sorted(root.rglob("*.JPEG"))
    draw = mosaic if photographs else grain
    for index in range(count):
        draw(index, photographs).save(folder / f"{index:04d}.jpg", quality=92)
    names = PackedNames(f"{index:04d}.jpg" for index in range(count))
    files = ImageFiles(root=folder, names=names, labels=torch.arange(count) % 10)
    return files, "mosaics of photographs" if photographs else "noise"


def mosaic(index: int, photographs: Sequence[Path]) -> Image.Image:
    """Return a picture cut from six photographs of 227 pixels, at their own scale."""
    canvas = Image.new("RGB", (3 * 227, 2 * 227))
    for place in range(6):
        with Image.open(photographs[(6 * index + place) % len(photographs)]) as image:
            canvas.paste(image.convert("RGB"), (place % 3 * 227, place // 3 * 227))
    return canvas.crop((50, 40, 50 + SIZE[0], 40 + SIZE[1]))


def grain(index: int, photographs: Sequence[Path]) -> Image.Image:
    """Return smooth colours with grain whose strength varies over the picture."""
    rng = np.random.default_rng(index)
    layers = []
    for cells in (4, 16, 64):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layers.append(np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)))
    smooth = 0.6 * layers[0] + 0.25 * layers[1] + 0.15 * layers[2]
    noise = rng.normal(0, 1, (SIZE[1], SIZE[0], 1)) * layers[0][..., :1] * 0.06
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
