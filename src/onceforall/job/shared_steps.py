"""The steps of a run that all its processes take part in; run as a module by the further ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from onceforall.job.context import Run
from onceforall.job.local_ranks import take_part
from onceforall.job.steps.evaluate import evaluate_step
from onceforall.job.steps.train import train_step

SHARED_STEPS: dict[str, Callable[[Run], None]] = {"train": train_step, "evaluate": evaluate_step}


def do_steps(run: Run, names: Sequence[str]) -> None:
    """Do shared steps in order."""
    for name in names:
        SHARED_STEPS[name](run)


if __name__ == "__main__":
    sys.exit(take_part(do_steps))
