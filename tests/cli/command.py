"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from dataclasses import dataclass
from unittest import mock

from onceforall.cli import _status


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str


def ofa(*arguments: object) -> Answer:
    """Return what ``ofa ARGUMENTS`` says; on this machine's processor, whatever else it has."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["ofa", *map(str, arguments)]),
        mock.patch("torch.cuda.is_available", return_value=False),
        mock.patch("onceforall.cli.running.STARTED", time.monotonic()),
        # Latencies need not be good here, and many samples take minutes on a busy machine.
        mock.patch("onceforall.job.steps.confirm.REPEATS", 3),
        mock.patch("onceforall.job.steps.prove.REPEATS", 3),
        mock.patch("onceforall.deploy.ship._REPEATS", 3),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = _status()
    return Answer(status=status, out=out.getvalue(), err=err.getvalue())
