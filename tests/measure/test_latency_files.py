"""Latency models and journals that are damaged, in every place and way."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onceforall.blueprint import Bottleneck, Conv, Linear, MBConv
from onceforall.errors import CheckpointError, ConfigError, MeasurementError, OnceForAllError
from onceforall.job.tasks.latency_models import read_table
from onceforall.measure.latency.fit import FEATURES, LatencyReport
from onceforall.measure.latency.journal import Journal
from onceforall.measure.latency.model import LatencyModel
from onceforall.measure.latency.table import timing_key
from onceforall.measure.latency.targets import Hardware, OrtCpu
from onceforall.supernets import families

SMALLEST = families.small_images(num_classes=5).space.smallest.to_json()
LAYERS = (
    Conv(in_channels=3, out_channels=8, stride=2, kernel_size=3, activation="h_swish"),
    MBConv(in_channels=8, mid_channels=16, out_channels=8, kernel_size=5, se_channels=4),
    Bottleneck(in_channels=8, mid_channels=4, out_channels=16, downsample="conv"),
    Linear(in_features=16, out_features=5),
)
MODEL = LatencyModel(
    target="ort-cpu",
    threads=1,
    batch_size=1,
    hardware=Hardware(device="made up", cores=1, runtime="none 1", system="none"),
    sentinel_ms=0.5,
    table={timing_key(layer): {8: 0.25, 16: 1.0} for layer in LAYERS},
    weights=dict.fromkeys(FEATURES, 0.125),
    report=LatencyReport(
        kendall_tau=0.9,
        median_error=0.02,
        p90_error=0.1,
        noise=0.01,
        macs_kendall_tau=0.8,
        num_networks=20,
    ),
).to_json()


def places(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value inside ``value``."""
    inside = value.items() if isinstance(value, dict) else []
    inside = enumerate(value) if isinstance(value, list) else inside
    return [here, *(path for key, child in inside for path in places(child, (*here, key)))]


def changed(path: tuple[str | int, ...], value: Any, *, delete: bool) -> Any:
    """Return the model with what is at ``path`` replaced or deleted."""
    if not path:
        return value
    whole = copy.deepcopy(MODEL)
    at: Any = whole
    for key in path[:-1]:
        at = at[key]
    if delete:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return whole


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["Conv", "Linear", "8", "-1", "relu", "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def load(value: Any) -> LatencyModel | None:
    """Return the model, or None where it was refused as it should be."""
    try:
        return LatencyModel.from_json(value)
    except OnceForAllError as error:
        assert "\n" not in str(error) and str(error)
        return None


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(path=st.sampled_from(places(MODEL)), value=JSON, delete=st.booleans())
@example(path=("table", 0, "ms"), value=[1], delete=False)
@example(path=("table", 0, "layer"), value="Conv", delete=False)
@example(path=("hardware",), value=None, delete=False)
def test_a_changed_model_is_read_or_refused_in_one_line(
    path: tuple[str | int, ...], value: Any, delete: bool
) -> None:
    model = load(changed(path, value, delete=delete))
    if model is not None:
        for layer, sizes in model.table.items():
            for size in sizes:
                assert model.layer_ms(layer, size) >= 0
        assert load(json.loads(json.dumps(model.to_json()))) is not None


@pytest.mark.parametrize("path", places(MODEL)[1:], ids=str)
@pytest.mark.parametrize("value", [None, [], {}, True, "x", -1, float("nan")], ids=repr)
def test_no_place_takes_another_type(path: tuple[str | int, ...], value: Any) -> None:
    load(changed(path, value, delete=False))


WRONG = {
    "ms is a list": (("table", 0, "ms"), [1], "damaged: table.0.ms: "),
    "a time is text": (("table", 0, "ms", "8"), "1", "damaged: table.0.ms.8: "),
    "a time is below 0": (("table", 0, "ms", "8"), -1.0, "damaged: table.0.ms.8: "),
    "a size is no number": (("table", 0, "ms", "x"), 1.0, "damaged: table.0.ms.x"),
    "threads is a float": (("threads",), 1.5, "damaged: threads: "),
    "hardware is text": (("hardware",), "x", "damaged: hardware: "),
    "a weight is missing": (("weights",), {}, "damaged: weights: .*table_ms is missing"),
    "a report lacks a field": (("report",), {"noise": 1.0}, "damaged: report.kendall_tau: "),
    "a layer has text": (("table", 0, "layer", "stride"), "2", r"is damaged: stride: "),
    "an activation": (("table", 0, "layer", "activation"), "x", r"is damaged: activation: "),
    "an unknown field": (("table", 0, "layer", "colour"), "x", "has 'colour', not one of"),
    "no such layer": (("table", 0, "layer", "type"), [1], "has a type other than Conv"),
    "an impossible layer": (("table", 0, "layer", "in_channels"), 0, "is damaged: .*in_channels"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    path, value, expected = WRONG[case]
    file = tmp_path / "table.json"
    file.write_text(json.dumps(changed(path, value, delete=False)))
    with pytest.raises(MeasurementError, match=rf"^{file}: .*{expected}"):
        read_table(file)


def test_a_layer_is_there_once() -> None:
    twice = {**MODEL, "table": [MODEL["table"][0]] * 2}
    with pytest.raises(MeasurementError, match=r"damaged: Conv\(.* is there twice"):
        LatencyModel.from_json(twice)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{}"])
def test_another_json_file_is_no_model(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(MeasurementError, match="not a latency model"):
        read_table(tmp_path / "t.json")


NO_JSON = {"empty": "", "cut": "{", "deep": "[" * 100_000, "bytes": "\udcff"}


@pytest.mark.parametrize("text", NO_JSON.values(), ids=NO_JSON)
def test_what_is_not_json_says_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="is not a JSON file"):
        read_table(tmp_path / "t.json")


HEADER = {"kind": "header", "sentinel_ms": 1.0}
FIGURES = {"latency_ms": 1.0, "standard_error_ms": 0.1}


@pytest.mark.parametrize(
    "line",
    [
        [],
        3,
        {},
        HEADER,
        {**HEADER, "sentinel_ms": float("nan")},
        {"kind": "block", "layer": 3, "size": 8, "latency_ms": 1.0},
        {"kind": "block", "layer": {"type": "Conv"}, "size": 8, "latency_ms": 1.0},
        {"kind": "block", "layer": MODEL["table"][0]["layer"], "size": 8, "latency_ms": None},
        {"kind": "network", "arch": [], **FIGURES, "sentinel_ms": 1.0},
        {"kind": "network", "arch": SMALLEST, **FIGURES},
    ],
    ids=str,
)
def test_a_damaged_journal_says_so(line: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps(line) + "\n")
    remedy = "delete it and the same command goes on"
    with pytest.raises(CheckpointError, match=rf"^{path} is damaged: [^\n]+; {remedy}$"):
        Journal.open(path, target=OrtCpu(), batch_size=1, repeats=3)
