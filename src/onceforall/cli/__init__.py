"""The command ``ofa``: one verb after another, no logic.

Imports of the library wait inside the verbs: ``ofa --help`` answers before PyTorch is loaded.
Exit status: 0 done, 1 a check failed, 2 the user can fix it, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import NoReturn

import typer

from onceforall.cli.app import app
from onceforall.errors import Interrupted, OnceForAllError, VerificationError
from onceforall.terminal import printable

__all__ = ["app", "main"]

# Typer exports this base class of its usage errors under no name of its own.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> NoReturn:
    """Run the command line and exit."""
    # Idle OpenMP threads that spin bring a shared machine to a crawl; they should sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Pictures have a limit of their own here, and are refused in one line.
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    sys.exit(_status())


def _status() -> int:
    """Run the verb; turn what went wrong into one line and an exit status."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        result = app(arguments, standalone_mode=False)
        if result == 130:  # how newer Typer returns KeyboardInterrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except typer.Exit as error:
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted; the same command goes on", 130)
    except Interrupted as error:
        return _say(str(error), 130)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # Click's, or Typer's copy of it
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            return 2
        verb = context.command_path if context else "ofa"
        said = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
        return _say(f"{said}; see  {verb} --help", 2)
    except (OnceForAllError, OSError) as error:
        if debug:
            raise
        return _say(_one_line(error), 1 if isinstance(error, VerificationError) else 2)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    return " ".join(str(error).split())


def _say(message: str, status: int) -> int:
    print(f"ofa: {printable(message)}", file=sys.stderr)
    return status
