"""Arch: one subnet as a value.

An arch is frozen, hashable and JSON-able, and it is passed as an argument wherever a subnet is
meant. Blocks that depth switches off do not count: two archs that run the same layers are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from onceforall.errors import ArchError
from onceforall.reading import is_number

# Physical blocks per stage of the published families, by their number of stages: ResNet50D (4),
# MobileNetV3 (5), ProxylessNAS (6). The published spelling lists every block, kept or not.
PUBLISHED_BLOCKS: Mapping[int, tuple[int, ...]] = {
    4: (4, 4, 6, 4),
    5: (4, 4, 4, 4, 4),
    6: (4, 4, 4, 4, 4, 1),
}
PUBLISHED_EXTRA_BLOCKS = 2  # most blocks of a ResNet50D stage beyond its fewest
PUBLISHED_WIDTH_MULTS = (0.65, 0.8, 1.0)
MAX_RESOLUTION = 2048  # no network here is meant for more, and memory grows with the square
_LARGEST = 10**6
_FIELDS = ("resolution", "depth", "kernel_size", "expand_ratio", "width_mult", "stem_depth")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arch:
    """One subnet of a supernet.

    Attributes:
        resolution: Side of the square input image, in pixels.
        depth: Blocks kept in each stage; the first ``depth[s]`` blocks of stage ``s`` run.
        kernel_size: Depthwise kernel side of each block, stage by stage. Entries beyond the
            stage's depth are remembered but do not count in equality, hash or JSON.
        expand_ratio: Middle channels over input channels of each block (for ResNet bottlenecks:
            over output channels), stage by stage, like ``kernel_size``.
        width_mult: Width multiplier of each elastic width site, stem sites first, then stages;
            empty when no width is elastic.
        stem_depth: Optional residual convolutions kept in the stem (0 or 1); None when the stem
            has no switch.

    Raises:
        ArchError: If the lists do not fit one another or hold impossible values.
    """

    resolution: int
    depth: tuple[int, ...]
    kernel_size: tuple[tuple[int, ...], ...]
    expand_ratio: tuple[tuple[float, ...], ...]
    width_mult: tuple[float, ...] = ()
    stem_depth: int | None = None

    def __post_init__(self) -> None:
        # Equal archs are the same text: lists become tuples, whole numbers int.
        stem = self.stem_depth
        values = {
            "resolution": _whole("resolution", self.resolution),
            "depth": _each("depth", self.depth, _whole),
            "kernel_size": _stages("kernel_size", self.kernel_size, _whole),
            "expand_ratio": _stages("expand_ratio", self.expand_ratio, _number),
            "width_mult": tuple(map(float, _each("width_mult", self.width_mult, _number))),
            "stem_depth": None if stem is None else _whole("stem_depth", stem),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not 1 <= self.resolution <= MAX_RESOLUTION:
            raise ArchError(
                f"resolution {self.resolution} is not a number of pixels from 1 to {MAX_RESOLUTION}"
            )
        for name, lists in (
            ("kernel_size", self.kernel_size),
            ("expand_ratio", self.expand_ratio),
        ):
            if len(lists) != len(self.depth):
                raise ArchError(f"{name} has {len(lists)} stages where depth has {len(self.depth)}")
            for stage, (kept, entries) in enumerate(zip(self.depth, lists, strict=True)):
                if not 1 <= kept <= len(entries):
                    raise ArchError(
                        f"stage {stage}: depth {kept} is not between 1 and the {len(entries)} "
                        f"blocks that {name} lists"
                    )

    @property
    def key(self) -> tuple[Any, ...]:
        """Return what equality and hash compare: the layers that run."""
        return (
            self.resolution,
            tuple(k[:d] for k, d in zip(self.kernel_size, self.depth, strict=True)),
            tuple(e[:d] for e, d in zip(self.expand_ratio, self.depth, strict=True)),
            self.width_mult,
            self.stem_depth,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arch) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        """Return a short name such as ``160px k35.333 e34.446``; stages are split by dots."""
        kernels, expands = self.key[1], self.key[2]
        parts = [
            f"{self.resolution}px",
            "k" + ".".join("".join(map(str, stage)) for stage in kernels),
            "e" + ".".join(_join_ratios(stage) for stage in expands),
        ]
        if self.width_mult:
            parts.append("w" + ",".join(f"{w:g}" for w in self.width_mult))
        if self.stem_depth is not None:
            parts.append(f"s{self.stem_depth}")
        return " ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the canonical JSON object: only blocks that run, equal for equal archs."""
        value: dict[str, Any] = {
            "resolution": self.resolution,
            "depth": list(self.depth),
            "kernel_size": [list(stage) for stage in self.key[1]],
            "expand_ratio": [list(stage) for stage in self.key[2]],
        }
        if self.width_mult:
            value["width_mult"] = list(self.width_mult)
        if self.stem_depth is not None:
            value["stem_depth"] = self.stem_depth
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Arch:
        """Return the arch that :meth:`to_json` wrote.

        Raises:
            ArchError: If a field is missing, unknown or of the wrong kind.
        """
        if not isinstance(value, Mapping):
            raise ArchError(f"an arch is a JSON object with {', '.join(_FIELDS)}, got {value!r}")
        unknown = [name for name in value if name not in _FIELDS]
        missing = [name for name in _FIELDS[:4] if name not in value]
        if unknown or missing:
            problem = f"unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}"
            raise ArchError(f"arch: {problem}; the fields are {', '.join(_FIELDS)}")
        return cls(
            resolution=value["resolution"],
            depth=value["depth"],
            kernel_size=value["kernel_size"],
            expand_ratio=value["expand_ratio"],
            width_mult=value.get("width_mult", ()),
            stem_depth=value.get("stem_depth"),
        )

    def to_published(self) -> dict[str, Any]:
        """Return the published spelling: flat lists over every physical block.

        MobileNetV3 and ProxylessNAS: ``{"ks", "e", "d"}``. ResNet50D (a stem switch is there):
        ``{"d", "e", "w"}``, where ``d[0]`` is 2 or 0 for the stem switch, ``d[1:]`` counts blocks
        beyond the fewest, and ``w`` holds indices into (0.65, 0.8, 1.0). Blocks that do not run
        repeat the stage's last choice.

        Raises:
            ArchError: If the arch is not of a published family.
        """
        blocks = PUBLISHED_BLOCKS.get(len(self.depth))
        resnet = self.stem_depth is not None
        if blocks is None or resnet != (len(self.depth) == 4) or (self.width_mult and not resnet):
            raise ArchError(f"arch {self} is not of a published family (MobileNet or ResNet50D)")
        expands = _flat(self.key[2], blocks)
        if not resnet:
            return {"ks": _flat(self.key[1], blocks), "e": expands, "d": list(self.depth)}
        most = PUBLISHED_EXTRA_BLOCKS
        extra = [d - (n - most) for d, n in zip(self.depth, blocks, strict=True)]
        return {
            "d": [most * (self.stem_depth or 0), *extra],
            "e": expands,
            "w": [_published_width(w) for w in self.width_mult],
        }


