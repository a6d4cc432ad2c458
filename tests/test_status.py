"""What ``--status`` says of a training that lives, died, ended, or never began."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

from onceforall.artifacts import DataFacts, Request, RunSettings
from onceforall.errors import ConfigError
from onceforall.job.folder import RunFolder
from onceforall.job.status import read_status, status_lines


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(path=tmp_path)
    RunSettings(
        request=Request(source="digits"),
        config={"train": {"epochs": 4}},
        data=DataFacts(name="digits", classes=10, train=20, test=10, fingerprint="0"),
        seed=0,
        space_size=2.0,
    ).write(found.settings)
    return found


def tell(folder: RunFolder, *, pid: int, host: str | None = None, age_s: float = 1.0) -> None:
    told = time.time() - age_s
    event = {
        "event": "step",
        "phase": "sandwich",
        "epoch": 2,
        "epochs": 4,
        "step": 15,
        "steps": 40,
        "subnet_losses": [0.5, 1.25],
        "subnet_top1": [0.75, 0.5],
        "images_per_s": 120.4,
        "seconds_left": 4000.0,
        "pid": pid,
        "host": platform.node() if host is None else host,
        "time": told,
    }
    folder.progress.write_text(json.dumps(event))
    events = [
        {"event": "checkpoint", "step": 10, "time": told},
        {"event": "epoch", "probes": {"smallest": 0.4, "largest": 0.625}, "time": told},
        {"event": "warning", "text": "one image was skipped", "time": told},
        {"event": "checkpoint", "step": 12, "time": told},
    ]
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in events))


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_live_training(folder: RunFolder) -> None:
    tell(folder, pid=os.getpid())
    lines = status_lines(read_status(folder))
    assert lines == [
        "running, last word 1 s ago",
        "epoch 2/4 (sandwich), step 15/40, 120 images/s, about 66.7 min left",
        "loss/top-1 of the latest step's subnets: 0.500/75.0 %  1.250/50.0 %",
        "validation top-1: smallest 40.00 %  largest 62.50 %",
        "newest checkpoint: step 12",
        "1 warnings: see events.jsonl",
    ]


def test_a_checkpoint_may_be_newer_than_the_last_step_told(folder: RunFolder) -> None:
    tell(folder, pid=dead_pid())
    with folder.events.open("a") as events:
        events.write(json.dumps({"event": "checkpoint", "step": 17, "time": time.time()}) + "\n")
    status = read_status(folder)
    assert (status.step, status.checkpoint_step) == (17, 17)
    assert "step 17/40" in status_lines(status)[1]


def test_a_dead_training(folder: RunFolder) -> None:
    tell(folder, pid=dead_pid())
    status = read_status(folder)
    assert status.state == "stopped"
    assert "the same command goes on" in status_lines(status)[-1]
    assert not any(" left" in line for line in status_lines(status))


@pytest.mark.parametrize(("age_s", "state"), [(3.0, "running"), (1000.0, "silent")])
def test_a_training_on_another_machine_is_judged_by_its_last_word(
    folder: RunFolder, age_s: float, state: str
) -> None:
    tell(folder, pid=dead_pid(), host="elsewhere", age_s=age_s)
    assert read_status(folder).state == state


def test_a_training_that_ended(folder: RunFolder) -> None:
    tell(folder, pid=dead_pid())
    folder.supernet.parent.mkdir()
    folder.supernet.write_bytes(b"")
    assert read_status(folder).state == "stopped", "weights without a word of what they are"
    folder.supernet.with_suffix(".json").write_text("{}")
    assert status_lines(read_status(folder))[0] == "trained: 4 epochs"


def test_a_line_cut_by_a_crash_is_passed_over(folder: RunFolder) -> None:
    tell(folder, pid=os.getpid())
    with folder.events.open("a") as file:
        file.write('{"event": "checkpo')
    assert read_status(folder).checkpoint_step == 12


def test_a_run_without_a_step_and_a_folder_that_is_no_run(
    folder: RunFolder, tmp_path: Path
) -> None:
    assert status_lines(read_status(folder)) == ["not started: no training step yet"]
    with pytest.raises(ConfigError, match="not the folder of a run"):
        read_status(RunFolder(path=tmp_path / "nothing"))


def test_scalars_reach_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    from onceforall.errors import MissingExtraError
    from onceforall.job.tensorboard import tensorboard_writer

    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, flush_secs: int) -> None:
            Path(folder).mkdir()

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    module = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    out = tmp_path / "tensorboard"
    with tensorboard_writer(out) as write:
        write({"event": "step_started", "step": "train"})
        assert not out.exists()  # a new run wants its folder empty
        step = {"event": "step", "step": 7, "loss": 0.5, "top1": 0.25, "learning_rate": 0.1}
        write({**step, "images_per_s": 10, "subnet_losses": [0.4, 0.6]})
        write({"event": "epoch", "epochs_done": 1, "probes": {"smallest": 0.3}})
        write({"event": "checkpoint", "step": 8})
    assert written == [
        ("train/loss", 0.5, 7),
        ("train/top1", 0.25, 7),
        ("train/learning_rate", 0.1, 7),
        ("train/images_per_s", 10, 7),
        ("subnets/loss 0", 0.4, 7),
        ("subnets/loss 1", 0.6, 7),
        ("valid/top1 smallest", 0.3, 1),
        ("closed", 0, 0),
    ]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(MissingExtraError, match="tensorboard is not installed"),
        tensorboard_writer(out),
    ):
        pass
