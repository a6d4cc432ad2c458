"""What options mean, and the line for what means nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.artifacts import Request
from onceforall.cli.options import (
    parse_budget,
    parse_limits,
    parse_numbers,
    parse_on_bad_image,
    read_config,
    transfer_flags,
)
from onceforall.errors import ConfigError
from onceforall.job.clock import Clock, parse_time
from onceforall.job.config import resolve
from onceforall.job.recipes import recipe_for
from tests.cli.command import ofa


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1.5h", 5400), ("12", 12), (" 2 h ", 7200), ("0.5s", 0.5)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5m", "5 minutes", "1h30m", "inf", "nan", "1e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--budget .* is not a time such as 90s, 5m or 2h"):
        parse_budget(text)
    assert parse_budget(None) is None


def test_paths_beyond_the_first_plane_are_settings_too(tmp_path: Path) -> None:
    path = tmp_path / "\U0001f4f7.safetensors"
    path.write_bytes(b"")
    flags = transfer_flags(
        str(path), reinit_head=False, freeze_backbone=False, head_factor=None, start_at="\U0001f4f7"
    )
    request = Request(source="x", root=str(path), flags=tuple(flags))
    recipe = recipe_for("x", image_side=32, num_train=5000, num_classes=10)
    found = resolve(recipe, flags=request.settings)
    assert found.train.init == found.data.root == str(path)
    assert found.train.start_at == "\U0001f4f7"


@pytest.mark.parametrize("words", [(), ("zoo",), ("latency",), ("predictor",)])
def test_a_verb_that_lacks_one_shows_its_help(words: tuple[str, ...]) -> None:
    answer = ofa(*words)
    assert answer.status == 2 and answer.err.count("\n") > 5 and "Usage: ofa" in answer.err


def test_a_clock_counts_what_earlier_processes_took() -> None:
    clock = Clock(budget_s=100.0, before_s=30.0)
    assert 30.0 <= clock.elapsed_s() < 31.0
    assert clock.left_s() == pytest.approx(70.0, abs=1.0)
    assert Clock().left_s() == math.inf
    assert Clock(budget_s=1.0, before_s=30.0).left_s() < 0


def test_limits_by_name_with_one_bound_or_several() -> None:
    assert parse_limits(None) == {}
    assert parse_limits(["latency_ms=0.5,1,2", "macs=5e6", "latency_ms@phone=3"]) == {
        "latency_ms": [0.5, 1.0, 2.0], "macs": [5e6], "latency_ms@phone": [3.0]
    }  # fmt: skip


@pytest.mark.parametrize("text", ["macs", "macs=", "macs=x", "macs=1,", "macs=nan", "=", "macs 5"])
def test_limits_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form name=bound, once per name"):
        parse_limits([text])


def test_a_limit_may_come_once() -> None:
    with pytest.raises(ConfigError, match="--limit 'macs=2' is not of the form"):
        parse_limits(["macs=1", "macs=2"])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_numbers_are_read_as_they_are_written(numbers: list[float]) -> None:
    assert parse_numbers("--mean", ",".join(map(repr, numbers))) == tuple(numbers)


@pytest.mark.parametrize("text", ["a", "1,", "1;2", "inf", "0.5,nan"])
def test_numbers_must_be_finite_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--std .* is not a list of (finite )?numbers"):
        parse_numbers("--std", text)
    assert parse_numbers("--std", "") == ()


def test_bad_images_are_refused_or_skipped() -> None:
    assert [parse_on_bad_image(text) for text in ("refuse", "skip")] == ["refuse", "skip"]
    with pytest.raises(ConfigError, match="--on-bad-image 'ignore' is not one of refuse, skip"):
        parse_on_bad_image("ignore")


def test_a_configuration_is_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert read_config(None) is None
    with pytest.raises(ConfigError, match=r"--config .*mine.yaml is not a text file"):
        read_config(path)
    path.write_text("seed: 3\n")
    assert read_config(path) == "seed: 3\n"


def test_transfer_options_are_settings(tmp_path: Path) -> None:
    usual = {"reinit_head": False, "freeze_backbone": False, "head_factor": None}
    start = tmp_path / 'net "1".safetensors'
    start.touch()
    assert transfer_flags("", **usual) == []  # type: ignore[arg-type]
    flags = transfer_flags(str(start), reinit_head=True, freeze_backbone=True, head_factor=10.0)
    assert flags[0].startswith('train.init="') and '\\"1\\"' in flags[0]
    assert flags[1:] == [
        "train.reinit_head=true", "train.freeze_backbone=true", "train.head_factor=10.0"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="need --init FILE"):
        transfer_flags("", reinit_head=True, freeze_backbone=False, head_factor=None)
    with pytest.raises(ConfigError, match="--init 'nothing' is not a file"):
        transfer_flags("nothing", **usual)  # type: ignore[arg-type]
