"""A program in place of ssh: it runs the remote command on this machine, or fails as ssh does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onceforall.measure.latency.ssh import SSH_VARIABLE

SCRIPT = """#!/bin/bash
command="${@: -1}"
host="${@: -2:1}"
echo "$@" | tr '\\n' ' ' | cut -c 1-200 >> FOLDER/calls
calls=$(wc -l < FOLDER/calls)
case "$host" in
  *nowhere)
    echo "ssh: connect to host nowhere port 22: No route to host" >&2
    exit 255 ;;
  *silent)
    exec sleep 60 ;;
  *bare)
    PATH=FOLDER/empty exec /bin/bash -c "$command" ;;
  *dying)
    if [ "$calls" -gt "$(cat FOLDER/lives)" ]; then
      PATH=FOLDER/bin:$PATH /bin/bash -c "$command" | head -n 1
      echo "client_loop: send disconnect: Broken pipe" >&2
      exit 255
    fi ;;
esac
echo "Last login: yesterday {not json}"
PATH=FOLDER/bin:$PATH exec /bin/bash -c "$command"
"""


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake ssh in place of the real one and return its folder.

    ``calls`` has a line for each call. ``lives`` is the number of calls after which the host
    ``dying`` breaks the connection; ``nowhere``, ``silent`` and ``bare`` are hosts too.
    """
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "lives").write_text("1000000")
    _program(folder / "bin" / "python3", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    _program(folder / "ssh", SCRIPT.replace("FOLDER", str(folder)))
    monkeypatch.setenv(SSH_VARIABLE, str(folder / "ssh"))
    return folder


def without(folder: Path, package: str) -> None:
    """Make ``package`` one that the remote python3 cannot import."""
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / f"{package}.py").write_text(f"raise ImportError('no {package}')\n")
    _program(
        folder / "bin" / "python3",
        f'#!/bin/bash\nPYTHONPATH={hidden} exec {sys.executable} "$@"\n',
    )


def num_calls(folder: Path) -> int:
    """Return how often ssh was called."""
    calls = folder / "calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
