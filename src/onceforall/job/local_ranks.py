"""Processes that a run starts by itself, so that every core of this machine trains.

Rank 0 is the process of the command; the others open the same run folder and take part in the work
that all ranks share. They end with rank 0, however it ends.
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

import torch

from onceforall.errors import Interrupted, OnceForAllError, TrainingError
from onceforall.job.clock import Clock
from onceforall.job.context import Run
from onceforall.job.machine import named_device
from onceforall.job.start import open_run
from onceforall.training.ranks import Ranks, join_store, open_store, stop_process_group

_END_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 2.0

# What a further rank does: takes the run with its ranks, and the names that it was started with.
Work = Callable[[Run, Sequence[str]], None]


@contextlib.contextmanager
def local_ranks(
    folder: Path,
    count: int,
    module: str,
    names: Sequence[str],
    *,
    clock: Clock,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Ranks]:
    """Start ``count - 1`` further processes for a run and give the ranks of this one.

    Args:
        folder: Folder of the run.
        count: Processes in all.
        module: Module that the processes run; it calls :func:`take_part`.
        names: What it is told to do.
        clock: The run's, which all of them keep.
        device: Where this process trains; the others do on the same kind.
        should_stop: Asked while they get ready, which may take as long as reading the images.

    Raises:
        Interrupted: If ``should_stop`` said so before all have come together.
        TrainingError: If one of them ends before all have come together.
    """
    ranks = Ranks(rank=0, world_size=count, local_rank=0)
    store, port = open_store(count)
    processes = [
        _start(module, folder, names, Ranks(rank=rank, world_size=count), port, clock, device)
        for rank in range(1, count)
    ]
    try:
        while not store.check([f"here/{rank}" for rank in range(1, count)]):
            # However long they take to read their images: those that live come, or end.
            if should_stop():
                raise Interrupted("stopped before training; the same command goes on")
            ended = [p for p in processes if p.poll() is not None]
            if ended:
                raise TrainingError(
                    f"a training process of this machine ended before it began (exit status "
                    f"{ended[0].returncode}); --set train.ranks=1 does without"
                )
            time.sleep(0.02)
        join_store(store, ranks)
        yield ranks
    except BaseException:
        # Interrupted training ends on all ranks at one step, and they are about to be done.
        _end(processes, patience_s=_STOP_TIMEOUT_S)
        raise
    else:
        _end(processes, patience_s=_END_TIMEOUT_S)
    finally:
        stop_process_group(ranks)


@contextlib.contextmanager
def run_on_all(run: Run, module: str, names: Sequence[str]) -> Iterator[Run]:
    """Give a run with as many processes as train its supernet, each with its threads.

    Args:
        run: The run in this process, rank 0.
        module: As for :func:`local_ranks`.
        names: As for :func:`local_ranks`.
    """
    count, threads = run.config.train.ranks, torch.get_num_threads()
    if count == 1:
        yield run
        return
    try:
        torch.set_num_threads(max(1, run.config.train.threads))
        with local_ranks(
            run.folder.path,
            count,
            module,
            names,
            clock=run.clock,
            device=run.device,
            should_stop=run.should_stop,
        ) as ranks:
            yield replace(run, ranks=ranks)
    finally:
        torch.set_num_threads(threads)


def _start(
    module: str,
    folder: Path,
    names: Sequence[str],
    ranks: Ranks,
    port: int,
    clock: Clock,
    device: torch.device,
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, str(folder), *names]
    command += [f"--rank={ranks.rank}", f"--world-size={ranks.world_size}", f"--port={port}"]
    command += [f"--parent={os.getpid()}", f"--device={device.type}"]
    command += [f"--began={time.time() - clock.elapsed_s()!r}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def _end(processes: Sequence[subprocess.Popen[bytes]], *, patience_s: float) -> None:
    """Wait for the processes; kill those that do not end by themselves. They own no file."""
    deadline = time.monotonic() + patience_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


def take_part(work: Work) -> int:
    """Do ``work`` as a further rank, as the arguments of the command say; return its exit status.

    The arguments are those of :func:`_start`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    for name in ("--rank", "--world-size", "--port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--began", type=float, required=True)
    parser.add_argument("--device", required=True)
    given = parser.parse_args()
    # Ctrl-C and batch systems reach every process: rank 0 says when to stop, at the same step.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ranks = Ranks(rank=given.rank, world_size=given.world_size, local_rank=given.rank)
    try:
        store, _ = open_store(ranks.world_size, port=given.port)
        run = open_run(
            given.folder,
            tell=lambda event: None,
            # When rank 0 is gone, so is the reason for this process.
            should_stop=lambda: os.getppid() != given.parent,
            ranks=ranks,
            device=named_device(given.device, ranks),
        )
        gone_s = time.time() - given.began
        clock = replace(run.clock, before_s=gone_s, started=time.monotonic())
        store.set(f"here/{ranks.rank}", "yes")
        join_store(store, ranks)
        work(replace(run, clock=clock), given.names)
        stop_process_group(ranks)
    except Interrupted:
        return 130
    except OnceForAllError as error:
        if os.getppid() == given.parent:  # else rank 0 is gone, and has said why
            print(f"ofa: rank {ranks.rank}: {error}", file=sys.stderr)
        return 2
    return 0
