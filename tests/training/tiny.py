"""A supernet and images so small that a step takes milliseconds."""

from __future__ import annotations

import torch

from onceforall.data import Augmentation, ImageArrays, ResidentBatches, ResidentEvalBatches, Shard
from onceforall.supernets.families import small_images
from onceforall.supernets.supernet import Supernet

CLASSES = 3
SPEC = small_images(
    num_classes=CLASSES,
    resolutions=(8, 12),
    widths=(8, 16),
    width_mults=(0.5, 1.0),
    depths=(1, 2),
    kernel_sizes=(3, 5),
    expand_ratios=(2, 3),
    stem_width=8,
    expand_width=16,
)


def tiny_net(seed: int = 0) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Supernet(SPEC)


def tiny_images(count: int = 96, seed: int = 0) -> ImageArrays:
    """Images whose brightest third tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 80, (count, 3, 8, 8), generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, label] += 150
    return ImageArrays(images=images.to(torch.uint8), labels=labels)


def tiny_batches(
    *, batch_size: int = 16, rank: int = 0, world_size: int = 1, count: int = 96
) -> ResidentBatches:
    return ResidentBatches(
        tiny_images(count),
        augmentation=Augmentation(flip=False),
        mean=(0.3, 0.3, 0.3),
        std=(0.3, 0.3, 0.3),
        batch_size=batch_size,
        seed=0,
        shard=Shard(rank=rank, world_size=world_size),
    )


def tiny_eval() -> ResidentEvalBatches:
    return ResidentEvalBatches(
        tiny_images(48, seed=1), mean=(0.3, 0.3, 0.3), std=(0.3, 0.3, 0.3), batch_size=48
    )
