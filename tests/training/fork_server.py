"""A process that has imported PyTorch and forks children that may be killed at no cost.

Started as  python -m tests.training.fork_server;  takes one JSON object a line:

    {"start": JOB, "log": FILE}       forks a child; answers {"pid": PID}
    {"wait": PID, "timeout_s": S}     answers {"status": N}, or {"status": null} after killing it
    {"shell": COMMAND}                runs it (in this process's mount namespace)

A JOB is {"run": "plan", ...} for :func:`plan_job` or {"run": "cli", ...} for :func:`cli_job`.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import onceforall.cli
import onceforall.job.data
import onceforall.job.pipeline
from onceforall.errors import OnceForAllError
from onceforall.training.engine import train
from onceforall.training.plan import sandwich_plan
from onceforall.training.ranks import (
    ranks_from_environment,
    start_process_group,
    stop_process_group,
)
from onceforall.training.settings import Callbacks, TrainOptions
from onceforall.training.shrinking import progressive_plan
from tests.training.tiny import SPEC, tiny_batches, tiny_net

Job = dict[str, Any]
SANDWICH = sandwich_plan(
    epochs=6, learning_rate=0.1, reference_batch=16, subnets_per_step=3, ema_decay=0.9
)
PLANS = {
    "sandwich": SANDWICH,
    "muon": dataclasses.replace(SANDWICH, muon_factor=0.5),
    "progressive": progressive_plan(SPEC.space, epochs=6, learning_rate=0.1, reference_batch=16),
}
NUM_IMAGES = 48
STEPS = 18  # of 6 epochs, 16 images a step over all ranks


def plan_job(job: Job) -> None:
    """Train ``job["plan"]`` in folder ``job["out"]`` as one rank.

    ``signal_at_step`` maps steps to the signal that this process sends itself there;
    ``die_in_write`` is the number of the file whose writing SIGKILL interrupts.
    """
    os.environ.update(job["environment"])
    ranks = ranks_from_environment(os.environ)
    out = Path(job["out"])
    if job.get("die_in_write"):
        _die_in_write(job["die_in_write"])
    signals = {int(step): number for step, number in job.get("signal_at_step", {}).items()}

    def change_batch(images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple:
        if step in signals:
            os.kill(os.getpid(), signals[step])
        return images, labels

    net = tiny_net()
    try:
        start_process_group(
            ranks, torch.device("cpu"), timeout_minutes=job.get("timeout_s", 60) / 60
        )
        train(
            net,
            PLANS[job["plan"]],
            tiny_batches(
                batch_size=16 // ranks.world_size,
                rank=ranks.rank,
                world_size=ranks.world_size,
                count=NUM_IMAGES,
            ),
            folder=out,
            options=TrainOptions(seed=0, checkpoint_every_steps=2),
            callbacks=Callbacks(change_batch=change_batch),
            ranks=ranks,
        )
    except OnceForAllError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if ranks.is_main:
        torch.save(net.state_dict(), out / "final.pt")
    stop_process_group(ranks)


def _die_in_write(count: int) -> None:
    """Fall dead when the file of that number is written but not yet renamed."""
    fsync, calls = os.fsync, iter(range(1, 10**9))

    def fatal(descriptor: int) -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = fatal


def cli_job(job: Job) -> None:
    """Run ``ofa`` with ``job["arguments"]``.

    ``streamed`` keeps images on disk, however few; ``max_file_bytes`` limits the size of files;
    ``at_step`` is (step, deed, detail) with a deed of :data:`DEEDS`; ``fault`` is (step of the job,
    number of a write in it, what happens there: ``kill``, ``stop``, ``full`` or ``wait``).
    """
    if job.get("fault"):
        _fail_in_write(*job["fault"])
    if job.get("streamed"):
        onceforall.job.data.open_dataset = functools.partial(
            onceforall.job.data.open_dataset, max_resident_bytes=0
        )
    if job.get("max_file_bytes"):
        limit = job["max_file_bytes"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if job.get("at_step"):
        at_step, deed, detail = job["at_step"]

        def change_batch(images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple:
            return (DEEDS[deed](images, detail) if step == at_step else images), labels

        onceforall.job.data._change_batch = lambda config, num_classes: change_batch
    sys.argv = ["ofa", *job["arguments"]]
    onceforall.cli.main()


def _fail_in_write(step: str, number: int, what: str) -> None:
    """Let something happen when a step of the job writes for the ``number``-th time."""
    pipeline = onceforall.job.pipeline
    announce, fsync, writes = pipeline._announce, os.fsync, iter(range(1, 10**9))
    standing = {"step": ""}

    def announced(run: Any, steps: Any, name: str, text: str) -> None:
        standing["step"] = name
        announce(run, steps, name, text)

    def written(descriptor: int) -> None:
        if standing["step"] == step and next(writes) == number:
            if what == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if what == "wait":
                _pause(torch.zeros(0), 10_000)
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGTERM}[what])
        fsync(descriptor)

    pipeline._announce, os.fsync = announced, written


def _kill_data_workers(images: torch.Tensor, detail: object) -> torch.Tensor:
    """Kill the worker processes; wait, so that their death could be noticed within this step."""
    workers = multiprocessing.active_children()
    assert workers, "there are no data workers"
    for worker in workers:
        worker.kill()
    time.sleep(0.3)
    return images


def _truncate(images: torch.Tensor, path: str) -> torch.Tensor:
    os.truncate(path, os.path.getsize(path) // 3)
    return images


def _pause(images: torch.Tensor, seconds: float) -> torch.Tensor:
    print("paused", flush=True)
    time.sleep(seconds)
    return images


def _poison(images: torch.Tensor, detail: object) -> torch.Tensor:
    return torch.full_like(images, float("nan"))


DEEDS: dict[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
    "kill_data_workers": _kill_data_workers,
    "truncate": _truncate,
    "pause": _pause,
    "poison": _poison,
}


def _fork(job: Job, log: str) -> int:
    """Return the process id of a child; in the child, does not return but ends the process."""
    pid = os.fork()
    if pid:
        return pid
    with open(log, "ab") as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.setpgid(0, 0)
    {"plan": plan_job, "cli": cli_job}[job["run"]](job)
    sys.exit(0)


def _wait(pid: int, timeout_s: float) -> int | None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _serve() -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # which the first optimizer of each child would do
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "start" in request:
            answer: Job = {"pid": _fork(request["start"], request["log"])}
        elif "wait" in request:
            answer = {"status": _wait(request["wait"], request["timeout_s"])}
        else:
            answer = {"status": subprocess.run(request["shell"], shell=True).returncode}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
