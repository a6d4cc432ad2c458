"""Processes that read image files, shared by all parts of a data set that a process works on.

A part of a data set hands over its reader once and then names the batches that it wants. Only the
stock loader of PyTorch is behind it, one for all parts, so that a machine has as many reading
processes as were asked for, however many parts there are.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from onceforall.data.batches.readers import EvalReader, RawEvalBatch, RawTrainBatch, TrainReader
from onceforall.data.seeding import private_generator
from onceforall.errors import ConfigError, DataError

# How torch words it when a worker is gone; errors inside a worker read otherwise.
_DEATH_SIGNS = ("exited unexpectedly", "killed by signal")

_Reader = TrainReader | EvalReader
_KeysOf = Callable[[int], list[Any]]


class ReadingPool:
    """Processes that read batches for any number of parts of a data set.

    They start with the first batch and end with the pool. One reading goes on at a time: where
    another one began in between, a reading goes on at its next batch, and what was read ahead for
    it is read again.

    Args:
        num_workers: Processes; 0 reads in this process.
        device: Where batches are made. For a GPU they come in pinned memory.

    Raises:
        ConfigError: If ``num_workers`` is below 0.
    """

    def __init__(self, num_workers: int, device: torch.device) -> None:
        if num_workers < 0:
            raise ConfigError(f"num_workers {num_workers} is not at least 0")
        self._num_workers = num_workers
        self._device = device
        self._readers: list[_Reader] = []
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = None
        self._turn = 0

    @property
    def stacks(self) -> bool:
        """Whether the images of a batch should be one tensor.

        One crosses processes and buses faster than many; without these it is only a copy.
        """
        return self._num_workers > 0 or self._device.type != "cpu"

    def add(self, reader: _Reader) -> int:
        """Take on a reader; return its number. Processes that are running start again."""
        self._readers.append(reader)
        self._loader = None
        self._turn += 1
        return len(self._readers) - 1

    def read(self, reader: int, steps: range, keys_of: _KeysOf) -> Iterator[Any]:
        """Yield what a reader gives for the keys of each step; steps follow one by one.

        Args:
            reader: Its number.
            steps: What to read.
            keys_of: Gives the keys of a step; asked ahead, and perhaps more than once.

        Raises:
            DataError: If a process died.
        """
        turn, raws = -1, iter(())
        for step in steps:
            if turn != self._turn:  # at the start, and where another reading began in between
                raws = self._start(reader, range(step, steps.stop), keys_of)
                turn = self._turn
            yield _next(raws)

    def _start(self, reader: int, steps: range, keys_of: _KeysOf) -> Iterator[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                _Readers(tuple(self._readers)),
                batch_sampler=self._plan,
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                pin_memory=self._device.type == "cuda",
                persistent_workers=self._num_workers > 0,
                # Only seeds the workers, which draw nothing; else the global generator would.
                generator=private_generator("workers"),
            )
        self._turn += 1
        self._plan.set(reader, steps, keys_of)
        with _naming_death():
            return _iterate_without_handler(self._loader)


class _Readers(Dataset[Any]):
    """The readers of all parts; a batch is named by the reader and its keys."""

    def __init__(self, readers: tuple[_Reader, ...]) -> None:
        self._readers = readers

    def __getitems__(self, batch: list[Any]) -> RawTrainBatch | RawEvalBatch:
        reader, keys = batch
        read: RawTrainBatch | RawEvalBatch = self._readers[reader].__getitems__(keys)
        return read


class _Plan(Sampler[list[Any]]):
    """The batch sampler of the loader: its steps are set before each iteration."""

    def __init__(self) -> None:
        self._batches: Iterator[list[Any]] = iter(())

    def set(self, reader: int, steps: range, keys_of: _KeysOf) -> None:
        """Set what the next iteration reads."""
        self._batches = ([reader, keys] for keys in map(keys_of, steps))

    def __iter__(self) -> Iterator[list[Any]]:
        # Handed over, not kept: a caller's function that leads back to the loader would make a
        # cycle, and workers of a loader that the cycle collector frees take seconds to end.
        batches, self._batches = self._batches, iter(())
        yield from batches


def _as_it_is(batch: Any) -> Any:
    return batch


def _next(raws: Iterator[Any]) -> Any:
    """Return the next batch; a worker that died is one line."""
    with _naming_death():
        return next(raws)


@contextlib.contextmanager
def _naming_death() -> Iterator[None]:
    """Say in one line that a worker died, wherever the loader noticed it."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _DEATH_SIGNS):
            raise
        raise DataError(f"a data worker process died: {str(error).splitlines()[0]}") from error


def _iterate_without_handler(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the loader's iterator; keep it from setting a handler of SIGCHLD.

    That handler raises the error of a dead worker wherever the main thread is: in the middle of a
    training step or of writing a file. Without it the loader notices when it is asked for the
    next batch, which takes it 5 seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)  # signals, and so that handler, are the main thread's
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
    return batches
