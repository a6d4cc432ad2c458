"""The parts that charts, figures and drawings are made of."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from onceforall.arch import Arch
from onceforall.artifacts import Confirmed
from onceforall.deploy.model_folder import check_files, export_files, write_card
from onceforall.deploy.specialize import specialize
from onceforall.files import append_jsonl, read_json, write_json
from onceforall.measure.costs import count_macs, count_params
from onceforall.measure.proportion import Share
from onceforall.report import build_report, numbers
from onceforall.report.drawing import Frame, _graph_rows, draw, shared_frame
from onceforall.report.labels import place_labels
from onceforall.report.plot import Axes, short
from onceforall.report.records import MAX_RELATIVE_ERROR, Model, read_model, read_subnet
from onceforall.report.run_folder import read_run
from onceforall.report.scales import Scale, fit_scale, tick_labels
from onceforall.supernets.families import mobilenet_v3, small_images
from tests.cards import card, card_facts
from tests.report.make_run import Story, evaluation, make_run
from tests.report.parsing import Page
from tests.supernets.graphs.tiny import SIDE, Block, Body, conv, elastic
from tests.training.tiny import SPEC, tiny_net

STYLE = Path(numbers.__file__).with_name("style.css").read_text()
FINITE = st.integers(-(10**12), 10**12).map(lambda thousandths: thousandths / 1000)
S = numbers.SPACE

# -- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.percent(0.975), f"97.5{S}%"),
        (numbers.percent(None), "\u2014"),
        (numbers.share(Share(value=353 / 359, count=359)), f"98.3{S}\u00b1{S}1.4{S}%"),
        (numbers.milliseconds(0.41234), f"0.412{S}ms"),
        (numbers.milliseconds(0.99962), f"1.00{S}ms"),
        (numbers.milliseconds(1234.5), f"1234{S}ms"),
        (numbers.count(999), "999"),
        (numbers.count(999_600), f"1.00{S}M"),
        (numbers.count(566_170_656), f"566{S}M"),
        (numbers.data_size(1240), f"1.24{S}kB"),
        (numbers.duration(8.44), f"8.4{S}s"),
        (numbers.duration(59.97), f"1{S}min"),
        (numbers.duration(185), f"3{S}min 5{S}s"),
        (numbers.duration(3599.6), f"1{S}h"),
        (numbers.duration(7800), f"2{S}h 10{S}min"),
        (numbers.span(f"1{S}ms", f"2{S}ms"), f"1\u20132{S}ms"),
        (numbers.span(f"1{S}ms", f"1{S}ms"), f"1{S}ms"),
        (numbers.plural(1, "model"), "1 model"),
        (numbers.plural(1200, "class", "classes"), "1,200 classes"),
        (numbers.fact_name("p90_relative_error"), "p90 relative error"),
        (numbers.fact_title("cpu_threads"), "CPU threads"),
        (numbers.fact_value("relative_error", 0.021), f"2.1{S}%"),
        (numbers.fact_value("seconds", 4.1), f"4.1{S}s"),
        (numbers.fact_value("gpu", None), "\u2014"),
    ],
)
def test_figures_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


@given(st.floats(min_value=1e-4, max_value=1e11))
def test_significant_digits_are_significant(value: float) -> None:
    written = numbers.significant(value)
    assert float(written) == pytest.approx(value, rel=0.0051)
    if value < 99:
        assert len(written.replace(".", "").lstrip("0")) == 3


# -- axes -----------------------------------------------------------------------------------------


@given(st.lists(FINITE, min_size=1, max_size=8), st.booleans())
def test_axes_hold_their_values_and_have_round_ticks(values: list[float], log: bool) -> None:
    scale = fit_scale(values, may_be_log=log)
    assert scale.low < scale.high
    for value in values:
        assert scale.contains(value)
        assert -1e-6 <= scale.position(value) <= 100 + 1e-6
    ticks = scale.ticks
    if (scale.high - scale.low) > 1e-6 * max(abs(scale.low), abs(scale.high)):
        assert list(ticks) == sorted(set(ticks))
        assert all(scale.low - 1e-9 * abs(t) <= t <= scale.high + 1e-9 * abs(t) for t in ticks)
        assert len(set(tick_labels(ticks))) == len(ticks)
        if not scale.log:
            assert 3 <= len(ticks) <= 8


def test_ticks_are_the_expected_ones() -> None:
    assert Scale(low=86.0, high=100.0).ticks == (87.5, 90, 92.5, 95, 97.5, 100)
    assert tick_labels((87.5, 90, 92.5)) == ("87.5", "90.0", "92.5")
    assert Scale(low=0.15, high=5.0, log=True).ticks == (0.2, 0.5, 1, 2, 5)
    assert tick_labels((0.2, 0.5, 1, 2, 5)) == ("0.2", "0.5", "1", "2", "5")
    assert Scale(low=1, high=4, whole=True).ticks == (1, 2, 3, 4)
    assert Scale(low=0, high=15, whole=True).ticks == (0, 5, 10, 15)
    assert Scale(low=1, high=2, whole=True).ticks == (1, 2)
    assert fit_scale([1.0, 100.0], may_be_log=True).log
    assert not fit_scale([1.0, 5.0], may_be_log=True).log
    assert not fit_scale([0.0, 100.0], may_be_log=True).log
    assert fit_scale([0.5, 1.0], limits=(0.0, 1.0)).high == 1.0


def test_places_are_percents_from_the_top_left() -> None:
    axes = Axes(x=Scale(low=1, high=100, log=True), y=Scale(low=0, high=10), x_title="", y_title="")
    assert axes.place((10, 10)) == pytest.approx((50, 0))
    assert axes.place((1, 0)) == pytest.approx((0, 100))
    assert [short(v) for v in (0.0, -0.001, -0.5, 12.345, 100.0)] == [
        "0",
        "0",
        "-0.5",
        "12.35",
        "100",
    ]


def test_labels_keep_clear_of_marks_and_of_one_another() -> None:
    rng = random.Random(0)
    for _ in range(50):
        places = [(rng.uniform(0, 100), rng.uniform(0, 100)) for _ in range(8)]
        labels = place_labels([f"network-{i}" for i in range(8)], places)
        boxes = []
        for label, (x, y) in zip(labels, places, strict=True):
            if label is not None:
                length = 6.7 * len(label.text)
                left = (
                    x * 6
                    + label.dx
                    - {"start": 0, "middle": length / 2, "end": length}[label.anchor]
                )
                boxes.append((left, y * 3.8 + label.dy - 10, left + length, y * 3.8 + label.dy))
        for i, a in enumerate(boxes):
            for b in boxes[i + 1 :]:
                assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
            for x, y in places:
                assert not (a[0] < x * 6 < a[2] and a[1] < y * 3.8 < a[3])
    assert place_labels(["alone"], [(50, 50)])[0] is not None
    assert place_labels(["x" * 90], [(10, 50)])[0].text.endswith("\u2026")  # type: ignore[union-attr]
    assert place_labels(["a", "b"], [(50, 50), (50, 50)])[0] is not None


# -- colours --------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_and_kernels_differ(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", STYLE, re.S)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    pairs = [
        (text, ground) for text in ("ink", "muted") for ground in ("page", "surface", "sunken")
    ]
    pairs += [(text, "surface") for text in ("accent", "good", "bad", "predicted", "purple")]
    pairs += [(text, "accent-soft") for text in ("accent", "good", "muted")]
    pairs += [("surface", "accent"), ("page", "ink")]
    pairs += [(f"on-k{k}", f"k{k}") for k in (1, 3, 5, 7)]
    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    # Kernels are told apart by lightness, which every eye sees.
    for first, second in ((3, 5), (5, 7)):
        assert contrast(colours[f"k{first}"], colours[f"k{second}"]) >= 1.8


# -- drawing --------------------------------------------------------------------------------------


def test_the_drawing_shows_the_network(finished: Path) -> None:
    run = read_run(finished)
    frame = shared_frame(run)
    assert frame.depths == (3, 3, 3)
    assert frame.max_ratio == 4
    for model in run.models:
        arch, drawn = model.card.arch, draw(model, frame)
        assert [row.name for row in drawn.rows] == ["Stem", "Stage 1", "Stage 2", "Stage 3", "Head"]
        for depth, kernels, ratios, row in zip(
            arch.depth, arch.kernel_size, arch.expand_ratio, drawn.rows[1:-1], strict=True
        ):
            assert [bar.kernel_size for bar in row.bars] == list(kernels[:depth])
            assert [bar.expand_ratio for bar in row.bars] == list(ratios[:depth])
            assert [bar.width for bar in row.bars] == [ratio / 4 for ratio in ratios[:depth]]
            assert row.num_off == 3 - depth
        assert drawn.num_blocks == sum(arch.depth) and drawn.slots == 3
        assert drawn.kernels == sorted({bar.kernel_size for row in drawn.rows for bar in row.bars})
        assert sum(row.macs for row in drawn.rows) == model.card.macs
        assert [drawn.rows[-1].side, drawn.rows[-1].channels] == [None, None]


def test_the_page_draws_what_the_drawing_says(finished: Path) -> None:
    run = read_run(finished)
    frame = shared_frame(run)
    html = build_report(finished)
    panels = html.split('<figure class="net"')[1:]
    for model, panel in zip(run.models, panels, strict=True):
        drawn, net = draw(model, frame), panel.split("</figure>")[0]
        bars = [bar for row in drawn.rows for bar in row.bars]
        blocks = re.findall(r"(\d)\u00d7\1<i>([\d.]+)</i>", net)
        assert blocks == [(str(bar.kernel_size), f"{bar.expand_ratio:g}") for bar in bars]
        num_off = sum(row.num_off for row in drawn.rows)
        assert net.count("<i></i>") == num_off
        assert ("block switched off" in net) == (num_off > 0)
        shares = [int(s) for s in re.findall(r">(\d+)\u00a0%<", net)]
        assert 96 <= sum(shares) <= 104


def test_what_multiplies_between_two_stages_is_drawn() -> None:
    """Every multiplication of a traced network is in some row."""
    first = nn.Sequential(Block(16, 32), Block(16, 32))
    second = nn.Sequential(Block(32, 64), Block(32, 64))
    net = elastic(Body(nn.Sequential(first, conv(16, 32, 3, 2), second), out=32))
    graph = net.blueprint(net.space.largest)
    frame = Frame(depths=tuple(stage.depths[-1] for stage in net.space.stages), max_ratio=1.0)
    rows = list(_graph_rows(graph, frame))
    assert [row.name for row in rows] == ["Stem", "Stage 1", "Between", "Stage 2", "Head"]
    assert sum(row.macs for row in rows) == count_macs(graph, resolution=SIDE)


def test_a_leading_fixed_block_is_a_row_of_its_own(tmp_path: Path) -> None:
    story = Story(num_models=2, num_samples=4, num_front=3, spec=mobilenet_v3(num_classes=10))
    run = read_run(make_run(tmp_path / "run", story))
    drawn = draw(run.models[0], shared_frame(run))
    stages = [f"Stage {i}" for i in range(1, 6)]
    assert [row.name for row in drawn.rows] == ["Stem", "First", *stages, "Head"]
    assert drawn.rows[1].num_off == 0
    assert drawn.rows[0].side == run.models[0].card.resolution // 2
    assert drawn.rows[0].words.startswith("conv 3\u00d73, stride 2 to ")


# -- reading --------------------------------------------------------------------------------------


def test_costs_that_records_leave_out_are_counted(finished: Path) -> None:
    run = read_run(finished)
    spec = small_images(num_classes=10, resolutions=(16, 24, 32), widths=(16, 32, 64))
    for subnet in run.samples[:20]:
        plan = spec.blueprint(subnet.arch)
        assert subnet.costs["params"] == count_params(plan)
        assert subnet.costs["macs"] == count_macs(plan, resolution=subnet.arch.resolution)


def test_epochs_that_ran_twice_count_once_and_steps_add_up(tmp_path: Path) -> None:
    events = [
        {"event": "epoch", "epochs_done": 1, "loss": 2.0},
        {"event": "epoch", "epochs_done": 2, "loss": 9.0},
        {"event": "rollback", "reason": "nan"},
        {"event": "epoch", "epochs_done": 2, "loss": 1.0},
        {"event": "step_done", "step": "train", "seconds": 10},
        {"event": "step_done", "step": "search", "seconds": 1},
        {"event": "step_done", "step": "train", "seconds": 5.5},
    ]
    for event in events:
        append_jsonl(tmp_path / "events.jsonl", event)
    run = read_run(tmp_path)
    assert [epoch.loss for epoch in run.epochs] == [2.0, 1.0]
    assert run.rollbacks == (2,)
    assert run.steps == (("train", 15.5), ("search", 1))


def test_evaluations_of_all_ranks_count_and_the_last_of_a_subnet(tmp_path: Path) -> None:
    spec = small_images(num_classes=2)
    first, second = spec.space.smallest, spec.space.largest
    evaluation(spec, first, 0.5).append(tmp_path / "evaluations.jsonl")
    evaluation(spec, second, 0.75).append(tmp_path / "evaluations-1.jsonl")
    evaluation(spec, first, 0.625).append(tmp_path / "evaluations.jsonl")
    tops = {subnet.arch: subnet.top1 for subnet in read_run(tmp_path).samples}
    assert tops == {first: 0.625, second: 0.75}


def test_models_come_fastest_first(tmp_path: Path) -> None:
    for name, latency_ms in (("a", 3.0), ("b", 1.0), ("d", 2.0)):
        card(name, latency_ms=latency_ms).write(tmp_path / "models" / name / "card.json")
    assert [model.card.name for model in read_run(tmp_path).models] == ["b", "d", "a"]


def test_a_card_that_is_not_whole_is_named_and_left_out(tmp_path: Path) -> None:
    card("good").write(tmp_path / "models" / "good" / "card.json")
    write_json(tmp_path / "models" / "bad" / "card.json", {**card("bad").to_json(), "top1": 1.5})
    run = read_run(tmp_path)
    assert [model.card.name for model in run.models] == ["good"]
    (note,) = [note for note in run.notes if "bad" in note]
    assert note.startswith("models/bad/card.json") and "top1" in note


def test_what_charts_show_of_a_subnet() -> None:
    """Known costs only; a candidate counts with its validation images, a model with its test."""
    spec = small_images(num_classes=2)
    arch = spec.space.smallest
    measured = read_subnet(evaluation(spec, arch, 0.5))
    assert measured.costs == {"macs": count_macs(spec.blueprint(arch), resolution=arch.resolution)}
    assert (measured.label, measured.top1, measured.predicted_top1) == (str(arch), 0.5, None)
    shipped = read_subnet(card("net01", valid_top1=0.75, predicted_top1=0.7, latency_ms=3.0))
    assert (shipped.label, shipped.top1, shipped.predicted_top1) == ("net01", 0.5, 0.7)
    assert shipped.costs["latency_ms"] == 3.0
    candidate = Confirmed(
        arch=arch, predicted_top1=0.7, cautious_top1=0.6, predicted_top1_std=0.1, macs=5, params=6,
        latency_ms=2.0, predicted_latency_ms=1.5, valid_top1=0.25, valid_loss=1.0, valid_images=4,
    )  # fmt: skip
    found = read_subnet(candidate)
    assert (found.top1, found.predicted_std, found.predicted_latency_ms) == (0.25, 0.1, 1.5)
    assert found.costs == {"latency_ms": 2.0, "macs": 5, "params": 6}


def test_pairs_of_predicted_and_measured_are_all_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Story(num_models=3, num_samples=10, num_front=8))
    front = read_json(run / "search" / "front.json")
    spec = small_images(num_classes=10, resolutions=(16, 24, 32), widths=(16, 32, 64))
    for point in front["points"][:4]:
        measured_too = evaluation(spec, Arch.from_json(point["arch"]), 0.9)
        measured_too.append(run / "evaluations.jsonl")
    confirmed = read_json(run / "search" / "confirmed.json")["points"]
    measured = {Arch.from_json(p["arch"]) for p in [*front["points"][:4], *confirmed]}
    text = Page(build_report(run)).text
    assert f"then measured on the validation images ({len(measured)})" in text
    assert "shipped models, on the test images (3)" in text
    assert f"found by the search, then measured ({len(confirmed)})" in text, "latency"


def test_a_measured_model_that_another_beats_is_hollow(finished: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Story(num_models=2, num_samples=4, num_front=4))
    for path, top1, macs in zip(
        sorted(run.glob("models/*/card.json")), (0.9, 0.8), (10, 20), strict=True
    ):
        write_json(path, {**read_json(path), "top1": top1, "macs": macs, "latency_ms": 30.0 / macs})
    html = build_report(run)
    by_latency, by_macs = (
        re.findall(
            r'class="(mark[^"]*)" data-m',
            html.split(f'<div class="axis-panel" data-cost="{cost}"')[1].split("<ul")[0],
        )
        for cost in ("latency_ms", "macs")
    )
    assert sorted(by_latency) == ["mark", "mark"]
    assert sorted(by_macs) == ["mark", "mark beaten"]


# -- snippets -------------------------------------------------------------------------------------


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report says to do with a model works, on a model that was really exported."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "runs" / "it's a run" / "models" / "net01"
    net, arch = tiny_net(), SPEC.space.smallest
    generator = torch.Generator().manual_seed(0)
    side = arch.resolution
    batches = [torch.randn(16, 3, side, side, generator=generator) for _ in range(2)]
    plan = net.blueprint(arch)
    plain = specialize(net, arch, calibration=batches)
    export_files(folder, plain, plan, arch)
    checks = check_files(folder, plain, net=net, arch=arch, images=batches[0])
    write_card(folder, plan, checks, card_facts(plan, arch))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)  # where the command was given
    codes = Page(build_report(Path("runs/it's a run"))).codes
    (command,) = (code for code in codes if code.startswith("ofa verify"))
    assert shlex.split(command) == ["ofa", "verify", "runs/it's a run/models/net01"]
    programs = [code for code in codes if code.startswith("import")]
    assert len(programs) == 2
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=dict(os.environ),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() in ("a", "b", "c")


def test_of_two_checks_on_one_thing_the_one_that_says_more_is_shown() -> None:
    """A network that rounds otherwise is verified by its error, not failed by its bits."""
    errors = {"extracted_relative_error": 3e-6, "onnx_relative_error": 2e-6}

    def checked(checks: dict[str, bool | float]) -> Model:
        return read_model(card("net01").model_copy(update={"checks": checks}), folder="net01")

    for equal, shown in ((True, "extracted_bitwise"), (False, "extracted_relative_error")):
        model = checked({"extracted_bitwise": equal, **errors})
        assert [check.key for check in model.checks] == [shown, "onnx_relative_error"]
        assert model.verified
    assert not checked({"extracted_bitwise": False}).verified
    assert not checked({"onnx_relative_error": 1.01 * MAX_RELATIVE_ERROR}).verified
    assert not checked({}).verified, "nothing was checked"
