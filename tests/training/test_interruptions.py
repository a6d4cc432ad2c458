"""What ends training before its time: nothing is lost but the steps since the last checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from onceforall.files import read_jsonl
from onceforall.training.checkpoint import load_newest
from tests.data.pictures import noise
from tests.job.tiny_run import ENVIRONMENT, ROOT, SETTINGS, write_images
from tests.training.fork_server import PLANS, STEPS

TIMEOUT_S = 120.0  # far more than anything here takes, even on a busy machine


class ForkServer:
    """The process of ``fork_server.py``, and what it is asked."""

    def __init__(self, *prefix: str) -> None:
        command = [*prefix, sys.executable, "-m", "tests.training.fork_server"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, request: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return next(iter(json.loads(stdout.readline()).values()))

    def start(self, log: Path, **job: Any) -> int:
        return self.ask({"start": job, "log": str(log)})

    def wait(self, pid: int, timeout_s: float = TIMEOUT_S) -> int | None:
        """Return the exit status; None if the process had to be killed after the timeout."""
        return self.ask({"wait": pid, "timeout_s": timeout_s})

    def ofa(self, log: Path, *arguments: str, **job: Any) -> int | None:
        """Run the command line to its end; return its exit status."""
        log.unlink(missing_ok=True)
        return self.wait(self.start(log, run="cli", arguments=arguments, **job))

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer()) as server:
        yield server


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def training(images: Path, out: Path, *settings: str) -> list[str]:
    """Return the arguments of a tiny training of 8 epochs."""
    every = (*SETTINGS, "train.epochs=8", *settings)
    flags = [part for setting in every for part in ("--set", setting)]
    return ["train", str(images), "--out", str(out), *flags]


@pytest.fixture(scope="module")
def straight(server: ForkServer, images: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The supernet of an undisturbed training."""
    folder = tmp_path_factory.mktemp("straight")
    assert server.ofa(folder / "log", *training(images, folder / "run")) == 0
    return supernet(folder / "run")


def supernet(run: Path) -> bytes:
    return (run / "checkpoints/supernet.safetensors").read_bytes()


def error_line(log: Path) -> str:
    """Return what a failed command said: one line, and no traceback."""
    text = log.read_text()
    assert "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("ofa: ")]
    assert text.rstrip().endswith(line)
    return line


def epochs_done(run: Path) -> int:
    events = read_jsonl(run / "events.jsonl")
    return max((e["epochs_done"] for e in events if e["event"] == "epoch"), default=0)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_checkpoint(run: Path) -> dict[str, Any]:
    """Return the newest checkpoint, after a look that all files there are whole."""
    damaged: list[Path] = []
    loaded = load_newest(run / "checkpoints", device="cpu", on_damaged=damaged.append)
    assert loaded is not None and not damaged
    assert not list(run.rglob("*.tmp"))
    return loaded.state


# -- kill -9 --------------------------------------------------------------------------------------


