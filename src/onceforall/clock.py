"""The time a run may take, and how much of it is gone, over all processes that worked on it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


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
