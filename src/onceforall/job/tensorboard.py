"""Events as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onceforall.errors import MissingExtraError
from onceforall.job.context import Tell


@contextmanager
def tensorboard_writer(folder: Path) -> Iterator[Tell]:
    """Give a function that writes training events as scalars into ``folder``.

    Written are, by step, loss, top-1, learning rate and images a second, and after each epoch the
    validation top-1 of the probed subnets and of the grid.

    Raises:
        MissingExtraError: If tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard") from error
    writer: Any = None

    def write(event: dict[str, Any]) -> None:
        nonlocal writer
        if event["event"] not in ("step", "epoch"):
            return
        if writer is None:  # not before: a new run wants its folder empty
            writer = SummaryWriter(str(folder), flush_secs=10)
        if event["event"] == "step":
            step = event["step"]
            for name in ("loss", "top1", "learning_rate", "images_per_s"):
                writer.add_scalar(f"train/{name}", event[name], step)
            for i, loss in enumerate(event["subnet_losses"]):
                writer.add_scalar(f"subnets/loss {i}", loss, step)
        else:
            for name, top1 in event.get("probes", {}).items():
                writer.add_scalar(f"valid/top1 {name}", top1, event["epochs_done"])
            for name, top1 in event.get("grid", {}).items():
                writer.add_scalar(f"grid/top1 {name}", top1, event["epochs_done"])

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