def train_plan(
    server: ForkServer,
    out: Path,
    ranks: int,
    per_rank: list[dict[str, Any]],
    patience_s: tuple[float, float] = (TIMEOUT_S, TIMEOUT_S),
    **job: Any,
) -> tuple[list[int | None], float]:
    """Train a plan in every rank; return exit statuses and the seconds it took.

    ``patience_s`` says how long each rank is waited for, one after the other.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = time.monotonic()
    pids = []
    for rank in range(ranks):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        log = out.with_name(f"{out.name}.log{rank}")
        log.unlink(missing_ok=True)
        pids.append(
            server.start(
                log, run="plan", out=str(out), environment=environment, **job, **per_rank[rank]
            )
        )
    statuses = [server.wait(pid, patience) for pid, patience in zip(pids, patience_s, strict=False)]
    return statuses, time.monotonic() - started


def assert_same_net(first: Path, second: Path) -> None:
    one, two = (torch.load(path / "final.pt", weights_only=True) for path in (first, second))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.fixture(scope="module")
def straight_plan(server: ForkServer, tmp_path_factory: pytest.TempPathFactory):
    """Folder of an undisturbed training of a plan on some ranks; each is trained once."""
    folders: dict[tuple[str, int], Path] = {}

    def folder(plan: str, ranks: int) -> Path:
        if (plan, ranks) not in folders:
            out = tmp_path_factory.mktemp("straight") / "run"
            statuses, _ = train_plan(server, out, ranks, [{}] * ranks, plan=plan)
            assert statuses == [0] * ranks
            folders[plan, ranks] = out
        return folders[plan, ranks]

    return folder


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("plan", PLANS)
def test_killed_five_times_training_ends_with_the_same_bits(
    plan: str, ranks: int, server: ForkServer, straight_plan, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    rng = random.Random(f"{plan}/{ranks}")
    for step in sorted(rng.sample(range(1, STEPS), 5)):
        deaths = [{"signal_at_step": {step: signal.SIGKILL}}] * ranks
        statuses, _ = train_plan(server, out, ranks, deaths, plan=plan)
        assert statuses == [-signal.SIGKILL] * ranks
    assert not (out / "final.pt").exists()
    assert train_plan(server, out, ranks, [{}] * ranks, plan=plan)[0] == [0] * ranks
    assert_same_net(straight_plan(plan, ranks), out)


def test_killed_while_writing_a_checkpoint_it_leaves_no_litter(
    server: ForkServer, straight_plan, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    for number in (1, 3, 4):
        death = [{"die_in_write": number}]
        assert train_plan(server, out, 1, death, plan="sandwich")[0] == [-signal.SIGKILL]
    assert list(out.glob(".step-*.tmp"))  # half a checkpoint, which nobody takes for one
    assert train_plan(server, out, 1, [{}], plan="sandwich")[0] == [0]
    assert_same_net(straight_plan("sandwich", 1), out)
    assert len(list(out.glob("step-*.pt"))) == 2
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_lost_rank_ends_the_others(
    how: str, server: ForkServer, straight_plan, tmp_path: Path
) -> None:
    """A dead rank is noticed at once, a silent one after the time limit of a collective."""
    out = tmp_path / "lost"
    number = {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}[how]
    lost = [{}, {"signal_at_step": {7: number}}]
    statuses, seconds = train_plan(
        server, out, 2, lost, plan="sandwich", timeout_s=3, patience_s=(TIMEOUT_S, 0.1)
    )
    assert statuses == [2, -signal.SIGKILL if how == "dies" else None]
    assert seconds < 30
    (line,) = (tmp_path / "lost.log0").read_text().splitlines()
    assert line.startswith("error: rank 0 of 2 lost the other ranks")
    assert "the same command goes on" in line
    assert train_plan(server, out, 2, [{}] * 2, plan="sandwich")[0] == [0, 0]
    assert_same_net(straight_plan("sandwich", 2), out)


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_goes_on(
    number: int, server: ForkServer, images: Path, straight: bytes, tmp_path: Path
) -> None:
    arguments = training(images, tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "onceforall", *arguments], cwd=ROOT, env=ENVIRONMENT,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: epochs_done(tmp_path / "run") >= 1)
    process.send_signal(number)
    stderr = process.communicate(timeout=TIMEOUT_S)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "stopping at the next safe point" in stderr
    last = re.fullmatch(
        r"ofa: stopped at step (\d+); the same command goes on", stderr.splitlines()[-1]
    )
    assert last is not None, stderr
    assert list((tmp_path / "run/checkpoints").glob(f"step-{int(last[1]):08}.*.pt"))
    assert 1 <= epochs_done(tmp_path / "run") < 8
    assert_checkpoint(tmp_path / "run")
    assert not (tmp_path / "run/checkpoints/supernet.safetensors").exists()
    assert server.ofa(tmp_path / "log", *arguments) == 0
    assert supernet(tmp_path / "run") == straight


def test_a_second_signal_stops_at_once(
    server: ForkServer, images: Path, straight: bytes, tmp_path: Path
) -> None:
    log, arguments = tmp_path / "log", training(images, tmp_path / "run")
    # The next safe point is hours away.
    pid = server.start(log, run="cli", arguments=arguments, at_step=(12, "pause", 10_000))
    wait_until(lambda: log.exists() and "paused" in log.read_text())
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "once more to stop at once" in log.read_text())
    os.kill(pid, signal.SIGINT)
    assert server.wait(pid, timeout_s=10) == 130
    assert log.read_text().splitlines()[-1] == "ofa: interrupted; the same command goes on"
    assert_checkpoint(tmp_path / "run")
    assert server.ofa(log, *arguments) == 0
    assert supernet(tmp_path / "run") == straight


# -- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[ForkServer, Path]]:
    """A server with a disk of 4 MB that only it and its children see."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {place}"
    prefix = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("this user may not mount a file system in a namespace of its own")
    with contextlib.closing(ForkServer(*prefix, "sh", "-c", f'{mount} && exec "$@"', "sh")) as own:
        yield own, place


