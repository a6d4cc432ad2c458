"""Trains 670,761 networks for digits at once, in about a minute on a core, and picks any of them.

    python examples/mini_ofa.py

Once-for-All (Cai et al., ICLR 2020) in the order of its ideas: an architecture is a value; elastic
operators slice one set of weights; a sandwich step trains large and small subnets together; a
subnet is copied out and recalibrated, and is an ordinary network; a search picks the best one under
a limit. Nothing of ``onceforall`` is used; a test holds these subnets bitwise equal to its own.

Shape suffixes: B batch, C channels, H/W height/width, K classes, P pixels of the largest kernel,
Q pixels of a smaller one.
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Plain = TypeVar("Plain", bound=nn.Module)

# -- 1. An architecture is a value ---------------------------------------------------------------

RESOLUTION, NUM_CLASSES = 8, 10
STEM_WIDTH, HEAD_WIDTH = 16, 64
STAGES = ((16, 1), (32, 2))  # output channels and stride of each stage's first block
DEPTHS = (1, 2, 3)
KERNEL_SIZES = (7, 5, 3)  # largest first
EXPAND_RATIOS = (2, 3, 4)


class Block(NamedTuple):
    """Choices of one inverted bottleneck."""

    kernel_size: int  # side of the depthwise kernel, in pixels
    expand_ratio: int  # middle over input channels


@dataclass(frozen=True, slots=True)
class Arch:
    """One subnet: the blocks that run, stage by stage; how many there are is the depth."""

    stages: tuple[tuple[Block, ...], ...]

    def __str__(self) -> str:
        """Return e.g. ``k5.73 e2.43``: a digit for each block, a dot between stages."""
        digits = (".".join("".join(str(b[i]) for b in s) for s in self.stages) for i in (0, 1))
        return "k{} e{}".format(*digits)


LARGEST = Arch(((Block(max(KERNEL_SIZES), max(EXPAND_RATIOS)),) * max(DEPTHS),) * len(STAGES))
SMALLEST = Arch(((Block(min(KERNEL_SIZES), min(EXPAND_RATIOS)),) * min(DEPTHS),) * len(STAGES))
NUM_SUBNETS = sum((len(KERNEL_SIZES) * len(EXPAND_RATIOS)) ** d for d in DEPTHS) ** len(STAGES)


def sample_stage(rng: random.Random) -> tuple[Block, ...]:
    """Return one stage with every choice drawn uniformly."""
    depth = range(rng.choice(DEPTHS))
    return tuple(Block(rng.choice(KERNEL_SIZES), rng.choice(EXPAND_RATIOS)) for _ in depth)


def sample(rng: random.Random) -> Arch:
    """Return an arch with every choice drawn uniformly."""
    return Arch(tuple(sample_stage(rng) for _ in STAGES))


def mutate(arch: Arch, rng: random.Random) -> Arch:
    """Return ``arch`` with one stage, or one block of it, drawn again."""
    stages, place, fresh = list(arch.stages), rng.randrange(len(STAGES)), sample_stage(rng)
    block, old = rng.randrange(len(stages[place])), stages[place]
    stages[place] = rng.choice((fresh, (*old[:block], fresh[0], *old[block + 1 :])))
    return Arch(tuple(stages))


def count_macs(arch: Arch) -> int:
    """Return the multiply-accumulates of one image, exactly."""
    side, channels = RESOLUTION, STEM_WIDTH
    macs = 9 * STEM_WIDTH * side**2
    for blocks, (width, stride) in zip(arch.stages, STAGES, strict=True):
        for index, block in enumerate(blocks):
            middle = channels * block.expand_ratio
            macs += channels * middle * side**2
            side = side if index else side // stride
            macs += middle * (block.kernel_size**2 + width) * side**2
            channels = width
    return macs + channels * HEAD_WIDTH * side**2 + HEAD_WIDTH * NUM_CLASSES


# -- 2. Elastic operators: one weight, sliced ----------------------------------------------------
# ``forward`` runs the first channels of the largest weight: the input says how many come in, the
# call how many go out. ``extract`` returns the plain layer with a copy of exactly what runs.


class ElasticConv(nn.Module):
    """Dense convolution with "same" padding, elastic in input and output channels."""

    def __init__(self, max_in: int, max_out: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(max_out, max_in, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor, out_channels: int) -> Tensor:
        weight = self.weight[:out_channels, : x_BCHW.shape[1]]
        return F.conv2d(x_BCHW, weight, padding=self.padding)

    def extract(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        shape = (in_channels, out_channels, self.weight.shape[-1])
        plain = nn.Conv2d(*shape, padding=self.padding, bias=False)
        return filled(plain, weight=self.weight[:out_channels, :in_channels])


class ElasticDepthwise(nn.Module):
    """Depthwise convolution with "same" padding, elastic in channels and kernel side.

    A smaller filter is the centre of the next larger one, times a learned matrix that all channels
    share, the *kernel transform*; it starts as the identity (Cai et al., section 3.3).
    """

    def __init__(self, max_channels: int, stride: int) -> None:
        super().__init__()
        self.stride, largest = stride, KERNEL_SIZES[0]
        self.weight = nn.Parameter(torch.empty(max_channels, 1, largest, largest))
        self.transforms = nn.ParameterDict({f"to{k}": torch.eye(k**2) for k in KERNEL_SIZES[1:]})
        nn.init.normal_(self.weight, std=(2 / largest**2) ** 0.5)

    def filters(self, channels: int, kernel_size: int) -> Tensor:
        """Return the filters of one subnet, ``(channels, 1, kernel_size, kernel_size)``."""
        weight_CP = self.weight[:channels].flatten(1)
        matrix_QP = torch.eye(weight_CP.shape[1])  # from the largest kernel to the one so far
        for big, small in itertools.pairwise(KERNEL_SIZES):
            if small < kernel_size:
                break
            centre_QP = matrix_QP.view(big, big, -1)[1:-1, 1:-1].flatten(0, 1)
            matrix_QP = self.transforms[f"to{small}"] @ centre_QP
        return F.linear(weight_CP, matrix_QP).view(-1, 1, kernel_size, kernel_size)

    def forward(self, x_BCHW: Tensor, kernel_size: int) -> Tensor:
        channels = x_BCHW.shape[1]
        weight = self.filters(channels, kernel_size)
        return F.conv2d(x_BCHW, weight, None, self.stride, kernel_size // 2, groups=channels)

    def extract(self, channels: int, kernel_size: int) -> nn.Conv2d:
        shape = (channels, channels, kernel_size, self.stride, kernel_size // 2)
        plain = nn.Conv2d(*shape, groups=channels, bias=False)
        return filled(plain, weight=self.filters(channels, kernel_size))


class ElasticNorm(nn.Module):
    """Batch norm, elastic in channels; its running statistics are a mixture over subnets."""

    def __init__(self, max_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))
        self.register_buffer("running_mean", torch.zeros(max_channels))
        self.register_buffer("running_var", torch.ones(max_channels))

    def _first(self, channels: int) -> dict[str, Tensor]:
        names = ("running_mean", "running_var", "weight", "bias")
        return {name: getattr(self, name)[:channels] for name in names}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.batch_norm(x_BCHW, **self._first(x_BCHW.shape[1]), training=self.training)

    def extract(self, channels: int) -> nn.BatchNorm2d:
        return filled(nn.BatchNorm2d(channels), **self._first(channels))


@torch.no_grad()
def filled(plain: Plain, **tensors: Tensor) -> Plain:
    """Return ``plain`` with a copy of each tensor under its name."""
    for name, tensor in tensors.items():
        getattr(plain, name).copy_(tensor)
    return plain


# -- 3. The supernet: weights, and nothing that remembers a subnet -------------------------------


class ElasticBlock(nn.Module):
    """Inverted bottleneck: 1x1 to the middle width, depthwise, 1x1 back, and the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.has_shortcut = stride == 1 and in_channels == out_channels
        middle = in_channels * max(EXPAND_RATIOS)
        self.expand, self.norm1 = ElasticConv(in_channels, middle), ElasticNorm(middle)
        self.depthwise, self.norm2 = ElasticDepthwise(middle, stride), ElasticNorm(middle)
        self.project, self.norm3 = ElasticConv(middle, out_channels), ElasticNorm(out_channels)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        middle = self.in_channels * block.expand_ratio
        y = F.hardswish(self.norm1(self.expand(x, middle)))
        y = F.hardswish(self.norm2(self.depthwise(y, block.kernel_size)))
        y = self.norm3(self.project(y, self.out_channels))
        return x + y if self.has_shortcut else y

    def extract(self, block: Block) -> nn.Module:
        middle = self.in_channels * block.expand_ratio
        expand = self.expand.extract(self.in_channels, middle), self.norm1.extract(middle)
        depthwise = self.depthwise.extract(middle, block.kernel_size), self.norm2.extract(middle)
        project = self.project.extract(middle, self.out_channels)
        norm3 = self.norm3.extract(self.out_channels)
        layers = (*expand, nn.Hardswish(), *depthwise, nn.Hardswish(), project, norm3)
        return Shortcut(*layers) if self.has_shortcut else nn.Sequential(*layers)


