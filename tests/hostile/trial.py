"""One case after another: what was tried, how often, and what was lost."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from onceforall.errors import OnceForAllError

HANG_S = 10.0


class Hang(BaseException):
    """A case took longer than any may."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the cases of one subject.

    Attributes:
        cases: How many there were.
        accepted: Read without an error.
        refused: Refused with an error of our own, on one line.
        lost: Other ends: kind and place, with the number of cases.
        example: The first input that was lost.
        slowest_s: Processor seconds of the slowest case.
        peak_mb: Most memory over that at the start.
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    example: Any = None
    slowest_s: float = 0.0
    peak_mb: float = 0.0

    def lose(self, what: str, example: Any) -> None:
        if not self.lost:
            self.example = example
        self.lost[what] += 1


def attempt(tally: Tally, act: Callable[[Any], object], case: Any) -> None:
    """Do one case and write down how it ended."""
    started = time.process_time()
    tally.cases += 1
    try:
        with _alarm():
            act(case)
        tally.accepted += 1
    except (OnceForAllError, OSError) as error:
        if "\n" in str(error) and isinstance(error, OSError):
            tally.lose("error of several lines", case)
        elif isinstance(error, EOFError):
            tally.lose("EOFError", case)
        else:
            tally.refused += 1
    except Hang:
        tally.lose(f"hang over {HANG_S:.0f} s", case)
    except Exception as error:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if "onceforall" in f.filename
        ]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        tally.lose(f"{type(error).__name__} at {where}", case)
    tally.slowest_s = max(tally.slowest_s, time.process_time() - started)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    numbers = (signal.SIGALRM, signal.SIGVTALRM)
    before = [signal.signal(number, ring) for number in numbers]
    # Of the processor, which others may have; a case that waits for something uses none.
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    signal.setitimer(signal.ITIMER_REAL, 20 * HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def memory(tally: Tally) -> Iterator[None]:
    """Measure the most memory that the block takes over what the process had."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _peak_mb()
    yield
    tally.peak_mb = max(tally.peak_mb, _peak_mb() - before)


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
