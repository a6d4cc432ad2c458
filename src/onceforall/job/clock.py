"""The time a run may take, and how much of it is gone, over all processes that worked on it."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field

from onceforall.errors import ConfigError

_MOST_S = 366 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Wall clock of a run.

    Attributes:
        budget_s: Seconds from the start of the command to its report; infinity for no bound.
        before_s: Seconds that earlier processes of the same run took.
        started: Moment (of ``time.monotonic``) when this process began.
    """

    budget_s: float = math.inf
    before_s: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed_s(self) -> float:
        """Return the seconds that the run has taken so far."""
        return self.before_s + time.monotonic() - self.started

    def left_s(self) -> float:
        """Return the seconds that are left; below 0 when the time is over."""
        return self.budget_s - self.elapsed_s()


def parse_time(text: str) -> float:
    """Return the seconds of ``90s``, ``5m``, ``1.5h`` or a plain number of seconds.

    Raises:
        ConfigError: If it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text, re.ASCII)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"{text!r} is not a time such as 90s, 5m or 2h")
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if seconds > _MOST_S:
        raise ConfigError(f"{text!r} is more than a year")
    return seconds
