"""What charts say: points, lines, legends and words, with known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onceforall.arch import Arch
from onceforall.artifacts import Card, DeviceFacts, Epoch, FrontFile
from onceforall.measure.comparison import Pair
from onceforall.measure.proportion import Share
from onceforall.report import numbers, run_facts
from onceforall.report.curves import latency_figure, search_figures, training_figures
from onceforall.report.pareto_chart import View, chart_points, pareto_views
from onceforall.report.plot import Axes
from onceforall.report.records import Check, Model, Subnet, read_model
from onceforall.report.run_folder import Run
from onceforall.report.scales import Scale
from tests.cards import card
from tests.training.tiny import SPEC

S = numbers.SPACE
ARCHS = [SPEC.space.smallest, SPEC.space.largest]
EMPTY = Run(
    name="mine",
    settings=None,
    epochs=(),
    rollbacks=(),
    steps=(),
    samples=(),
    predictor=None,
    search=None,
    front=(),
    latency=(),
    models=(),
    supernet_s=None,
    notes=(),
)


def epoch(done: int, **known: Any) -> Epoch:
    return Epoch(epochs_done=done, epochs=10, **known)


def subnet(arch: Arch = ARCHS[0], **known: Any) -> Subnet:
    usual: dict[str, Any] = {
        "label": str(arch), "arch": arch, "top1": None, "predicted_top1": None,
        "predicted_std": None, "predicted_latency_ms": None, "costs": {},
    }  # fmt: skip
    return Subnet(**{**usual, **known})


def model(name: str = "net01", **known: Any) -> Model:
    return read_model(card(name, **{"top1": 0.9, "images": 1000, **known}), folder=name)


def view_of(run: Run, cost: str) -> View:
    return next(view for view in pareto_views(run) if view.cost == cost)


# -- axes -----------------------------------------------------------------------------------------


def test_paths_are_percents_from_the_top_left() -> None:
    axes = Axes(x=Scale(low=0, high=10), y=Scale(low=0, high=2), x_title="", y_title="")
    assert axes.line([(0, 0), (5, 2), (10, 1)]) == "M0 100L50 0L100 50"
    assert axes.dots([(2.5, 1), (10, 0)]) == "M25 50zM100 100z"
    assert axes.dots([]) == "M0 0"
    # The area goes along the upper edge and back along the lower one, never out of the plot.
    assert axes.area([(0, 0.5), (10, -3)], [(0, 1), (10, 9)]) == "M0 50L100 0L100 100L0 75Z"
    assert axes.x_ticks[0] == (0, "0") and axes.y_ticks[0] == (100, "0.0")
    assert axes.held((-1, 3)) == (0, 2) and axes.held((4, 1)) == (4, 1)


# -- training -------------------------------------------------------------------------------------


def test_a_run_without_an_epoch_has_no_curves() -> None:
    assert training_figures(EMPTY) == []
    assert search_figures(EMPTY) == []
    assert latency_figure(EMPTY) is None
    assert pareto_views(EMPTY) == []


def test_only_curves_that_have_points_are_drawn() -> None:
    run = replace(EMPTY, epochs=(epoch(1, loss=2.0), epoch(2, loss=1.0)))
    (loss,) = training_figures(run)
    assert loss.caption == "Loss" and [style for style, _ in loss.lines] == ["curve train"]
    assert loss.label == (
        "Loss over the epochs. At the end: training loss, mean of the subnets of a step 1.00."
    )
    assert loss.phases == [] and list(loss.rollbacks) == []


def test_probes_have_curves_of_their_own_and_the_legend_says_where_they_end() -> None:
    epochs = (
        epoch(1, top1=0.5, probes={"smallest": 0.25, "largest": 0.5}),
        epoch(2, top1=0.75),
        epoch(3, top1=0.875, probes={"smallest": 0.5}),
    )
    (top1,) = training_figures(replace(EMPTY, epochs=epochs, rollbacks=(2, 2)))
    assert list(top1.legend) == [
        ("curve-train", "training images, leading subnet: 87.5"),
        ("curve-largest", "largest subnet: 50.0"),
        ("curve-smallest", "smallest subnet: 50.0"),
        ("curve-rollback", "went back to the last good checkpoint"),
    ]
    assert len(top1.rollbacks) == 1, "two at one place are one line"
    ends = {style: place for style, _, place in top1.dots}
    assert ends["end-train"] == top1.axes.place((3, 87.5))


def test_phases_share_the_width_and_have_names_where_there_is_room() -> None:
    names = ["full"] * 4 + ["x"] * 1 + ["shrinking the kernels and much more"] * 5
    epochs = tuple(epoch(i + 1, loss=1.0, phase=name) for i, name in enumerate(names))
    (loss,) = training_figures(replace(EMPTY, epochs=epochs))
    first, second, third = loss.phases
    assert (first.left, first.name, second.name) == (0.0, "full", "")
    assert first.left + first.width == pytest.approx(second.left)
    assert third.left + third.width == pytest.approx(100)
    assert third.name and "shrinking the kernels and much more".startswith(third.name)
    one_phase = tuple(replace_phase(each, "full") for each in epochs)
    assert training_figures(replace(EMPTY, epochs=one_phase))[0].phases == []


def replace_phase(each: Epoch, name: str) -> Epoch:
    return each.model_copy(update={"phase": name})


# -- prediction and search ------------------------------------------------------------------------


def test_points_that_were_predicted_exactly_lie_on_the_diagonal() -> None:
    exact = subnet(predicted_latency_ms=2.0, costs={"latency_ms": 2.0})
    slower = subnet(predicted_latency_ms=2.0, costs={"latency_ms": 3.0})
    unknown = subnet(costs={"latency_ms": 9.0})
    figure = latency_figure(replace(EMPTY, samples=(exact, slower, unknown)))
    assert figure is not None
    (x, y), (_, higher) = (place for _, _, place in figure.dots)
    assert x == pytest.approx(100 - y) and higher < y
    assert list(figure.legend) == [
        ("pair-found", "found by the search, then measured (2)"),
        ("ideal-line", "predicted exactly"),
    ]


def test_a_point_of_the_front_is_compared_once_it_was_measured() -> None:
    front = tuple(subnet(arch, predicted_top1=0.5) for arch in ARCHS)
    run = replace(EMPTY, front=front, samples=(subnet(ARCHS[1], top1=0.625),))
    (figure,) = search_figures(run)
    assert len(figure.dots) == 1
    axes = figure.axes
    assert axes.place((50.0, 62.5)) == figure.dots[0][2]


def test_the_hypervolume_needs_two_generations() -> None:
    def after(volumes: tuple[float, ...]) -> Run:
        found = FrontFile(
            objectives=(), limits={}, points=(), hypervolume=volumes, reference=(), evaluations=0
        )
        return replace(EMPTY, search=found)

    assert search_figures(after((0.5,))) == []
    (figure,) = search_figures(after((0.5, 0.75, 0.8125)))
    assert figure.label.endswith("0.8125 at the end")
    assert figure.dots[0][2][0] == 100
    assert figure.axes.x.ticks == (0, 1, 2), "generations are whole"


# -- the main chart -------------------------------------------------------------------------------


def test_a_model_that_costs_more_and_is_no_better_is_beaten() -> None:
    quick = model("quick", latency_ms=1.0, macs=20)
    slow = model("slow", latency_ms=2.0, macs=10, top1=0.5)
    run = replace(EMPTY, models=(quick, slow))
    marks = {view.cost: [mark.style for mark in view.marks] for view in pareto_views(run)}
    assert marks["latency_ms"] == ["mark unverified", "mark unverified beaten"]
    assert marks["macs"] == ["mark unverified"] * 2
    legend = dict(view_of(run, "latency_ms").legend)
    assert (
        legend["measured"]
        == "measured model (test images); bar: median \u2212 MAD to 90th percentile"
    )
    assert legend["beaten"].startswith("not in the front")
    assert dict(view_of(run, "macs").legend) == {"measured": "measured model (test images)"}


def test_marks_say_what_they_are_and_bars_stay_inside() -> None:
    known = model(latency_ms=2.0, latency_mad_ms=0.5, latency_p90_ms=9.0)
    (mark,) = view_of(replace(EMPTY, models=(known,)), "latency_ms").marks
    assert mark.label == f"net01: 90.0{S}\u00b1{S}1.9{S}% top-1, 2.00{S}ms"
    assert mark.spread is not None and mark.interval is not None
    (left, height), (right, same) = mark.spread
    assert 0 <= left < mark.place[0] < right <= 100 and height == same == mark.place[1]
    (below, low), (above, high) = mark.interval
    assert below == above == mark.place[0] and 0 <= high < mark.place[1] < low <= 100
    (on_macs,) = view_of(replace(EMPTY, models=(known,)), "macs").marks
    assert on_macs.spread is None, "the spread is that of the latency"
    uncounted = model(images=None)
    (plain,) = view_of(replace(EMPTY, models=(uncounted,)), "macs").marks
    assert plain.interval is None and plain.label.startswith(f"net01: 90.0{S}% top-1")


def test_networks_trained_alone_have_rings_where_the_axis_shows_them() -> None:
    share = Share(value=0.9, count=1000)
    near = Pair(name="net01", model=share, alone=Share(value=0.902, count=1000), alone_s=1.0)
    far = replace(near, alone=Share(value=0.1, count=1000))
    run = replace(EMPTY, models=(replace(model(), pair=near), replace(model("net02"), pair=far)))
    view = view_of(run, "macs")
    assert len(view.alone) == 2 and len(view.rings) == 1
    assert dict(view.legend)["alone"] == "the same architecture trained alone, 1 outside the axis"


def test_the_front_of_one_cost_leaves_out_what_only_another_cost_asks_for() -> None:
    points = (
        subnet(predicted_top1=0.8, predicted_std=0.01, costs={"macs": 10, "latency_ms": 3.0}),
        subnet(predicted_top1=0.79, predicted_std=0.01, costs={"macs": 20, "latency_ms": 1.0}),
    )
    run = replace(EMPTY, front=points)
    on_macs, on_time = view_of(run, "macs"), view_of(run, "latency_ms")
    assert len(on_macs.front) == 1 and len(on_macs.found) == 2
    assert on_macs.front_line == "" and on_macs.band == "", "a point is no line"
    assert [p.costs["latency_ms"] for p in on_time.front] == [1.0, 3.0]
    assert on_time.front_line.startswith("M") and on_time.band.endswith("Z")
    assert on_time.legend == [
        ("front", "predicted front and one standard deviation (validation images)")
    ]


def test_the_worst_evaluated_subnets_are_counted_and_not_drawn() -> None:
    samples = tuple(subnet(top1=0.9 + i / 1000, costs={"macs": 10}) for i in range(19))
    run = replace(
        EMPTY, samples=(*samples, subnet(top1=0.1, costs={"macs": 10})), models=(model(),)
    )
    view = view_of(run, "macs")
    assert view.hidden == 1 and len(view.samples) == 19
    assert dict(view.legend)["evaluated"] == (
        "19 evaluated subnets (validation images), 1 more below the axis"
    )


def test_the_script_gets_what_a_tooltip_shows() -> None:
    known = subnet(label="a", top1=0.123456, costs={"macs": 1234567, "latency_ms": 1.23456})
    assert chart_points(replace(EMPTY, samples=(known,), front=(subnet(label="b"),))) == {
        "costs": ("latency_ms", "macs", "params"),
        "samples": [["a", 0.1235, 1.23, 1230000, None]],
        "front": [["b", None, None, None, None]],
    }


# -- words ----------------------------------------------------------------------------------------


def verified(each: Model, **checks: bool | float) -> Model:
    given = checks or {"depends_on_input": True}
    return replace(each, card=each.card.model_copy(update={"checks": given}))


def test_the_headline_is_the_result() -> None:
    assert run_facts.headline(EMPTY) == "No model has been exported yet."
    first, second = verified(model(latency_ms=1.0)), verified(model("b", latency_ms=2.0, top1=0.95))
    assert run_facts.headline(replace(EMPTY, models=(first, second))) == (
        f"2 verified models, 90.0\u201395.0{S}% top-1 (\u00b1{S}1.9{S}% or less, 1,000 test "
        f"images), 1.00\u20132.00{S}ms on this (1 thread)."
    )
    failed = verified(second, onnx_relative_error=0.5)
    said = run_facts.headline(replace(EMPTY, models=(first, failed)))
    assert said.startswith("1 verified model, 90.0")
    assert said.endswith("1 more model did not pass the checks.")
    assert run_facts.headline(replace(EMPTY, models=(failed,))).startswith("1 unverified model,")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (Check(key="depends_on_input", value=True), "different images give different answers"),
        (
            Check(key="onnx_relative_error", value=2e-6),
            "model.onnx computes the same in ONNX Runtime (relative error 2.0e-06, allowed 1e-04)",
        ),
        (Check(key="macs_agree", value=True), "MACs agree"),
        (Check(key="new_error", value=0.25), "new error (0.25)"),
    ],
)
def test_checks_in_words(check: Check, words: str) -> None:
    assert run_facts.check_words(check) == words


def on_device(**hardware: str) -> Card:
    target = DeviceFacts(name="ort-cpu", threads=2, hardware=hardware)
    return card("net01").model_copy(update={"target": target})


def test_the_device_of_a_latency() -> None:
    assert (
        run_facts.target_words(on_device(device="CPU", runtime="ort 1")) == "CPU, 2 threads, ort 1"
    )
    assert run_facts.target_words(on_device()) == "2 threads, ort-cpu"
    run = replace(EMPTY, models=(read_model(on_device(device="CPU"), folder="net01"),))
    assert run_facts.device(run) == "CPU (2 threads)"
    assert run_facts.device(EMPTY) is None
    assert (run_facts.title(EMPTY), run_facts.software(EMPTY), run_facts.configuration(EMPTY)) == (
        "mine",
        "",
        "",
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.magnitude(177_957), "177,957"),
        (numbers.magnitude(2.3e19), f"2.3{S}\u00d7{S}10\u00b9\u2079"),
        (numbers.typeset("98.3 +- 1.4 %"), f"98.3{S}\u00b1{S}1.4{S}%"),
        (numbers.top1(None, 0.5), f"50.0{S}%"),
        (numbers.interval(Share(value=0.5, count=100)), f"40.4\u201359.6{S}%"),
    ],
)
def test_figures_of_a_report(written: str, expected: str) -> None:
    assert written == expected
