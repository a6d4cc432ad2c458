"""What a person sees: progress bars on a terminal, plain lines elsewhere.

Everything here goes to standard error; standard output is for results.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onceforall.errors import Interrupted
from onceforall.terminal import printable

Event = dict[str, Any]
_PLAIN_EVERY_S = 10.0


class Screen:
    """Shows events; used as a context manager.

    Args:
        quiet: Show nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live = self._console.is_terminal and not quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._said = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def line(self, text: str) -> None:
        """Show one line."""
        if not self._quiet:
            self._console.print(printable(text, keep="\n"), markup=False)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        kind = event["event"]
        if kind == "step":
            losses = "/".join(f"{loss:.2f}" for loss in event["subnet_losses"])
            note = (
                f"{event['phase']}  loss {losses}  top-1 {event['top1'] * 100:.1f} %  "
                f"{event['images_per_s']:.0f} images/s"
            )
            self._advance("train", event["step"], event["steps"], note)
        elif kind == "progress":
            self._advance(event["what"], event["done"], event["total"], event.get("note", ""))
        elif kind == "epoch" and not self._live:
            self._plain_epoch(event)
        elif kind in ("rollback", "damaged_checkpoint", "warning"):
            self._console.print(printable(f"warning: {_warning(event)}"), markup=False)
        elif kind == "step_started":
            self._close()
            self.line(f"[{event['number']}/{event['of']}] {event['step']}: {event['text']}")
        elif kind == "changed":
            self.line(event["text"])
        elif kind == "interpolated":
            self.line(_interpolated(event))
        elif kind == "step_done":
            self._close()

    def _advance(self, what: str, done: int, total: int, note: str) -> None:
        if self._quiet:
            return
        if not self._live:
            now = time.monotonic()
            if now - self._said >= _PLAIN_EVERY_S:
                self._said = now
                self.line(f"  {what} {done}/{total}  {note}".rstrip())
            return
        if self._bar is None or self._what != what:
            self._close()
            self._bar = Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(bar_width=28),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._what = what
            self._task = self._bar.add_task(what, total=total, note=note)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)

    def _plain_epoch(self, event: Event) -> None:
        now = time.monotonic()
        if now - self._said < _PLAIN_EVERY_S and event["epochs_done"] != event["epochs"]:
            return
        self._said = now
        probes = event.get("probes", {})
        shown = "  ".join(f"{name} {top1 * 100:.1f} %" for name, top1 in probes.items())
        if "grid_mean" in event:
            shown += f"  grid {event['grid_mean'] * 100:.1f} %"
        self.line(
            f"  epoch {event['epochs_done']}/{event['epochs']} ({event['phase']})  "
            f"loss {event.get('loss', float('nan')):.3f}  "
            f"{event.get('images_per_s', 0):.0f} images/s  {shown}".rstrip()
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        self._what = ""


def _warning(event: Event) -> str:
    if event["event"] == "rollback":
        return (
            f"{event['reason']}; went back to step {event['step']} with the learning rate "
            f"times {event['learning_rate_factor']:g}"
        )
    if event["event"] == "damaged_checkpoint":
        return f"checkpoint {event['file']} is damaged; the one before it is used"
    return str(event["text"])


def _interpolated(event: Event) -> str:
    shares, sizes = event["shares"][::-1], event["sizes"][::-1]
    places = [f"{100 * shares[0]:.0f} % for the largest subnet"]
    for share, size in zip(shares[1:], sizes[1:], strict=True):
        places.append(f"{100 * share:.0f} % at {100 * size:.0f} % of its MACs")
    return f"  weights, from those given (0 %) to the trained ones (100 %): {', '.join(places)}"


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGINT or SIGTERM came; a second one stops at once."""
    came, owner = False, os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if os.getpid() != owner:
            return  # a data worker: Ctrl-C reaches it too, and this process ends it in good time
        if came:
            raise KeyboardInterrupt
        came = True
        # Not print: the signal may have come in the middle of one, which may not be entered twice.
        os.write(2, b"ofa: stopping at the next safe point (once more to stop at once)\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(line: object) -> None:
    """Print one line to standard output; names in it cannot move the cursor."""
    print(printable(line))


def print_result(value: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print what was found to standard output: as one JSON value, or as lines for people."""
    if as_json:
        print(json.dumps(value, indent=2))
        return
    for line in lines:
        say(line)


def shown_progress(
    screen: Screen, should_stop: Callable[[], bool], what: str, *, resumes: bool = False
) -> Callable[[int, int], None]:
    """Show how far something is, and end it if a signal asked for that.

    Args:
        screen: Where to show it.
        should_stop: Asked each time.
        what: Is done: ``search``, ``test``, ``latency``.
        resumes: Whether what was done so far is kept.
    """
    then = "goes on" if resumes else "starts it anew"

    def show(done: int, total: int) -> None:
        screen({"event": "progress", "what": what, "done": done, "total": total})
        if should_stop():
            raise Interrupted(f"stopped at {what} {done}/{total}; the same command {then}")

    return show
