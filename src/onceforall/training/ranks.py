"""The processes of a distributed run, and the one collective that a step needs.

There is no wrapper around the network: all ranks draw the same subnets, accumulate their
gradients locally, and sum them in one flat buffer. Parameters that no subnet used have no
gradient anywhere and are left out.

Batch norm normalises by the batch of its own rank. ``N`` ranks with batch ``B`` therefore equal
one rank that accumulates ``N`` micro-batches of ``B`` images, exactly; running statistics differ
between ranks, and are recalibrated before any use.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from onceforall.errors import ConfigError, TrainingError

# (rank, number of ranks, rank on this machine) as each launcher spells them.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among all processes of the run.

    Attributes:
        rank: Index of this process; rank 0 writes files.
        world_size: Number of processes.
        local_rank: Index on this machine; it picks the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and shows progress."""
        return self.rank == 0


def ranks_from_environment(environment: Mapping[str, str]) -> Ranks:
    """Return the ranks that torchrun, mpirun or srun announced; one process if none did.

    A batch script of Slurm has the variables too, but only a task that ``srun`` started also has a
    step; the script itself is one process.

    Raises:
        ConfigError: If the variables contradict one another.
    """
    for rank_name, size_name, local_name in _LAUNCHERS:
        if rank_name.startswith("SLURM") and "SLURM_STEP_ID" not in environment:
            continue
        if rank_name in environment and size_name in environment:
            rank, size = int(environment[rank_name]), int(environment[size_name])
            local = int(environment.get(local_name, rank))
            if not 0 <= rank < size:
                raise ConfigError(f"{rank_name}={rank} is not in 0..{size - 1} ({size_name})")
            return Ranks(rank=rank, world_size=size, local_rank=local)
    return Ranks()


def start_process_group(ranks: Ranks, device: torch.device, *, timeout_minutes: float = 30) -> None:
    """Join the other ranks: NCCL on GPUs, gloo on CPUs; nothing to do for one process.

    ``MASTER_ADDR`` and ``MASTER_PORT`` say where rank 0 listens. torchrun sets them; under
    ``srun`` the default is the first node of the step, else this machine.

    Args:
        ranks: This process among all.
        device: Where this rank computes.
        timeout_minutes: How long a collective waits for the others.

    Raises:
        TrainingError: If the others do not come in time.
    """
    if ranks.world_size == 1:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    os.environ.setdefault("MASTER_ADDR", first_host(nodes) or "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.set_device(device)
    with _together(ranks):
        dist.init_process_group(
            "nccl" if is_gpu else "gloo",
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=datetime.timedelta(minutes=timeout_minutes),
            device_id=device if is_gpu else None,
        )


@contextlib.contextmanager
def _together(ranks: Ranks) -> Iterator[None]:
    """Say in one line that a collective failed, as it does when another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[:1])
        raise TrainingError(
            f"rank {ranks.rank} of {ranks.world_size} lost the other ranks ({reason}); "
            "look for the first error among them; the same command goes on"
        ) from error


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list such as ``gpu[03-06,09],login1``."""
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^,]*)", nodes)
    return "" if match is None else match[1] + (match[2] or "") + match[3]


def stop_process_group(ranks: Ranks) -> None:
    """Leave the other ranks."""
    if ranks.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def sum_gradients(parameters: Sequence[Tensor], extra: Tensor, ranks: Ranks) -> Tensor:
    """Average the gradients of ``parameters`` over ranks, in one collective.

    Args:
        parameters: Parameters; those without a gradient are skipped, and must be the same ones
            on every rank.
        extra: One-dimensional numbers (losses, counts) that travel along, summed.
        ranks: The processes of the run.

    Returns:
        The sums of ``extra`` over ranks.
    """
    if ranks.world_size == 1:
        return extra
    # One kernel for all gradients where one for each would be hundreds. In the order of memory,
    # which is the same on all ranks, none of them has to be rearranged.
    gradients = [_in_memory_order(p.grad) for p in parameters if p.grad is not None]
    # Where nothing of what ran learns, the numbers travel alone.
    flat = torch.cat([*gradients, extra.to(gradients[0].dtype if gradients else extra.dtype)])
    with _together(ranks):
        dist.all_reduce(flat)
    count = len(flat) - len(extra)
    if gradients:
        sums = flat[:count].div_(ranks.world_size)
        torch._foreach_copy_(gradients, torch.split(sums, [len(g) for g in gradients]))
    return flat[count:].to(extra.dtype)


