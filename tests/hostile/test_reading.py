"""The one opener and the readers of values: regular files, bounded, shallow; links not followed."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onceforall.errors import CheckpointError, ConfigError, MeasurementError
from onceforall.files import append_jsonl, iterate_jsonl, read_json, read_json_file, read_jsonl
from onceforall.measure.latency.published import read_published_latency
from onceforall.predictors.published import read_published_predictor
from onceforall.reading import open_regular, parse_json, read_bounded
from onceforall.supernets.published.checkpoint import read_weights
from onceforall.terminal import printable
from onceforall.yaml_text import MAX_YAML_BYTES, dump_yaml, parse_yaml
from tests.hostile.trial import Tally, memory

# -- 6: regular files only, no links --------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.with_name("target").write_bytes(b"precious, without a line end")
    path.symlink_to(path.with_name("target"))


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 107 letters
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": make_fifo,
    "link": make_link,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "socket": make_socket,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_log_is_appended_to_regular_files_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    SPECIAL[kind](path)
    with pytest.raises(OSError) as caught:
        append_jsonl(path, {"event": "x"})
    assert caught.value.filename == str(path)
    if kind == "link":
        assert (tmp_path / "target").read_bytes() == b"precious, without a line end"
    assert kind != "link to nothing" or not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("read", [read_json, read_jsonl, read_bounded], ids=lambda f: f.__name__)
def test_what_a_run_wrote_is_read_from_regular_files_alone(
    read: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    SPECIAL[kind](tmp_path / "f")
    with pytest.raises(OSError):
        read(tmp_path / "f")


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "link"])
def test_what_a_user_names_may_be_a_link_to_a_regular_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("3")
    (tmp_path / "named").symlink_to(tmp_path / "value")
    assert read_json_file(tmp_path / "named") == 3
    SPECIAL[kind](tmp_path / "f")
    with pytest.raises(ConfigError, match="f"):
        read_json_file(tmp_path / "f")


def test_a_file_beyond_its_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # of holes: it takes no space
    for read in (read_json, read_jsonl, read_json_file):
        with pytest.raises((OSError, ConfigError), match="more than"):
            read(path)


def test_a_cut_line_is_dropped_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n{"c"')
    assert read_jsonl(path) == [{"a": 1}, {"b": 2}]
    append_jsonl(path, {"d": 4})
    assert read_jsonl(path) == [{"a": 1}, {"b": 2}, {"d": 4}]
    path.write_text("x" * 200_000)  # one line, longer than what is looked at in one go
    append_jsonl(path, {"e": 5})
    assert path.read_text() == '{"e": 5}\n'
    path.write_text('{"a": 1}\n[]\n')
    with pytest.raises(CheckpointError, match=r"line 2 holds list.*; delete it and the same"):
        list(iterate_jsonl(path))


def test_writing_keeps_to_the_opened_file(tmp_path: Path) -> None:
    with open_regular(tmp_path / "f", flags=os.O_RDWR | os.O_CREAT) as file:
        file.write(b"1\n")
    assert (tmp_path / "f").read_bytes() == b"1\n"


# -- 7: YAML and JSON -----------------------------------------------------------------------------

BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(f"k{i}: {{<<: *a}}\n" for i in range(10))
NO_YAML = {
    "alias bomb": (BOMB, "alias"),
    "merge bomb": (MERGED, "<<|alias"),
    "deep lists": ("[" * 50_000, "deeper"),
    "deep mappings": ("{a: " * 50_000, "deeper"),
    "deep blocks": ("".join(f"{' ' * i}a:\n" for i in range(400)), "deeper"),
    "number as key": ("1: 2", "not a text"),
    "list as key": ("? [a]\n: b", "key"),
    "key twice": ("a: 1\na: 2", "twice"),
    "tag": ("!!python/object/apply:os.system [true]", "tag"),
    "number to the base of 60": ("a: " + ":".join(["1"] * 100_000), "too long"),
    "huge": ("- a\n" * MAX_YAML_BYTES, "more than"),
    "no date": ("a: 2001-99-99", "month"),
    "open quote": ("a: 'x", "quoted"),
}


@pytest.mark.parametrize("kind", NO_YAML)
def test_yaml_that_hurts_is_refused_at_once(kind: str) -> None:
    text, words = NO_YAML[kind]
    tally = Tally()
    started = time.process_time()
    with memory(tally), pytest.raises(ValueError, match=words) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert tally.peak_mb < 100
    assert time.process_time() - started < 2


def test_yaml_that_is_meant_is_read() -> None:
    text = "train: {epochs: 2.5, plan: delayed}\nsupernet:\n  widths: [8, 16]\n  dropout: .inf\n"
    assert parse_yaml(text) == {
        "train": {"epochs": 2.5, "plan": "delayed"},
        "supernet": {"widths": [8, 16], "dropout": float("inf")},
    }


def test_what_is_written_is_read_again() -> None:
    shared = [1, 2.5e-05]
    value = {"b": shared, "a": {"x": shared, "y": None, "z": "1:2", "on": "no"}}
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 65 + "1" + "}" * 65, "9" * 5000, "\xff"])
def test_json_that_hurts_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text.encode("latin-1"))
    assert "\n" not in str(caught.value)
    assert parse_json("[" * 64 + "]" * 64)


@pytest.mark.parametrize("kind", ["alias bomb", "deep lists", "number as key"])
def test_a_latency_table_that_hurts_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "224_lookup_table.yaml"
    path.write_text(NO_YAML[kind][0])
    with pytest.raises(MeasurementError, match="is not a published latency"):
        read_published_latency(path)


# -- 8: weights and predictors --------------------------------------------------------------------

PICKLES = {
    "empty": b"",
    "raw pickle": b"cos\nsystem\n(S'true'\ntR.",
    "pickle of a list": b"\x80\x04]\x94.",
    "text": b"not weights",
    "half a zip": b"PK\x03\x04" + b"\0" * 30,
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("read", [read_weights, read_published_predictor], ids=["w", "p"])
def test_a_file_that_holds_no_weights_is_one_line(
    read: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "p.pth").write_bytes(PICKLES[kind])
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "p.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "link"])
def test_weights_are_read_from_regular_files_alone(kind: str, tmp_path: Path) -> None:
    SPECIAL[kind](tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match="no weights file at"):
        read_published_predictor(tmp_path / "p.pth")


def test_a_tensor_larger_than_its_file_is_not_read(tmp_path: Path) -> None:
    import torch

    torch.save({"0.weight": torch.zeros(1).expand(10**9)}, tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match="does not hold tensors"):
        read_weights(tmp_path / "p.pth")


# -- 13: names on a terminal ----------------------------------------------------------------------


def test_a_terminal_shows_names_and_obeys_none() -> None:
    assert printable("caf\u00e9 \u732b.png") == "caf\u00e9 \u732b.png"
    assert printable("a\x1b[2Jb\nc\x07\u202e\udcff") == "a\\x1b[2Jb\\nc\\x07\\u202e\\udcff"
    assert printable("a\nb", keep="\n") == "a\nb"
    json.dumps(printable("\udcff")).encode()
