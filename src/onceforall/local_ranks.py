"""Processes that a run starts by itself, so that every core of this machine trains.

Rank 0 is the process of the command; the others open the same run folder and take part in the
steps that all ranks share. They end with rank 0, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from onceforall.clock import Clock
from onceforall.errors import Interrupted, OnceForAllError, TrainingError
from onceforall.predicting import evaluate_step
from onceforall.run import Run, default_device, open_run
from onceforall.train.ranks import Ranks, join_store, open_store, stop_process_group
from onceforall.training import train_step

_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 10.0

SHARED_STEPS: dict[str, Callable[[Run], None]] = {"train": train_step, "evaluate": evaluate_step}


@contextlib.contextmanager
def local_ranks(folder: Path, count: int, steps: Sequence[str], clock: Clock) -> Iterator[Ranks]:
    """Start ``count - 1`` further processes for a run and give the ranks of this one.

    Args:
        folder: Folder of the run.
        count: Processes in all.
        steps: Names of ``SHARED_STEPS`` that the processes take part in.
        clock: The run's, which all of them keep.

    Raises:
        TrainingError: If one of them ends before all have come together.
    """
    ranks = Ranks(rank=0, world_size=count, local_rank=0)
    store, port = open_store(count)
    processes = [_start(folder, rank, count, port, steps, clock) for rank in range(1, count)]
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not store.check([f"here/{rank}" for rank in range(1, count)]):
            ended = [p for p in processes if p.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise TrainingError(
                    f"a training process of this machine ended before it began (exit status "
                    f"{ended[0].returncode if ended else 'none'}); --set train.ranks=1 does without"
                )
            time.sleep(0.02)
        join_store(store, ranks)
        yield ranks
    finally:
        stop_process_group(ranks)
        _end(processes)


def _start(
    folder: Path, rank: int, count: int, port: int, steps: Sequence[str], clock: Clock
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onceforall.local_ranks", str(folder), *steps]
    command += [f"--rank={rank}", f"--world-size={count}", f"--port={port}"]
    command += [f"--began={time.time() - clock.elapsed_s()!r}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for the processes; end those that do not end by themselves."""
    deadline = time.monotonic() + _END_TIMEOUT_S
    for end in (lambda p: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            if process.poll() is None:
                end(process)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        deadline = time.monotonic() + _END_TIMEOUT_S


def take_part(
    folder: Path,
    ranks: Ranks,
    port: int,
    steps: Sequence[str],
    *,
    began: float,
    parent: int,
) -> None:
    """Do the shared steps of a run as one of its further ranks.

    Args:
        folder: Folder of the run.
        ranks: This process among all.
        port: Where rank 0 listens on this machine.
        steps: Names of ``SHARED_STEPS``.
        began: When the run began, in seconds since the epoch, less any pauses.
        parent: Process of rank 0: when it is gone, so is the reason for this one.
    """
    store, _ = open_store(ranks.world_size, port=port)
    run = open_run(
        folder,
        tell=lambda event: None,
        should_stop=lambda: os.getppid() != parent,
        ranks=ranks,
        device=default_device(ranks),
    )
    clock = replace(run.clock, before_s=time.time() - began, started=time.monotonic())
    run = replace(run, clock=clock)
    store.set(f"here/{ranks.rank}", "yes")
    join_store(store, ranks)
    for step in steps:
        SHARED_STEPS[step](run)
    stop_process_group(ranks)


def main() -> int:
    """Run as a further rank; the arguments are those of :func:`_start`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="+", choices=list(SHARED_STEPS))
    for name in ("--rank", "--world-size", "--port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--began", type=float, required=True)
    given = parser.parse_args()
    parent = os.getppid()
    ranks = Ranks(rank=given.rank, world_size=given.world_size, local_rank=given.rank)
    # Ctrl-C reaches every process of a terminal: rank 0 says when to stop, at the same step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        take_part(given.folder, ranks, given.port, given.steps, began=given.began, parent=parent)
    except Interrupted:
        return 130
    except OnceForAllError as error:
        if os.getppid() == parent:  # else rank 0 is gone, and has said why
            print(f"ofa: rank {ranks.rank}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
