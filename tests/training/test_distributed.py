"""Several ranks equal one rank, with one collective a step."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from onceforall.errors import CheckpointError, ConfigError
from onceforall.supernets.families import dense_images
from onceforall.supernets.supernet import Supernet
from onceforall.training.engine import train
from onceforall.training.optimizer import make_optimizer, set_learning_rate
from onceforall.training.ranks import Ranks, first_host, ranks_from_environment, sum_gradients
from onceforall.training.sampling import Moment, draw_archs
from onceforall.training.settings import TrainOptions
from onceforall.training.step import StepContext, accumulate_gradients
from tests.training.distributed_worker import PLANS
from tests.training.tiny import SPEC, tiny_batches, tiny_net

ROOT = Path(__file__).parents[2]


def launch(*arguments: str, ranks: int, spelling: str = "torchrun") -> list[int]:
    """Run the worker on every rank; return the exit statuses."""
    names = {
        "torchrun": ("RANK", "WORLD_SIZE"),
        "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    }[spelling]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            names[0]: str(rank),
            names[1]: str(ranks),
        }
        command = [sys.executable, "-m", "tests.training.distributed_worker", *arguments]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    try:
        return [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_two_ranks_equal_one_rank_with_twice_the_batch(tmp_path: Path) -> None:
    """Batch norm works on each rank's batch: one rank sees the two halves as micro-batches."""
    out = tmp_path / "two.pt"
    assert launch("five_steps", str(out), ranks=2, spelling="openmpi") == [0, 0]
    two = torch.load(out, weights_only=True)
    assert two["collectives"] == 5  # one a step

    plan = PLANS["sandwich"]
    net = tiny_net().double().train()
    optimizer = make_optimizer(net, momentum=plan.momentum, weight_decay=plan.weight_decay)
    set_learning_rate(optimizer, 0.05)
    context = StepContext(plan=plan, phase=plan.phases[0], ranks=Ranks())
    for step, (images, labels) in tiny_batches(batch_size=16).iterate(
        0, resolution_of=lambda step: 8
    ):
        if step == 5:
            break
        archs = draw_archs(
            plan.phases[0],
            SPEC.space,
            Moment(seed=0, epoch=0, batch=step, batches=6, step=step),
            resolution=8,
        )
        halves = list(zip(images.double().chunk(2), labels.chunk(2), strict=True))
        accumulate_gradients(net, halves, archs, context)
        optimizer.step()
    fresh = tiny_net().double()
    moved = 0.0
    for (name, p), start in zip(net.named_parameters(), fresh.parameters(), strict=True):
        assert (p - two["parameters"][name]).abs().max() <= 1e-6, name
        moved = max(moved, float((p - start).detach().abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_averaged_whatever_their_layout(
    layout: torch.memory_format, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three ranks with 1, 2 and 4 times the gradients: 7 / 3, to the bit, in few kernels."""
    net = (
        Supernet(dense_images(num_classes=3, widths=(8, 16), strides=(1, 2)))
        .to(dtype)
        .to(memory_format=layout)
    )
    images = torch.randn(4, 3, 16, 16, dtype=dtype, generator=torch.Generator().manual_seed(0))
    arch = net.space.smallest
    net(images.contiguous(memory_format=layout), arch).sum().backward()
    own = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    strides = {name: p.grad.stride() for name, p in net.named_parameters() if p.grad is not None}
    monkeypatch.setattr(dist, "all_reduce", lambda flat: flat.mul_(7))
    extra = torch.tensor([0.5, 2.0], dtype=torch.float64)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        summed = sum_gradients(list(net.parameters()), extra, Ranks(world_size=3))
    assert summed.tolist() == [3.5, 14.0] and summed.dtype == torch.float64
    for name, parameter in net.named_parameters():
        if name not in own:
            assert parameter.grad is None
            continue
        assert torch.equal(parameter.grad, own[name] * 7 / 3), name
        assert parameter.grad.stride() == strides[name]
    assert 0 < len(own) < len(list(net.parameters()))
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert calls["aten::cat"] == calls["aten::div_"] == calls["aten::_foreach_copy_"] == 1


def test_a_step_is_one_collective_and_clocks_may_differ(tmp_path: Path) -> None:
    assert launch("contrary_clocks", str(tmp_path), ranks=2) == [0, 0]
    counts = torch.load(tmp_path / "counts.pt")
    assert counts["collectives"] == counts["steps"] > 0


@pytest.mark.parametrize("plan", ["sandwich", "progressive"])
def test_two_killed_ranks_end_with_the_same_bits(plan: str, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert launch(plan, str(straight), "-1", ranks=2) == [0, 0]
    rng = random.Random(3)
    for _ in range(2):
        assert launch(plan, str(killed), str(rng.randrange(2, 9)), ranks=2) == [-9, -9]
    assert launch(plan, str(killed), "-1", ranks=2) == [0, 0]
    first = torch.load(straight / "final.pt", weights_only=True)
    second = torch.load(killed / "final.pt", weights_only=True)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of two ranks that were killed in their first epoch."""
    folder = tmp_path_factory.mktemp("killed")
    assert launch("sandwich", str(folder), "5", ranks=2) == [-9, -9]
    assert list(folder.glob("step-*.pt"))
    return folder


def test_a_rank_without_the_checkpoint_ends_all_with_one_line(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "rank0")
    started = time.monotonic()
    assert launch("parted_disk", str(tmp_path), ranks=2) == [2, 2]
    assert time.monotonic() - started < 60
    for rank in (0, 1):
        text = (tmp_path / f"error{rank}.txt").read_text()
        assert "CheckpointError" in text and "\n" not in text
        assert "rank 0: phase 0, epoch 0, step 4" in text and "rank 1: none" in text
    assert not (tmp_path / "rank1").exists()  # nothing was trained


def test_ranks_with_other_checkpoints_are_told_so(killed: Path, tmp_path: Path) -> None:
    for rank in (0, 1):
        shutil.copytree(killed, tmp_path / f"rank{rank}")
    newest = max((tmp_path / "rank1").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])  # damaged: rank 1 passes it over
    assert launch("parted_disk", str(tmp_path), ranks=2) == [2, 2]
    text = (tmp_path / "error0.txt").read_text()
    assert "rank 0: phase 0, epoch 0, step 4" in text and "rank 1: phase 0, epoch 0, step 2" in text


def test_another_number_of_ranks_is_refused(killed: Path) -> None:
    with pytest.raises(CheckpointError, match=r"written by 2 ranks, not 1"):
        train(
            tiny_net(),
            PLANS["sandwich"],
            tiny_batches(batch_size=16),
            folder=killed,
            options=TrainOptions(seed=0),
        )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (1, 4, 1)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}, (0, 2, 0)),
        (
            {
                "SLURM_PROCID": "9",
                "SLURM_NTASKS": "16",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_ID": "0",
            },
            (9, 16, 1),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, (0, 1, 0)),
    ],
)
def test_every_launcher_is_recognised(environment: dict[str, str], expected: object) -> None:
    found = ranks_from_environment(environment)
    if isinstance(expected, tuple):
        assert (found.rank, found.world_size, found.local_rank) == expected
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("", ""),
        ("node7", "node7"),
        ("gpu[03-06,09],login1", "gpu03"),
        ("a1,b[2-3]", "a1"),
        ("rack[1-2]-eth", "rack1-eth"),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_contradicting_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"RANK=4 is not in 0\.\.3"):
        ranks_from_environment({"RANK": "4", "WORLD_SIZE": "4"})
