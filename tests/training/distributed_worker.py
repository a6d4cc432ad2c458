"""One rank of a distributed test; run as  python -m tests.training.distributed_worker JOB OUT."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from onceforall.errors import OnceForAllError
from onceforall.training.engine import train
from onceforall.training.optimizer import make_optimizer, set_learning_rate
from onceforall.training.plan import sandwich_plan
from onceforall.training.ranks import (
    ranks_from_environment,
    start_process_group,
    stop_process_group,
)
from onceforall.training.sampling import Moment, draw_archs
from onceforall.training.settings import Callbacks, TrainOptions
from onceforall.training.shrinking import progressive_plan
from onceforall.training.step import StepContext, accumulate_gradients
from onceforall.training.timer import Timer
from tests.training.tiny import SPEC, tiny_batches, tiny_net

PLANS = {
    "sandwich": sandwich_plan(epochs=3, learning_rate=0.1, reference_batch=16, subnets_per_step=3),
    "progressive": progressive_plan(SPEC.space, epochs=6, learning_rate=0.1, reference_batch=16),
}


def five_steps(out: Path) -> None:
    """Do five sandwich steps in double precision; rank 0 saves parameters and collectives."""
    ranks = ranks_from_environment(os.environ)
    start_process_group(ranks, torch.device("cpu"))
    collectives = 0
    reduce = dist.all_reduce

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal collectives
        collectives += 1
        return reduce(*args, **kwargs)

    dist.all_reduce = counted
    plan = PLANS["sandwich"]
    phase = plan.phases[0]
    net = tiny_net().double().train()
    optimizer = make_optimizer(net, momentum=plan.momentum, weight_decay=plan.weight_decay)
    set_learning_rate(optimizer, 0.05)
    data = tiny_batches(batch_size=8, rank=ranks.rank, world_size=ranks.world_size)
    context = StepContext(plan=plan, phase=phase, ranks=ranks)
    depths = set()
    for step, (images, labels) in data.iterate(0, resolution_of=lambda step: 8):
        if step == 5:
            break
        moment = Moment(seed=0, epoch=0, batch=step, batches=6, step=step)
        archs = draw_archs(phase, SPEC.space, moment, resolution=8)
        depths |= {arch.depth for arch in archs}
        accumulate_gradients(net, [(images.double(), labels)], archs, context)
        optimizer.step()
    assert len(depths) > 1
    if ranks.is_main:
        parameters = {name: p.detach() for name, p in net.named_parameters()}
        torch.save({"parameters": parameters, "collectives": collectives}, out)
    stop_process_group(ranks)


def whole_plan(name: str, out: Path, die_after: int) -> None:
    """Train a whole plan in folder ``out``; kill this process after some steps (-1: never)."""
    torch.set_num_threads(1)
    ranks = ranks_from_environment(os.environ)
    start_process_group(ranks, torch.device("cpu"))
    steps = 0

    def count(images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple:
        nonlocal steps
        steps += 1
        if steps == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return images, labels

    net = tiny_net()
    train(
        net,
        PLANS[name],
        tiny_batches(batch_size=8, rank=ranks.rank, world_size=ranks.world_size),
        folder=out,
        options=TrainOptions(seed=0, checkpoint_every_steps=2),
        callbacks=Callbacks(change_batch=count),
        ranks=ranks,
    )
    if ranks.is_main:
        torch.save(net.state_dict(), out / "final.pt")
    stop_process_group(ranks)


def contrary_clocks(out: Path) -> None:
    """Train while only the second rank's clock says that a checkpoint is due, count collectives."""
    ranks = ranks_from_environment(os.environ)
    start_process_group(ranks, torch.device("cpu"), timeout_minutes=0.5)
    if not ranks.is_main:
        Timer.is_checkpoint_time = lambda self, step: True
    collectives = 0
    reduce = dist.all_reduce

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal collectives
        collectives += 1
        return reduce(*args, **kwargs)

    dist.all_reduce = counted
    data = tiny_batches(batch_size=8, rank=ranks.rank, world_size=ranks.world_size)
    options = TrainOptions(seed=0)
    train(tiny_net(), PLANS["sandwich"], data, folder=out, options=options, ranks=ranks)
    if ranks.is_main:
        steps = PLANS["sandwich"].epochs * data.steps_per_epoch
        torch.save({"collectives": collectives, "steps": steps}, out / "counts.pt")
    stop_process_group(ranks)


def parted_disk(out: Path) -> None:
    """Train with a folder for each rank, as without a shared disk; write down what is raised."""
    ranks = ranks_from_environment(os.environ)
    start_process_group(ranks, torch.device("cpu"), timeout_minutes=0.5)
    data = tiny_batches(batch_size=8, rank=ranks.rank, world_size=ranks.world_size)
    options = TrainOptions(seed=0, checkpoint_every_steps=2)
    folder = out / f"rank{ranks.rank}"
    try:
        train(tiny_net(), PLANS["sandwich"], data, folder=folder, options=options, ranks=ranks)
    except OnceForAllError as error:
        (out / f"error{ranks.rank}.txt").write_text(f"{type(error).__name__}: {error}")
        sys.exit(2)
    stop_process_group(ranks)


if __name__ == "__main__":
    if sys.argv[1] == "parted_disk":
        parted_disk(Path(sys.argv[2]))
    elif sys.argv[1] == "five_steps":
        five_steps(Path(sys.argv[2]))
    elif sys.argv[1] == "contrary_clocks":
        contrary_clocks(Path(sys.argv[2]))
    else:
        whole_plan(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
