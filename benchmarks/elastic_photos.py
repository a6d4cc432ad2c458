"""A trained network made elastic, end to end, on photographs of 64 pixels.

    python benchmarks/elastic_photos.py photos64/ --out /tmp/elastic --minutes 10
    python benchmarks/elastic_photos.py photos64/ --out /tmp/elastic --released

Trains a plain torchvision ResNet-18 with a stem for small pictures, runs ``ofa run --net ...
--weights ...`` from it, and sets beside its models: the original; the same subnets cut out of the
original without training; and one cut, that of about half the latency, fine-tuned alone for as
long as the run trained. Every top-1 is of the test images; latencies are measured as models ship.
With ``--released`` the original is a ProxylessNAS network with released ImageNet weights (of the
folder ONCEFORALL_TEST_DATA) and a fresh classifier, trained for the same time on photographs that
are enlarged to 128 pixels. Each part is skipped where its output is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import onceforall as ofa
from onceforall.artifacts import Card
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.measure.latency.measure import measure_latency
from onceforall.measure.latency.targets import Candidate, OrtCpu
from onceforall.supernets.published.checkpoint import load_published, read_weights
from onceforall.supernets.static import build
from onceforall.supernets.weights import load_saved_supernet
from onceforall.zoo.entries import with_classes
from onceforall.zoo.load import load_config_net

DATA = Path(os.environ.get("ONCEFORALL_TEST_DATA", "../shared/data")).resolve()
RELEASED = DATA / "weights" / "proxyless-w0.3-r176_imagenet.pth"
BATCH, STD = 64, 0.5


def resnet18(num_classes: int) -> nn.Module:
    """Return a ResNet-18 whose stem is for small pictures: 3x3, stride 2, no pooling."""
    model = torchvision.models.resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


def proxyless(num_classes: int) -> nn.Module:
    """Return a released ProxylessNAS network with a classifier for ``num_classes``."""
    return build(
        with_classes(load_config_net(RELEASED.with_suffix(".json")).model.plan, num_classes)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--released", action="store_true", help="start from ImageNet weights")
    arguments = parser.parse_args()
    # The command runs in the folder of this file, where it finds the networks.
    arguments.data, arguments.out = str(Path(arguments.data).resolve()), arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "proxyless" if arguments.released else "resnet18"
    weights, run = arguments.out / f"{name}.pth", arguments.out / f"{name}-run"
    probe = ofa.open_dataset(arguments.data)
    make = proxyless if arguments.released else resnet18
    model = make(probe.num_classes)
    seconds, side = 60 * arguments.minutes, 128 if arguments.released else 64
    if not weights.is_file():
        if arguments.released:
            load_published(model, read_weights(RELEASED), reinit_head=True)  # type: ignore[arg-type]
        _train(model, arguments.data, side, seconds, rate=0.02 if arguments.released else 0.05)
        torch.save(model.state_dict(), weights)
    model.load_state_dict(torch.load(weights, weights_only=True))
    command = [sys.executable, "-m", "onceforall", "run", arguments.data, "--out", str(run)]
    command += ["--net", f"elastic_photos:{name}", "--weights", str(weights)]
    command += ["--budget", f"{arguments.minutes:g}m"]
    command += ["--set", "data.mean=[0.5,0.5,0.5]", "--set", f"data.std=[{STD},{STD},{STD}]"]
    if arguments.released:
        command += ["--set", "supernet.resolutions=[96,112,128]"]
    started = time.monotonic()
    subprocess.run(command, check=True, cwd=Path(__file__).parent)
    print(f"ofa run: {time.monotonic() - started:.0f} s")
    _report(model.eval(), arguments.data, run, side, seconds)


def _images(data: str, part: str, side: int) -> tuple[Tensor, Tensor]:
    """Return normalised images and labels, as the run has them."""
    bundle = ofa.open_dataset(data, image_size=side)
    source: Any = bundle.train if part == "train" else bundle.test
    images = source.images.float() / 255
    if images.shape[-1] != side:  # small photographs come as they are
        images = F.interpolate(images, side, mode="bilinear", antialias=True)
    return (images - 0.5) / STD, source.labels


def _train(model: nn.Module, data: str, side: int, seconds: float, *, rate: float) -> None:
    """Train a network alone: shifts, mirroring, one cosine over the time that there is."""
    images, labels = _images(data, "train", side)
    shift = side // 8
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    generator, started, step = torch.Generator().manual_seed(0), time.monotonic(), 0
    while (share := (time.monotonic() - started) / seconds) < 1:
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        batch = F.pad(images[chosen], (shift,) * 4, mode="reflect")
        top, left = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
        batch = batch[:, :, top : top + side, left : left + side]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(3)
        warm = min(1.0, (step + 1) / 20)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.zero_grad(set_to_none=True)
        batch = batch.contiguous(memory_format=torch.channels_last)
        F.cross_entropy(model(batch), labels[chosen], label_smoothing=0.1).backward()
        optimizer.step()
        step += 1
    print(f"trained alone: {step} steps, {BATCH * step / len(labels):.1f} passes")


@torch.no_grad()
def _top1(model: nn.Module, data: str, side: int) -> float:
    images, labels = _images(data, "test", side)
    hits = sum(
        int((model(batch).argmax(1) == truth).sum())
        for batch, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True)
    )
    return hits / len(labels)


def _report(model: nn.Module, data: str, run: Path, side: int, seconds: float) -> None:
    """Print every model of the run beside the original and the plain cuts."""
    cards = [Card.read(path) for path in sorted(run.glob("models/*/card.json"))]
    start, _ = load_saved_supernet(run / "network.safetensors")
    largest = start.space.largest
    whole = start.extract(largest)
    original = dataclasses.replace(largest, resolution=side)
    latency = _latency(start, [original, *(card.arch for card in cards)])
    print(f"original: top-1 {_top1(model, data, side):.4f}, {latency[0]:.2f} ms at {side} px")
    start.sort_channels()
    everything, _ = _images(data, "train", largest.resolution)  # class by class
    drawn = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:512]
    calibration = everything[drawn]
    for card, ms in zip(cards, latency[1:], strict=True):
        cut = start.extract(card.arch)
        images = F.interpolate(calibration, card.resolution, mode="bilinear", antialias=True)
        recalibrate_bn(cut, images.split(BATCH))
        print(
            f"{card.name}: top-1 {card.top1:.4f}, {ms / latency[0]:.0%} of the latency; "
            f"cut without training {_top1(cut, data, card.resolution):.4f}"
        )
    half = min(zip(latency[1:], cards, strict=True), key=lambda p: abs(p[0] / latency[0] - 0.5))[1]
    alone = start.extract(half.arch)
    _train(alone, data, half.resolution, seconds, rate=0.02)
    alone_top1 = _top1(alone.eval(), data, half.resolution)
    print(f"{half.name} cut and fine-tuned alone: top-1 {alone_top1:.4f}")
    print(json.dumps({"params": sum(p.numel() for p in whole.parameters())}))


def _latency(net: Any, archs: list[Any]) -> list[float]:
    candidates = [Candidate(plan=net.blueprint(a), resolution=a.resolution) for a in archs]
    return [each.latency_ms for each in measure_latency(candidates, target=OrtCpu(), repeats=40)]


if __name__ == "__main__":
    main()