def test_a_full_disk_is_one_line_and_costs_nothing(
    small_disk: tuple[ForkServer, Path], images: Path, straight: bytes, tmp_path: Path
) -> None:
    own, disk = small_disk
    log, arguments, copy = tmp_path / "log", training(images, disk / "run"), tmp_path / "copy"
    stop = own.start(log, run="cli", arguments=arguments, at_step=(9, "pause", 10_000))
    wait_until(lambda: log.exists() and "paused" in log.read_text())
    os.kill(stop, signal.SIGKILL)
    assert own.wait(stop) == -signal.SIGKILL
    # Now there are two checkpoints, and room for less than a third.
    fill = f"head -c 4M /dev/zero > {disk}/ballast 2> /dev/null; truncate -s -20k {disk}/ballast"
    own.ask({"shell": fill})
    assert own.ofa(log, *arguments) == 2
    line = error_line(log)
    assert "/run/checkpoints/step-000000" in line
    assert "No space left on device" in line and "needed" in line and "free" in line
    own.ask({"shell": f"cp -a {disk}/run {copy}"})
    assert assert_checkpoint(copy)["position"][:3] == [0, 1, 0]
    own.ask({"shell": f"rm {disk}/ballast"})
    assert own.ofa(log, *arguments) == 0, log.read_text()
    own.ask({"shell": f"rm -rf {copy}; cp -a {disk}/run {copy}"})
    assert supernet(copy) == straight


def test_a_file_size_limit_is_one_line_and_costs_nothing(
    server: ForkServer, images: Path, straight: bytes, tmp_path: Path
) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    arguments = training(images, run)
    pid = server.start(log, run="cli", arguments=arguments, at_step=(9, "pause", 10_000))
    wait_until(lambda: log.exists() and "paused" in log.read_text())
    os.kill(pid, signal.SIGKILL)
    assert server.wait(pid) == -signal.SIGKILL
    assert server.ofa(log, *arguments, max_file_bytes=30_000) == 2
    assert "/run/checkpoints/step-000000" in error_line(log)
    assert assert_checkpoint(run)["position"][:3] == [0, 1, 0]
    assert server.ofa(log, *arguments) == 0
    assert supernet(run) == straight


# -- data -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 JPEG files in three classes."""
    root = tmp_path_factory.mktemp("photographs")
    for index in range(120):
        path = root / "train" / "abc"[index % 3] / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise(index) // 2
        pixels[..., index % 3] += 120
        Image.fromarray(pixels).save(path)
        if index < 30:
            other = Path(str(path).replace("train", "val"))
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, other)
    return root