def _published_width(width_mult: float) -> int:
    if width_mult not in PUBLISHED_WIDTH_MULTS:
        raise ArchError(f"width_mult {width_mult:g} is not one of {PUBLISHED_WIDTH_MULTS}")
    return PUBLISHED_WIDTH_MULTS.index(width_mult)


def _join_ratios(ratios: Sequence[float]) -> str:
    whole = all(float(r).is_integer() for r in ratios)
    return ("" if whole else ",").join(f"{r:g}" for r in ratios)


def _stages(name: str, value: Any, one: Callable[[str, Any], T]) -> tuple[tuple[T, ...], ...]:
    return _each(name, value, lambda name, stage: _each(name, stage, one))


def _each(name: str, value: Any, one: Callable[[str, Any], T]) -> tuple[T, ...]:
    if not isinstance(value, list | tuple):
        raise ArchError(f"arch: {name} {value!r} is not a list")
    return tuple(one(name, part) for part in value)


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if not isinstance(number, int):
        raise ArchError(f"arch: {name} {value!r} is not a whole number")
    return number


def _number(name: str, value: Any) -> float:
    """Keep whole expand ratios as ``int``, so that JSON text is the same whatever came in."""
    value = value.item() if hasattr(value, "item") else value  # of numpy or PyTorch
    if not is_number(value, -_LARGEST, _LARGEST):
        raise ArchError(f"arch: {name} {value!r} is not a number")
    return int(value) if float(value).is_integer() else float(value)


def _flat(stages: Sequence[Sequence[Any]], blocks: Sequence[int]) -> list[Any]:
    flat: list[Any] = []
    for stage, count in zip(stages, blocks, strict=True):
        flat += [*stage, *[stage[-1]] * (count - len(stage))]
    return flat
