"""What every record is: read and written in one way, its keys, types and ranges checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from onceforall.arch import MAX_RESOLUTION, Arch
from onceforall.blueprint import Blueprint, blueprint_from_json
from onceforall.errors import CheckpointError, OnceForAllError
from onceforall.files import append_jsonl, damaged, iterate_jsonl, write_json, write_text
from onceforall.graph import Graph, graph_from_json
from onceforall.reading import parse_json, read_bounded
from onceforall.records import record_to_json
from onceforall.yaml_text import dump_yaml, parse_yaml


def _arch(value: Any) -> Arch:
    try:
        return value if isinstance(value, Arch) else Arch.from_json(value)
    except OnceForAllError as error:
        raise ValueError(str(error)) from error


def _plain(name: str) -> str:
    if name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain name")
    return name


def _blueprint(value: Any) -> Blueprint | Graph:
    try:
        if isinstance(value, Blueprint | Graph):
            return value
        is_graph = isinstance(value, dict) and value.get("type") == "Graph"
        return graph_from_json(value) if is_graph else blueprint_from_json(value)
    except OnceForAllError as error:
        raise ValueError(str(error)) from error


ArchField = Annotated[
    Arch,
    pydantic.PlainValidator(_arch),
    pydantic.PlainSerializer(lambda arch: arch.to_json()),
]
BlueprintField = Annotated[
    Blueprint | Graph,
    pydantic.PlainValidator(_blueprint),
    pydantic.PlainSerializer(record_to_json),
]
# Beyond these bounds no network, machine or patience lies, and arithmetic stays finite.
Fraction = Annotated[float, Field(ge=0, le=1)]
Predicted = Annotated[float, Field(ge=-1e3, le=1e3)]
Loss = Annotated[float, Field(ge=0, le=1e9)]
Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
Spread = Annotated[float, Field(ge=0, le=1e9)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Epochs = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[int, Field(ge=1, le=10**15)]
Pixels = Annotated[int, Field(ge=1, le=MAX_RESOLUTION)]
Level = Annotated[float, Field(ge=-100, le=100)]
Rgb = tuple[Level, Level, Level]
_Deviation = Annotated[float, Field(gt=0, le=100)]
Deviations = tuple[_Deviation, _Deviation, _Deviation]
PlainName = Annotated[str, Field(min_length=1, max_length=255), pydantic.AfterValidator(_plain)]


class Record(BaseModel):
    """Contents of a file, or of a line of one."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; what is not known is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Return the record of a JSON value.

        Args:
            value: The JSON value.
            where: What it was read from, for the error.

        Raises:
            CheckpointError: Naming the first key that is missing or wrong.
        """
        try:
            # From JSON, where strictness lets lists be tuples and integers be floats, and no more.
            return cls.model_validate_json(json.dumps(value, default=str), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "its content"
            raise cls.damaged(where, f"{place}: {first['msg']}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a JSON or YAML file.

        Raises:
            CheckpointError: If the file is absent or damaged.
            OSError: If it cannot be read.
        """
        try:
            text = read_bounded(path)
            value = parse_yaml(text) if path.suffix == ".yaml" else parse_json(text)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is not there") from error
        except ValueError as error:
            raise cls.damaged(str(path), str(error)) from error
        return cls.from_json(value, where=str(path))

    @classmethod
    def damaged(cls, where: str, what: str) -> CheckpointError:
        """Return the error of a file of this kind: what is wrong, and what helps."""
        return damaged(where, what)

    @classmethod
    def read_lines(cls, path: Path) -> list[Self]:
        """Return the records of a file of one JSON object a line; none if it is absent.

        Raises:
            CheckpointError: If a line is damaged; one that a crash cut off is left out.
        """
        lines = enumerate(iterate_jsonl(path), 1)
        return [cls.from_json(line, where=f"{path} line {i}") for i, line in lines]

    def write(self, path: Path) -> None:
        """Write a JSON or, by the name of the file, YAML file, atomically."""
        if path.suffix == ".yaml":
            write_text(path, dump_yaml(self.to_json()))
        else:
            write_json(path, self.to_json())

    def append(self, path: Path) -> None:
        """Append one line to a file of records."""
        append_jsonl(path, self.to_json())