def _in_memory_order(gradient: Tensor) -> Tensor:
    """Return a flat view of a gradient: autograd lays it out as its parameter, without gaps."""
    return gradient.as_strided((gradient.numel(),), (1,))


def agree(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """Return whether any rank says yes."""
    if ranks.world_size == 1:
        return flag
    votes = torch.tensor([float(flag)], device=device)
    with _together(ranks):
        dist.all_reduce(votes)
    return bool(votes.item() > 0)


def share_from_main(
    values: Sequence[float] | None, count: int, ranks: Ranks, device: torch.device
) -> list[float] | None:
    """Return on every rank the ``count`` numbers that rank 0 has, or None if it has none."""
    if ranks.world_size == 1:
        return None if values is None else list(values)
    sent = torch.zeros(count + 1, dtype=torch.float64, device=device)
    if values is not None:
        sent = torch.tensor([1.0, *values], dtype=torch.float64, device=device)
    with _together(ranks):
        dist.broadcast(sent, src=0)
    is_there, *found = sent.tolist()
    return found if is_there else None


def gather_numbers(
    numbers: Sequence[int], ranks: Ranks, device: torch.device
) -> list[tuple[int, ...]]:
    """Return the numbers of every rank, in the order of ranks; as many on each."""
    if ranks.world_size == 1:
        return [tuple(numbers)]
    mine = torch.tensor(numbers, dtype=torch.int64, device=device)
    found = [torch.empty_like(mine) for _ in range(ranks.world_size)]
    with _together(ranks):
        dist.all_gather(found, mine)
    return [tuple(tensor.tolist()) for tensor in found]


def sum_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """Return the sum of ``values`` over ranks."""
    if ranks.world_size > 1:
        values = values.clone()
        with _together(ranks):
            dist.all_reduce(values)
    return values


def gather_rows(rows: Tensor, ranks: Ranks) -> Tensor:
    """Return the rows of all ranks, one of each in turn, on every rank.

    Rank ``r`` of ``N`` has rows ``r``, ``r + N``, ... of the result; some may have one fewer.

    Args:
        rows: ``(count, numbers)``, as many numbers on each rank.
        ranks: The processes of the run.
    """
    counts = [count for (count,) in gather_numbers([len(rows)], ranks, rows.device)]
    if ranks.world_size == 1 or not any(counts):
        return rows
    mine = rows.new_zeros((max(counts), rows.shape[1]))
    mine[: len(rows)] = rows
    found = [torch.empty_like(mine) for _ in counts]
    with _together(ranks):
        dist.all_gather(found, mine)
    turns = torch.stack(found, dim=1).flatten(end_dim=1)
    return turns[: sum(counts)]


def wait_for_all(ranks: Ranks) -> None:
    """Wait until every rank is here."""
    if ranks.world_size > 1:
        with _together(ranks):
            # NCCL would guess the GPU from the rank, which may be another process's.
            is_gpu = dist.get_backend() == "nccl"
            dist.barrier(device_ids=[torch.cuda.current_device()] if is_gpu else None)


@contextlib.contextmanager
def main_rank_first(ranks: Ranks) -> Iterator[None]:
    """Let rank 0 do the block alone, then the others: what it downloads they find."""
    if not ranks.is_main:
        wait_for_all(ranks)
    yield
    if ranks.is_main:
        wait_for_all(ranks)


def open_store(world_size: int, *, port: int | None = None) -> tuple[TCPStore, int]:
    """Return the place on this machine where ranks find each other, and its port.

    Args:
        world_size: Number of processes.
        port: Where rank 0 opened it; None to open it, on a free port.
    """
    store = TCPStore(
        "127.0.0.1",
        port or 0,
        world_size,
        is_master=port is None,
        wait_for_workers=False,
        timeout=datetime.timedelta(minutes=2),
    )
    return store, store.port


def join_store(store: TCPStore, ranks: Ranks, *, timeout_minutes: float = 30) -> None:
    """Join the ranks that meet in ``store``, on processors."""
    with _together(ranks):
        dist.init_process_group(
            "gloo",
            store=store,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=datetime.timedelta(minutes=timeout_minutes),
        )
