"""Journals of searches: a search that was cut goes on and ends as an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onceforall.encoding import Rows
from onceforall.errors import ConfigError
from onceforall.files import append_jsonl, damaged, read_jsonl
from onceforall.search.problem import Floats, RowFunction


def check_header(journal: Path, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the first line of a journal says what ``header`` says."""
    for name, value in header.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{journal} is of another search: its {name} is {found.get(name)}, not {value}; "
                "remove the file to start anew"
            )


@dataclass(slots=True, kw_only=True, eq=False)
class RecordedObjective:
    """An objective that writes down every value, and evaluates no arch that is written down.

    A batch is one line, so a cut leaves whole batches. A search that depends on its seed and on
    these values alone therefore asks again for the batches that are there, and then for the next
    one as it would have without the cut.

    Attributes:
        objective: Function of canonical rows.
        journal: File of one header line, then one line a batch.
        known: Every value in the file by the bytes of its row.
    """

    objective: RowFunction
    journal: Path
    known: dict[bytes, float] = field(default_factory=dict)

    def __call__(self, rows: Rows) -> Floats:
        """Return the objective of canonical rows ``(N, G)``, ``(N,)``."""
        keys = [row.tobytes() for row in rows]
        new = {key: i for i, key in enumerate(keys) if key not in self.known}
        if new:
            values = np.asarray(self.objective(rows[list(new.values())]), dtype=np.float64).tolist()
            append_jsonl(self.journal, {"rows": [key.hex() for key in new], "values": values})
            self.known.update(zip(new, values, strict=True))
        return np.array([self.known[key] for key in keys], dtype=np.float64)


def _values(journal: Path, line: Mapping[str, Any]) -> dict[bytes, float]:
    """Return the values of a line by the bytes of their rows."""
    rows, values = line.get("rows"), line.get("values")
    if not isinstance(rows, list) or not isinstance(values, list) or len(rows) != len(values):
        raise damaged(journal, "a line has not one value for each row")
    # Those of archs that cannot be judged are no finite numbers.
    if not all(isinstance(value, float | int) for value in values):
        raise damaged(journal, "a value is no number")
    try:
        return dict(zip(map(bytes.fromhex, rows), values, strict=True))
    except (TypeError, ValueError) as error:
        raise damaged(journal, f"a row is none: {error}") from error


def recorded(
    objective: RowFunction, *, journal: Path, header: Mapping[str, Any]
) -> RecordedObjective:
    """Return the objective with the values that a journal holds; start the file if it is new.

    Args:
        objective: Function of canonical rows.
        journal: File; a last line that is cut off does not count.
        header: What must be the same for a journal to be of this search; JSON.

    Raises:
        ConfigError: If the journal is of another search.
    """
    header = json.loads(json.dumps(header))  # tuples become lists, as in the file
    lines = read_jsonl(journal)
    if lines:
        check_header(journal, lines[0], header)
    else:
        append_jsonl(journal, header)
    known: dict[bytes, float] = {}
    for line in lines[1:]:
        known |= _values(journal, line)
    return RecordedObjective(objective=objective, journal=journal, known=known)