class Shortcut(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class GlobalMean(nn.Module):
    """Mean over all pixels: ``(B, C, H, W)`` to ``(B, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(3).mean(2)


class Supernet(nn.Module):
    """All subnets in one set of weights: ``net(images, arch)`` runs one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = ElasticConv(1, STEM_WIDTH, 3), ElasticNorm(STEM_WIDTH)
        self.stages = nn.ModuleList()
        channels = STEM_WIDTH
        for width, stride in STAGES:
            rest = (ElasticBlock(width, width, 1) for _ in range(max(DEPTHS) - 1))
            self.stages.append(nn.ModuleList([ElasticBlock(channels, width, stride), *rest]))
            channels = width
        self.head, self.head_norm = ElasticConv(channels, HEAD_WIDTH), ElasticNorm(HEAD_WIDTH)
        self.classifier = nn.Linear(HEAD_WIDTH, NUM_CLASSES)

    def running_blocks(self, arch: Arch) -> list[tuple[ElasticBlock, Block]]:
        """Return the blocks that run, each with its choices: depth keeps a stage's first ones."""
        stages = zip(self.stages, arch.stages, strict=True)
        return [pair for blocks, chosen in stages for pair in zip(blocks, chosen, strict=False)]

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """Map images ``(B, 1, 8, 8)`` to logits ``(B, 10)`` with the subnet ``arch``."""
        x = F.hardswish(self.stem_norm(self.stem(images, STEM_WIDTH)))
        for block, choices in self.running_blocks(arch):
            x = block(x, choices)
        x = F.hardswish(self.head_norm(self.head(x, HEAD_WIDTH)))
        return self.classifier(x.mean(3).mean(2))

    def extract(self, arch: Arch) -> nn.Sequential:
        """Return a plain copy of one subnet in eval mode, bitwise equal to it on a CPU."""
        stem = self.stem.extract(1, STEM_WIDTH), self.stem_norm.extract(STEM_WIDTH)
        body = [block.extract(choices) for block, choices in self.running_blocks(arch)]
        head = self.head.extract(STAGES[-1][0], HEAD_WIDTH), self.head_norm.extract(HEAD_WIDTH)
        last = nn.Hardswish(), GlobalMean(), copy.deepcopy(self.classifier)
        return nn.Sequential(*stem, nn.Hardswish(), *body, *head, *last).eval()


# -- 4. Training: the sandwich rule with in-place distillation -----------------------------------


def sandwich_step(net: Supernet, images: Tensor, labels: Tensor, rng: random.Random) -> float:
    """Add up the gradients of four subnets; return the largest one's loss.

    The largest learns from the labels; the smallest and two random ones learn from the largest
    (Yu and Huang, *Universally Slimmable Networks*, ICCV 2019).
    """
    logits_BK = net(images, LARGEST)
    loss = F.cross_entropy(logits_BK, labels)
    loss.backward()
    teacher_BK = logits_BK.detach().softmax(dim=1)
    for arch in (SMALLEST, sample(rng), sample(rng)):
        F.cross_entropy(net(images, arch), teacher_BK).backward()
    return loss.item()


def train(net: Supernet, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """Train all subnets at once: Nesterov SGD, one cosine, batches of 64."""
    rng, shuffle = random.Random(seed), torch.Generator().manual_seed(seed)
    # Filters decay; kernel transforms must not, they would leave the identity for zero.
    groups = [
        {"params": [p for p in net.parameters() if p.ndim == 4], "weight_decay": 1e-4},
        {"params": [p for p in net.parameters() if p.ndim != 4]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = len(images) // 64
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=shuffle).split(64)[:steps]:
            optimizer.zero_grad()  # a block that no subnet ran has no gradient: it stays
            sandwich_step(net, images[batch], labels[batch], rng)
            optimizer.step()
            schedule.step()
    net.eval()


# -- 5. From a subnet to a network: extract, recalibrate -----------------------------------------


@torch.no_grad()
def recalibrate(model: nn.Module, images: Tensor) -> nn.Module:
    """Give every batch norm the statistics of these images, ``(B, 1, 8, 8)``; return the model.

    The supernet's running statistics are a mixture, right for no subnet. Each norm, in turn, takes
    on the mean and variance of what it is about to normalise; weights stay.
    """

    def adopt(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        filled(norm, running_mean=mean, running_var=variance)

    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    hooks = [norm.register_forward_pre_hook(adopt) for norm in norms]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return model


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose class is found, in [0, 1]."""
    return (model(images).argmax(dim=1) == labels).float().mean().item()


# -- 6. Search: the best subnet under a limit ----------------------------------------------------


def evolve(
    accuracy: Callable[[Arch], float], max_macs: float, *, rounds: int = 5, keep: int = 6, seed: int
) -> Arch:
    """Return the most accurate arch found with at most ``max_macs``; of equals the cheapest.

    The best of a population stay and mutate. The smallest arch is in the first one, so every
    limit that can be kept is kept.
    """
    if count_macs(SMALLEST) > max_macs:
        raise ValueError(f"max_macs {max_macs} is below {count_macs(SMALLEST)}, the smallest arch")
    rng, best = random.Random(seed), [SMALLEST]
    for _ in range(rounds):
        drawn = {mutate(rng.choice(best), rng): None for _ in range(100 * keep)}  # in order
        fitting = [arch for arch in drawn if count_macs(arch) <= max_macs and arch not in best]
        best += fitting[:keep]
        best = sorted(best, key=lambda a: (-accuracy(a), count_macs(a)))[:keep]
    return best[0]


# -- 7. All together -----------------------------------------------------------------------------


def load_digits(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return training, validation and test images ``(B, 1, 8, 8)`` with labels ``(B,)``."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return [(images[part], labels[part]) for part in order.split((1197, 300, 300))]


def main(epochs: int = 10, limits: Sequence[float] = (2e5, 4e5, 8e5, 1.65e6)) -> None:
    """Train, search under each limit in MACs, and print what was found."""
    start = time.perf_counter()
    torch.manual_seed(0)
    net, ((images, labels), valid, test) = Supernet(), load_digits(seed=0)
    train(net, images, labels, epochs=epochs, seed=0)
    print(f"{NUM_SUBNETS:,} subnets trained in {time.perf_counter() - start:.0f} s")

    @functools.cache
    def accuracy(arch: Arch) -> float:
        return top1(recalibrate(net.extract(arch), images[:512]), *valid)

    print("  limit    MACs  validation    test  as trained  arch")
    for limit in limits:
        arch = evolve(accuracy, limit, seed=0)
        as_trained = top1(net.extract(arch), *test)
        tested = top1(recalibrate(net.extract(arch), images[:512]), *test)
        costs = f"{limit / 1e3:5.0f} k {count_macs(arch) / 1e3:5.0f} k"
        print(f"{costs}  {accuracy(arch):9.1%}  {tested:6.1%}  {as_trained:9.1%}   {arch}")
    print(f"{accuracy.cache_info().currsize} looked at; {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
