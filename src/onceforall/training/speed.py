"""How fast subnets train on this machine: a few real steps of a throw-away supernet."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onceforall.arch import Arch
from onceforall.supernets.nets import ElasticNet, new_net
from onceforall.supernets.spec import SupernetSpec
from onceforall.training.plan import Phase, Plan

# A training step takes as long as so many forward passes: the backward pass takes two.
_FORWARDS_PER_STEP = 3
# Of a step, what smaller sides do not make faster: small convolutions keep a processor less busy,
# and weights are as many (photographs of 38 to 64 px took 0.66 of the time at 80 px, their area is
# 0.43 of it; pictures of 24 to 32 px 0.87, 0.78).
_FIXED_SHARE = 0.4
# How much faster bfloat16 has to be: a close call should not go either way.
_BFLOAT16_MARGIN = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of one image in one process, forward and backward, at the largest side.

    Attributes:
        largest_s: Of the largest subnet.
        smallest_s: Of the smallest subnet.
        middle_s: Of a subnet drawn at random.
        forward_s: Of the middle subnet's forward pass alone, in float32.
        host_forward_s: Of the largest subnet's forward pass on the processor, where models are
            timed and compared before they ship; in float32, on one thread of it.
        autocast: Whether training passes ran in bfloat16.
        is_host: Whether all of it was measured on the processor.
    """

    largest_s: float
    smallest_s: float
    middle_s: float
    forward_s: float
    host_forward_s: float
    autocast: bool
    is_host: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopwatch:
    """Times training steps of a throw-away supernet.

    Attributes:
        net: The supernet, in training mode on its device.
        images: A batch at the largest side.
        labels: Its labels.
        archs: Largest, smallest and a middle subnet at that side.
    """

    net: ElasticNet
    images: Tensor
    labels: Tensor
    archs: tuple[Arch, Arch, Arch]

    @classmethod
    def of(cls, spec: SupernetSpec, *, device: torch.device, batch_size: int) -> Stopwatch:
        """Return the stopwatch of a stage table for batches of a size."""
        side = spec.space.resolutions[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = new_net(spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = torch.randn(batch_size, 3, side, side)
            labels = torch.randint(spec.num_classes, (batch_size,))
        space = spec.space.restrict(resolution=(side,))
        return cls(
            net=net.train(),
            images=images.to(device, memory_format=torch.channels_last),
            labels=labels.to(device),
            archs=(space.largest, space.smallest, space.sample(random.Random(0))),
        )

    @property
    def is_host(self) -> bool:
        """Return whether it times the processor."""
        return self.images.device.type == "cpu"

    def training_s(self, arch: Arch, *, autocast: bool) -> float:
        """Return the seconds of one image's forward and backward pass."""

        def step() -> None:
            self.net.zero_grad(set_to_none=True)
            with torch.autocast(self.images.device.type, torch.bfloat16, enabled=autocast):
                logits = self.net(self.images, arch)
            F.cross_entropy(logits.float(), self.labels).backward()  # type: ignore[no-untyped-call]

        return self._best_of(step)

    def forward_s(self, arch: Arch) -> float:
        """Return the seconds of one image's forward pass in float32."""

        def run() -> None:
            with torch.no_grad():
                self.net(self.images, arch)

        return self._best_of(run)

    def _best_of(self, run: Callable[[], None], repeats: int = 3) -> float:
        """Return the shortest of some runs; the first warms up, and a slow one is not repeated."""
        seconds: list[float] = []
        while len(seconds) < 2 or (len(seconds) <= repeats and seconds[-1] < 0.5):
            started = time.perf_counter()
            run()
            if self.images.device.type == "cuda":
                torch.cuda.synchronize(self.images.device)
            seconds.append(time.perf_counter() - started)
        return min(seconds[1:]) / len(self.images)


def faster_precision(watch: Stopwatch, autocast: bool | None) -> tuple[bool, float]:
    """Return the precision to train in, and the seconds of an image of the largest subnet.

    Args:
        watch: Of the network.
        autocast: What the user wants; None for what is faster.
    """
    choices = (False, True) if autocast is None else (autocast,)
    seconds = {chosen: watch.training_s(watch.archs[0], autocast=chosen) for chosen in choices}
    chosen = min(seconds, key=lambda c: seconds[c] * (_BFLOAT16_MARGIN if c else 1.0))
    return chosen, seconds[chosen]


def measure_speed(watch: Stopwatch, *, autocast: bool, largest_s: float) -> Speed:
    """Time what of a network was not timed yet."""
    return Speed(
        largest_s=largest_s,
        smallest_s=watch.training_s(watch.archs[1], autocast=autocast),
        middle_s=watch.training_s(watch.archs[2], autocast=autocast),
        forward_s=watch.forward_s(watch.archs[2]),
        host_forward_s=_host_forward_s(watch, largest_s),
        autocast=autocast,
        is_host=watch.is_host,
    )


def _host_forward_s(watch: Stopwatch, largest_s: float) -> float:
    """Return the seconds of one image's forward pass of the largest subnet on the processor."""
    if watch.is_host:
        return largest_s / _FORWARDS_PER_STEP
    # One image, as latency is measured; a GPU says nothing about it.
    host = Stopwatch.of(watch.net.spec, device=torch.device("cpu"), batch_size=1)
    host.net.eval()  # in training, a map of one pixel of one image has no variance
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return host.forward_s(host.archs[0])
    finally:
        torch.set_num_threads(threads)


def phase_step_seconds(
    plan: Plan, speed: Speed, resolutions: Sequence[int], batch_size: int
) -> tuple[float, ...]:
    """Return the expected seconds of a step of each phase, of ``batch_size`` images."""
    area = statistics.mean(r * r for r in resolutions) / resolutions[-1] ** 2
    cost = _FIXED_SHARE + (1 - _FIXED_SHARE) * area * plan.train_side**2
    return tuple(cost * batch_size * _image_seconds(phase, speed) for phase in plan.phases)


def _image_seconds(phase: Phase, speed: Speed) -> float:
    teacher = speed.largest_s / _FORWARDS_PER_STEP if phase.teacher == "frozen" else 0.0
    if phase.draw == "largest":
        return speed.largest_s + teacher
    if phase.draw == "random":
        return phase.subnets_per_step * speed.middle_s + teacher
    match phase.subnets_per_step:
        case 1:
            return (speed.largest_s + speed.smallest_s) / 4 + speed.middle_s / 2 + teacher
        case 2:
            return speed.largest_s + (speed.smallest_s + speed.middle_s) / 2 + teacher
        case count:
            rest = (count - 2) * speed.middle_s
            return speed.largest_s + speed.smallest_s + rest + teacher
