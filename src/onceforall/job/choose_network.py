"""Which network fits the pictures, their number, the time and the machine.

Candidates are timed for real: seconds of a training step of the largest, the smallest and a middle
subnet, in the precisions at hand. The largest candidate that gets enough passes over the images
is taken; how many are enough comes from recorded experiments (docs/results/pictures.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from onceforall.errors import ConfigError
from onceforall.job.config import RunConfig
from onceforall.job.sections import SupernetConfig
from onceforall.measure.costs import count_macs, count_params
from onceforall.report.numbers import SPACE, count
from onceforall.supernets.spec import SupernetSpec
from onceforall.training.speed import Speed, Stopwatch, faster_precision, measure_speed

# What the largest subnet alone should see in the training time: passes over the training images,
# and images in all. Fewer, and a smaller network ends better, at every latency: of 4,500 images
# 157 passes gave three points more than 65 of a network four times as large, of 45,000 images 76
# one point more than 36 of one 1.4 times as large (in the same time; all as estimated here, before
# the sandwich takes its part): docs/results/pictures.md. In between nothing is known; the next
# smaller network of the ladder has about half the weights, which costs more than a few passes.
_ENOUGH_PASSES = 50.0
_ENOUGH_IMAGES = 500_000.0
# Where the ladder is entered: multiply-accumulates that a core trains with.
_USUAL_MACS_PER_S = 60e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a plan has to know of the data and of what the user said.

    Attributes:
        num_train: Images to train on, those held out not counted.
        num_valid: Images that choose subnets.
        num_test: Images that figures are reported on.
        num_classes: Classes.
        image_side: Side of the images in pixels.
        given: Settings that the user gave, as ``section.key`` and as ``section``.
        budget_s: Seconds of the whole command; None if the user gave none.
        effort: What stands for a time without one; None for ``balanced``.
        world_size: Processes that a launcher started; 1 if none did.
    """

    num_train: int
    num_valid: int
    num_test: int
    num_classes: int
    image_side: int
    given: frozenset[str]
    budget_s: float | None
    effort: str | None
    world_size: int


def choose_network(
    config: RunConfig,
    ladder: Sequence[SupernetConfig],
    task: Task,
    *,
    train_s: float,
    num_processes: int,
    device: torch.device,
) -> tuple[SupernetConfig, Speed, str]:
    """Return the largest network of a ladder that gets enough passes in a time.

    Args:
        config: Everything but the network.
        ladder: Networks, ascending in cost; at least one.
        task: Data and wishes.
        train_s: Seconds of training.
        num_processes: Processes that will train side by side.
        device: Where to train.

    Returns:
        The network, its speed, and one line that says what was chosen and why.

    Raises:
        ConfigError: If the memory of the device does not hold the smallest.
    """
    specs = [
        config.model_copy(update={"supernet": network}).spec(task.num_classes) for network in ladder
    ]
    macs = [
        count_macs(spec.blueprint(spec.space.largest), resolution=spec.space.resolutions[-1])
        for spec in specs
    ]
    seen = train_s * num_processes  # seconds of one process, all together
    most_s = min(seen / (_ENOUGH_PASSES * task.num_train), seen / _ENOUGH_IMAGES)
    most_s /= config.train.side**2  # networks are timed at their own resolution
    # From where a usual processor would be, up or down to where this one is.
    at = max([0, *(i for i, m in enumerate(macs) if 3 * m / _USUAL_MACS_PER_S <= most_s)])
    # Processes that a run starts itself share its batch; those of a launcher have one each.
    shares = num_processes if config.train.ranks == 0 and task.world_size == 1 else 1
    batch_size = max(2, config.train.batch_size // shares)
    timed: dict[int, tuple[bool, float]] = {}  # the faster precision, and its seconds
    watch: Stopwatch | None = None
    while True:
        if at not in timed:
            watch = None  # before there is another: a GPU has room for one
            watch, autocast, largest_s = _timed(
                specs[at], config, device=device, batch_size=batch_size
            )
            timed[at], last = (autocast, largest_s), at
        is_enough = timed[at][1] <= most_s
        after = at + 1 if is_enough else at - 1
        if not 0 <= after < len(ladder) or after in timed:
            break
        # A step up that could not do is not even timed.
        if is_enough and timed[at][1] * (macs[after] / macs[at]) ** 0.5 > most_s:
            break
        at = after
    chosen = max([0, *(i for i, (_, s) in timed.items() if s <= most_s)])
    if chosen not in timed:
        chosen = min(timed)
    autocast, largest_s = timed[chosen]
    if math.isinf(largest_s):
        raise ConfigError(
            f"the GPU's memory does not hold {_name(ladder[chosen])} and {batch_size} images: "
            f"--set train.batch_size={max(1, config.train.batch_size // 2)}"
        )
    if watch is None or chosen != last:
        watch = None  # as above
        watch = Stopwatch.of(specs[chosen], device=device, batch_size=batch_size)
    speed = measure_speed(watch, autocast=autocast, largest_s=largest_s)
    passes = seen / (task.num_train * largest_s * config.train.side**2)
    why = _why(specs[chosen], ladder[chosen], speed, passes, num_processes)
    return ladder[chosen], speed, why


def _timed(
    spec: SupernetSpec, config: RunConfig, *, device: torch.device, batch_size: int
) -> tuple[Stopwatch | None, bool, float]:
    """Return the stopwatch of a network, its faster precision, and the seconds of an image.

    What the memory does not hold takes for ever.
    """
    try:
        watch = Stopwatch.of(spec, device=device, batch_size=batch_size)
        return (watch, *faster_precision(watch, config.train.autocast))
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None, False, math.inf


def _why(
    spec: SupernetSpec, network: SupernetConfig, speed: Speed, passes: float, num_processes: int
) -> str:
    largest = spec.blueprint(spec.space.largest)
    macs = count_macs(largest, resolution=spec.space.resolutions[-1])
    sizes = f"{count(macs)} MACs and {count(count_params(largest))} params".replace(SPACE, " ")
    time_for = "" if math.isinf(passes) else f", time for {passes:.0f} passes"
    return (
        f"{_name(network)}, largest {sizes}: "
        f"{num_processes / speed.largest_s:.0f} images/s in "
        f"{'bfloat16' if speed.autocast else 'float32'} on {num_processes} "
        f"process{'es' if num_processes > 1 else ''}{time_for}"
    )


def _name(network: SupernetConfig) -> str:
    if network.family in ("residual", "fused_mbconv", "small_images"):
        return f"{network.family} {'-'.join(map(str, network.widths))}"
    if network.family == "table" and network.table and "name" in network.table:
        return str(network.table["name"])
    return network.source or network.family
