"""What the numbers of a stage table may be: whatever is in these ranges can be built."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from onceforall.arch import MAX_RESOLUTION
from onceforall.errors import BlueprintError
from onceforall.records import field_types

_WIDTH, _MULT, _FLAG = (1, 2**16), (0.01, 64), (0, 2**16)
_RANGES: Mapping[str, tuple[float, float]] = {
    "num_classes": (1, 2**22),
    "resolutions": (1, MAX_RESOLUTION),
    "width": _WIDTH,
    "stem_width": _WIDTH,
    "stem_stride": (1, 4),
    "stride": (1, 4),
    "num_blocks": (1, 64),
    "depths": (1, 64),
    "kernel_size": (1, 31),
    "kernel_sizes": (1, 31),
    "expand_ratios": _MULT,
    "width_mults": _MULT,
    "stem_width_mults": _MULT,
    "width_mult": _MULT,
    "expand_width": _FLAG,
    "mix_width": _FLAG,
    "divisor": (1, 1024),
    "dropout": (0, 0.999),
    "norm_eps": (1e-12, 1),
    "norm_momentum": (0, 1),
}
_MOST_STAGES, _MOST_CHOICES = 32, 64


def check_ranges(table: Any) -> None:
    """Check every number and word of a stage table, or of a stage, and how many there are.

    Raises:
        BlueprintError: Naming the first that is out of its range.
    """
    record: type = type(table)
    kind = record.__name__
    for name, hint in field_types(record).items():
        words, value = typing.get_args(hint), getattr(table, name)
        if typing.get_origin(hint) is typing.Literal and value not in words:
            raise BlueprintError(f"{kind}: {name} {value!r} is not one of {', '.join(words)}")
    for name, (low, high) in _RANGES.items():
        value = getattr(table, name, ())
        values = value if isinstance(value, tuple) else (value,)
        for each in values:
            if not low <= each <= high:
                raise BlueprintError(f"{kind}: {name} {each} is not from {low} to {high}")
        if len(values) > _MOST_CHOICES:
            raise BlueprintError(f"{kind}: {name} has {len(values)} entries, over {_MOST_CHOICES}")
    sizes = (*getattr(table, "kernel_sizes", ()), getattr(table, "kernel_size", 1))
    for size in sizes:
        if size % 2 == 0:
            raise BlueprintError(f"{kind}: kernel size {size} is not odd")
    if not 1 <= len(getattr(table, "stages", (0,))) <= _MOST_STAGES:
        raise BlueprintError(f"{kind}: {len(table.stages)} stages are not from 1 to {_MOST_STAGES}")