@pytest.fixture(scope="module")
def straight_streamed(
    server: ForkServer, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The supernet of an undisturbed training from files, read by the training process."""
    folder = tmp_path_factory.mktemp("streamed")
    arguments = training(photographs, folder / "run", "train.epochs=4")
    status = server.ofa(folder / "log", *arguments, streamed=True)
    assert status == 0, (folder / "log").read_text()
    return supernet(folder / "run")


@pytest.mark.parametrize("where", ["in a step", "anywhere"])
def test_a_killed_data_worker_is_one_line(
    where: str, server: ForkServer, photographs: Path, straight_streamed: bytes, tmp_path: Path
) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    # The workers are a setting, and settings belong to a run: the straight run had none.
    arguments = training(photographs, run, "train.epochs=4", "data.num_workers=1")
    started = time.monotonic()
    if where == "in a step":
        deed = (7, "kill_data_workers", None)
        assert server.ofa(log, *arguments, streamed=True, at_step=deed) == 2
    else:
        pid = server.start(log, run="cli", arguments=arguments, streamed=True)
        wait_until(lambda: epochs_done(run) >= 1)
        for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        assert server.wait(pid) == 2
    assert time.monotonic() - started < 30
    assert "a data worker process died" in error_line(log)
    assert_checkpoint(run)
    assert server.ofa(log, *arguments, streamed=True) == 0
    assert supernet(run) == straight_streamed


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_damaged_while_training_is_named(
    num_workers: int,
    server: ForkServer,
    photographs: Path,
    straight_streamed: bytes,
    tmp_path: Path,
) -> None:
    log, run, root = tmp_path / "log", tmp_path / "run", tmp_path / "photographs"
    shutil.copytree(photographs, root)
    arguments = training(root, run, "train.epochs=4", f"data.num_workers={num_workers}")
    victim = root / "train/b/031.jpg"
    deed = (2, "truncate", str(victim))
    assert server.ofa(log, *arguments, streamed=True, at_step=deed) == 2
    line = error_line(log)
    assert "031.jpg: cannot be read as an image" in line
    shutil.copy(photographs / "train/b/031.jpg", victim)
    assert server.ofa(log, *arguments, streamed=True) == 0
    assert supernet(run) == straight_streamed


def test_an_image_damaged_while_training_is_skipped_if_asked(
    server: ForkServer, photographs: Path, tmp_path: Path
) -> None:
    log, run, root = tmp_path / "log", tmp_path / "run", tmp_path / "photographs"
    shutil.copytree(photographs, root)
    arguments = [*training(root, run, "train.epochs=4"), "--on-bad-image", "skip"]
    deed = (2, "truncate", str(root / "train/b/031.jpg"))
    assert server.ofa(log, *arguments, streamed=True, at_step=deed) == 0, log.read_text()
    warnings = [line for line in log.read_text().splitlines() if line.startswith("warning: ")]
    assert warnings and all("031.jpg: cannot be read as an image" in line for line in warnings)
    assert (run / "checkpoints/supernet.safetensors").is_file()


def test_control_c_with_data_workers_is_told_once(
    server: ForkServer, photographs: Path, straight_streamed: bytes, tmp_path: Path
) -> None:
    """A terminal sends the signal to the workers as well."""
    log, run = tmp_path / "log", tmp_path / "run"
    arguments = training(photographs, run, "train.epochs=4", "data.num_workers=1")
    pid = server.start(
        log, run="cli", arguments=arguments, streamed=True, at_step=(8, "pause", 0.5)
    )
    wait_until(lambda: log.exists() and "paused" in log.read_text())
    os.killpg(pid, signal.SIGINT)
    assert server.wait(pid) == 130
    assert log.read_text().count("stopping at the next safe point") == 1
    assert_checkpoint(run)
    assert server.ofa(log, *arguments, streamed=True) == 0
    assert supernet(run) == straight_streamed


# -- divergence -----------------------------------------------------------------------------------


def test_training_that_keeps_diverging_ends_with_one_line(
    server: ForkServer, images: Path, tmp_path: Path
) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    arguments = training(images, run)
    assert server.ofa(log, *arguments, at_step=(9, "poison", None)) == 2
    line = error_line(log)
    assert "training diverged 4 times (phase sandwich, step 9: the loss is nan)" in line
    assert "lower the learning rate (--set train.learning_rate=...)" in line
    rollbacks = [e for e in read_jsonl(run / "events.jsonl") if e["event"] == "rollback"]
    assert [e["learning_rate_factor"] for e in rollbacks] == [0.5, 0.25, 0.125]
    assert [e["step"] for e in rollbacks] == [7, 7, 7]
    tensors = assert_checkpoint(run)["net"].values()
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
