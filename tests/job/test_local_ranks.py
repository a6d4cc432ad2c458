"""A run that starts a second process by itself: the same result after any number of kills."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from onceforall.errors import Interrupted, TrainingError
from onceforall.files import read_jsonl
from onceforall.job.clock import Clock
from onceforall.job.local_ranks import local_ranks
from tests.job.tiny_run import ENVIRONMENT, ROOT, command, write_images

TIMEOUT_S = 240


def two_ranks(images: Path, out: Path) -> list[str]:
    return [*command(images, out), "--set", "train.ranks=2", "--until", "evaluate"]


def supernet(out: Path) -> bytes:
    return (out / "checkpoints/supernet.safetensors").read_bytes()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
def test_two_processes_survive_kills_and_leave_nothing_behind(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    quiet = {"cwd": ROOT, "env": ENVIRONMENT, "capture_output": True, "text": True}
    done = subprocess.run(two_ranks(images, straight), timeout=TIMEOUT_S, **quiet)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert "in 2 processes" in done.stderr
    measured = read_jsonl(straight / "evaluations.jsonl")
    assert measured and read_jsonl(straight / "evaluations.rank1.jsonl")

    process = subprocess.Popen(
        two_ranks(images, killed), cwd=ROOT, env=ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + TIMEOUT_S
    while not list(killed.glob("checkpoints/step-*.pt")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    others = children(process.pid)
    assert len(others) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while alive(others[0]):  # the other one notices that it is alone
        assert time.monotonic() < end
        time.sleep(0.05)
    done = subprocess.run(two_ranks(images, killed), timeout=TIMEOUT_S, **quiet)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert supernet(killed) == supernet(straight)


@pytest.mark.parametrize(
    ("should_stop", "error", "message"),
    [
        (False, TrainingError, r"ended before it began .*train\.ranks=1 does without"),
        (True, Interrupted, "stopped before training; the same command goes on"),
    ],
    ids=["a process that cannot begin", "a signal while they get ready"],
)
def test_what_ends_before_training_is_one_line(
    should_stop: bool, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(error, match=message),
        local_ranks(
            tmp_path / "no run",
            2,
            "onceforall.job.shared_steps",
            ["train"],
            clock=Clock(),
            device=torch.device("cpu"),
            should_stop=lambda: should_stop,
        ),
    ):
        pass
