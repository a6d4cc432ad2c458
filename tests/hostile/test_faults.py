"""A command that is killed, stopped or out of disk in any step loses nothing; one at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceforall.deploy.model_folder import model_folders, verify_folder
from onceforall.errors import ConfigError
from onceforall.job.lock import LOCK, sole_writer
from tests.cli.command import ofa
from tests.hostile.test_believed import refused
from tests.hostile.world import least_settings
from tests.job.tiny_run import ENVIRONMENT, ROOT
from tests.training.test_interruptions import ForkServer, error_line, wait_until

# What each step writes, in the order of the steps; a later one needs all of it.
WRITES = {
    "train": ("checkpoints", "progress.json"),
    "evaluate": ("evaluations.jsonl",),
    "predictor": ("predictor.safetensors", "predictor.json"),
    "latency": ("latency",),
    "search": ("search",),
    "models": ("models",),
    "report": ("report.html",),
}
SAME = ("checkpoints/supernet.safetensors", "evaluations.jsonl", "predictor.safetensors")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer()) as server:
        yield server


def arguments(world: Path, run: Path) -> list[str]:
    return ["run", str(world / "images.npz"), "--out", str(run), *least_settings()]


@pytest.mark.parametrize("step", WRITES)
def test_killed_stopped_and_out_of_disk_in_every_step(
    step: str, server: ForkServer, world: Path, run: Path, tmp_path: Path
) -> None:
    started = list(WRITES).index(step)
    for name in [name for names in list(WRITES.values())[started:] for name in names]:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    log, command = tmp_path / "log", arguments(world, run)
    assert server.ofa(log, *command, fault=(step, 1, "kill")) == -signal.SIGKILL
    assert server.ofa(log, *command, fault=(step, 1, "full")) == 2
    line = error_line(log)
    assert "No space left on device" in line and "bytes needed" in line and str(run) in line
    stopped = server.ofa(log, *command, fault=(step, 1, "stop"))
    text = log.read_text()
    assert "Traceback" not in text and "stopping at the next safe point" in text
    # Nobody asks once the report is being written: it is done before the answer would be.
    assert stopped == (0 if step == "report" else 130), text
    assert server.ofa(log, *command) == 0, log.read_text()
    for name in (*SAME, *(["search/front.json"] if started > 3 else [])):
        assert (run / name).read_bytes() == (world / "run" / name).read_bytes(), name
    for folder in (run / "models").iterdir():
        verify_folder(folder)
    assert not [path for path in run.rglob(".*")], "litter of a killed command"


# -- 3: one at a time ------------------------------------------------------------------------------


def test_a_second_command_ends_and_names_the_first(
    server: ForkServer, world: Path, run: Path, model: Path, tmp_path: Path
) -> None:
    (run / "report.html").unlink()
    command, log = arguments(world, run), tmp_path / "log"
    pid = server.start(log, run="cli", arguments=command, fault=("report", 1, "wait"))
    wait_until(lambda: log.exists() and "paused" in log.read_text())
    arch = model / "arch.json"
    for verb in (command, ["specialize", run, "--arch", arch], ["predictor", "train", run]):
        refused(ofa(*verb), f"process {pid} is at work in {run}")
    assert ofa("train", "--status", run).status == 0  # looking is free
    os.kill(pid, signal.SIGKILL)
    assert server.wait(pid) == -signal.SIGKILL
    assert (run / LOCK).read_text().startswith(f"{pid} ")  # stale, and nobody minds
    assert server.ofa(log, *command) == 0, log.read_text()
    assert not (run / LOCK).exists()


def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path: Path) -> None:
    hold = "import sys, pathlib; from onceforall.job.lock import sole_writer\n"
    hold += "with sole_writer(pathlib.Path(sys.argv[1])):\n    print('held'); sys.stdin.read()"
    folder = tmp_path / "deep" / "run"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", hold, str(folder)], cwd=ROOT, env=ENVIRONMENT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"held\n"
    said = f"^process {process.pid} is at work in {folder}; "
    with pytest.raises(ConfigError, match=said), sole_writer(folder):
        pass
    process.kill()
    process.communicate()
    assert (folder / LOCK).is_file()
    with sole_writer(folder):
        assert (folder / LOCK).read_text().startswith(f"{os.getpid()} ")
    assert list(folder.iterdir()) == []


def test_a_lock_leaves_nothing_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    (tmp_path / LOCK).symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic link"), sole_writer(tmp_path):
        pass


# -- read-only folders, for an ordinary user -------------------------------------------------------


@pytest.fixture
def ordinary() -> Iterator[ForkServer]:
    """A server whose children may not do more than their files' modes say, whoever runs it."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to take that away")
        prefix = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    with contextlib.closing(ForkServer(*prefix)) as server:
        yield server


def test_a_folder_that_may_only_be_read(
    ordinary: ForkServer, world: Path, run: Path, tmp_path: Path
) -> None:
    log, places = tmp_path / "log", [run, *(path for path in run.rglob("*") if path.is_dir())]
    locked = tmp_path / "locked"
    locked.mkdir()
    for place in (locked, *places):
        place.chmod(0o555)
    try:
        for out in (run, locked / "new", locked):
            assert ordinary.ofa(log, *arguments(world, out)) == 2, log.read_text()
            assert str(out.parent if out.name == "new" else out) in error_line(log)
        (model,) = model_folders(run)
        assert ordinary.ofa(log, "finetune", str(run), model.name) == 2
        assert "run" in error_line(log)
        for verb in (["train", "--status", str(run)], ["verify", str(run)]):
            assert ordinary.ofa(log, *verb) == 0, log.read_text()
        assert not list(locked.iterdir())
    finally:
        for place in (locked, *places):
            place.chmod(0o755)
