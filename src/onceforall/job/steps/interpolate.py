"""How near to the weights that a network was given its subnets are best.

Counted on training images: both sets of weights have seen them. Images that were held out here may
have been among those that the network was made with; they would speak for the weights given,
however bad those are for what is new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onceforall.arch import Arch
from onceforall.encoding import Rows
from onceforall.errors import Interrupted
from onceforall.job.context import Run
from onceforall.job.interpolation import Interpolation, size_of
from onceforall.job.weights import new_supernet
from onceforall.measure.cost_tables import compile_costs
from onceforall.predictors.sampling import stratified_rows
from onceforall.supernets.nets import ElasticNet, PlainNet, interpolated
from onceforall.training.ranks import agree, sum_over_ranks

# From trained weights to those given.
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
# Smaller sizes that are looked at beside the largest, until one is best as it was trained.
_SIZES = 5
_MOST_IMAGES, _BATCH = 512, 128
# Of training's time, and what it takes: usual is the walk of the largest to a half and of two more,
# in single precision, each two or three times a step's usual subnet.
_TIME_SHARE, _LOOKS = 0.03, 20
# Of a rank, so that batch norm sees some.
_FEWEST_IMAGES = 32

Goodness = tuple[float, float]


def find_interpolation(run: Run, trained: ElasticNet) -> Interpolation | None:
    """Return where subnets lie between given and trained weights; None where all are as trained.

    Only traced networks that came with weights of their own have others to lie between. The
    largest subnet is looked at first: where it is best as it was trained, every other is. A smaller
    one is never nearer to the given weights than a larger one.

    Args:
        run: The run, as one of its ranks.
        trained: Its supernet after training.
    """
    if not has_other_weights(run):
        return None
    given, images = new_supernet(run), run.training_sample(_num_images(run), batch_size=_BATCH)
    found: list[tuple[float, float]] = []
    archs = _archs(run)
    for arch in archs:
        done = {"event": "progress", "what": "weights", "done": len(found), "total": len(archs)}
        run.emit(done)

        def goodness(share: float, arch: Arch = arch) -> Goodness:
            if agree(run.should_stop(), run.ranks, run.device):
                raise Interrupted("stopped after training; the same command goes on")
            net = interpolated(given, trained, share).extract(arch)
            return _goodness(run, net, images.batches(arch.resolution))

        least = found[-1][1] if found else 0.0
        share = _best(goodness, [each for each in _SHARES if each >= least])
        found.append((size_of(run.spec, arch), share))
        if share == 1:
            break
    if found[0][1] == 1:
        return None
    # Of one size twice, the place that was found first: of the larger, nearer to the given.
    sizes, shares = zip(*sorted(dict(reversed(found)).items()), strict=True)
    result = Interpolation(sizes=sizes, shares=shares)
    run.emit({"event": "interpolated", **result.to_json()})
    return result


def has_other_weights(run: Run) -> bool:
    """Say whether a run's subnets may be between two sets of weights."""
    train = run.config.train
    return run.config.supernet.family == "graph" and bool(train.init) and not train.reinit_head


def seconds_to_find(run: Run) -> float:
    """Return the seconds to keep for it after training."""
    if run.estimate is None or not has_other_weights(run):
        return 0.0
    return _TIME_SHARE * run.estimate.train_s


def _best(goodness: Callable[[float], Goodness], shares: list[float]) -> float:
    """Return the best share: from the first on, until the next is worse."""
    best, value = shares[0], goodness(shares[0]) if len(shares) > 1 else (0.0, 0.0)
    for share in shares[1:]:
        next_value = goodness(share)
        if not next_value > value:  # nor what is no number
            break
        best, value = share, next_value
    return best


def _archs(run: Run) -> list[Arch]:
    """Return the largest subnet, and others of its side from large to small."""
    space, encoding, costs = run.spec.space, run.encoding, compile_costs(run.spec)
    side = encoding.gene_index("resolution")

    def sample(count: int, rng: np.random.Generator) -> Rows:
        rows = encoding.sample(count, rng)
        if side is not None:
            rows[:, side] = encoding.largest()[0, side]
        return rows

    whole = space.restrict(resolution=(space.largest.resolution,))
    count, rng = min(_SIZES, whole.size // 2), np.random.default_rng(run.config.seed)
    if count == 0:
        return [space.largest]
    rows = stratified_rows(sample, costs.macs, count=count, rng=rng, num_strata=count)
    rows = rows[np.argsort(-costs.macs(rows), kind="stable")]
    return list(dict.fromkeys([space.largest, *encoding.to_archs(rows)]))


def _num_images(run: Run) -> int:
    """Return how many images there is time for, over all ranks."""
    if run.estimate is None or not run.estimate.step_seconds:
        return _MOST_IMAGES
    train, estimate = run.config.train, run.estimate
    image_s = estimate.step_seconds[0] / (3 * train.batch_size * run.ranks.world_size)
    count = math.floor(_TIME_SHARE * estimate.train_s / (_LOOKS * image_s))
    least = max(_BATCH, _FEWEST_IMAGES * run.ranks.world_size)
    return max(least, min(_MOST_IMAGES, count))


@torch.no_grad()
def _goodness(run: Run, net: PlainNet, batches: Iterator[tuple[Tensor, Tensor]]) -> Goodness:
    """Return top-1 and minus the loss over all ranks; batch norm as in training, by the batch."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.train()
    smoothing = run.config.train.label_smoothing  # as trained: else the less sure are worse
    hits, loss, count = torch.zeros(3, dtype=torch.float64, device=run.device)
    for images, labels in batches:
        if len(labels) < 2:  # has no statistics
            continue
        logits = net(images)
        hits += (logits.argmax(1) == labels).sum()
        loss += F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        count += len(labels)
    hits, loss, count = sum_over_ranks(torch.stack([hits, loss, count]), run.ranks).tolist()
    return (hits / count, -loss / count) if count else (0.0, 0.0)
