"""The detail panel of one model."""

from __future__ import annotations

from onceforall.report import numbers
from onceforall.report.drawing import Frame, draw
from onceforall.report.markup import Markup, element, join
from onceforall.report.records import MAX_RELATIVE_ERROR, Check, Model, number, section, text
from onceforall.report.snippets import fill_data

_CHECKS = {
    "extracted_bitwise": "the plain network gives the supernet's very bits",
    "safetensors_bitwise": "read back from model.safetensors, it gives the same bits",
    "extracted_relative_error": "the plain network gives the supernet's answers, rounded otherwise",
    "safetensors_relative_error": "read back from model.safetensors, it rounds otherwise",
    "onnx_relative_error": "model.onnx computes the same in ONNX Runtime",
    "depends_on_input": "different images give different answers",
}


def model_panel(model: Model, index: int, *, run_name: str, frame: Frame, selected: bool) -> Markup:
    """Return the panel of a model.

    Args:
        model: The model.
        index: Its place in the run; the panel's id is ``m<index>``.
        run_name: Name of the run folder, for commands to copy.
        frame: What all drawings share.
        selected: Whether it is the one that is shown at first.
    """
    return element(
        "article",
        {
            "class": "model selected" if selected else "model",
            "id": f"m{index}",
            "tabindex": -1,
            "aria-labelledby": f"m{index}-name",
            **fill_data(model, run_name),
        },
        element("header", None, element("h3", {"id": f"m{index}-name"}, model.name), badge(model)),
        _headline_figures(model),
        draw(model, frame),
        _facts(model),
        _checks(model),
        _files(model),
    )


def badge(model: Model) -> Markup:
    """Return whether a model is verified, in a word."""
    if model.verified:
        return element("span", {"class": "badge good"}, "\u2713 verified")
    words = "check failed" if model.checks else "not checked"
    return element("span", {"class": "badge bad"}, words)


def short_badge(model: Model) -> Markup:
    """Return whether a model is verified, in as few letters as a table has room for."""
    if model.verified:
        return element("span", {"class": "badge good"}, "\u2713 yes")
    return element("span", {"class": "badge bad"}, "\u2717 no")


def top1_words(model: Model) -> str:
    """Return the test top-1 with its noise, where the card tells the images."""
    share = model.share
    return numbers.percent(model.subnet.top1) if share is None else numbers.share(share)


def target_words(model: Model) -> str | None:
    """Return where the latency was measured: device, threads, runtime."""
    target = section(model.card, "target")
    hardware = section(target, "hardware")
    threads = number(target, "threads")
    parts = [
        text(hardware, "device"),
        None if threads is None else numbers.plural(int(threads), "thread"),
        text(hardware, "runtime") or text(target, "name"),
    ]
    return ", ".join(part for part in parts if part) or None


def _headline_figures(model: Model) -> Markup:
    subnet, card = model.subnet, model.card
    top1_note = "test images"
    if (share := model.share) is not None:
        low, high = (numbers.percent(bound) for bound in share.interval)
        top1_note = (
            f"{numbers.span(low, high)} with 95{numbers.SPACE}% confidence, "
            f"{numbers.plural(share.count, 'test image')}"
        )
    mad, p90 = number(card, "latency_mad_ms"), number(card, "latency_p90_ms")
    spread = [] if mad is None else [f"{numbers.PLUS_MINUS}{numbers.SPACE}{_short_ms(mad)}"]
    spread += [] if p90 is None else [f"p90 {numbers.milliseconds(p90)}"]
    peak = number(card, "peak_activation_bytes")
    figures = (
        ("Top-1", top1_words(model), top1_note),
        ("Latency", numbers.milliseconds(subnet.costs.get("latency_ms")), ", ".join(spread)),
        ("MACs per image", numbers.count(subnet.costs.get("macs")), ""),
        (
            "Parameters",
            numbers.count(subnet.costs.get("params")),
            "" if peak is None else f"peak activations {numbers.data_size(peak)}",
        ),
    )
    cells = (
        element(
            "div",
            None,
            element("dt", None, name),
            element("dd", None, value, element("small", None, note) if note else None),
        )
        for name, value, note in figures
    )
    return element("dl", {"class": "figures"}, *cells)


def _facts(model: Model) -> Markup:
    subnet = model.subnet
    predicted = None
    if subnet.predicted_top1 is not None:
        std = subnet.predicted_std
        spread = "" if std is None else f" {numbers.PLUS_MINUS} {100 * std:.1f}"
        predicted = f"{100 * subnet.predicted_top1:.1f}{spread}{numbers.SPACE}% (validation images)"
    top5 = number(model.card, "top5")
    predicted_ms = number(model.card, "predicted_latency_ms")
    facts = (
        ("Measured on", target_words(model)),
        ("Predicted top-1", predicted),
        ("Predicted latency", None if predicted_ms is None else numbers.milliseconds(predicted_ms)),
        ("Trained alone", _alone(model)),
        ("Top-5", None if top5 is None else numbers.percent(top5)),
    )
    rows = (
        join((element("dt", None, name), element("dd", None, value)))
        for name, value in facts
        if value is not None
    )
    return element("dl", {"class": "facts"}, *rows)


def _alone(model: Model) -> str | None:
    """Return what the same architecture came to when it was trained alone."""
    pair = model.pair
    if pair is None:
        return None
    time = numbers.duration(pair.alone_s)
    return f"{numbers.share(pair.alone)} after {time}; this model: {pair.words}"


def _checks(model: Model) -> Markup | None:
    if not model.checks:
        return None
    items = (_check(check) for check in model.checks)
    return join((element("h4", None, "Checks"), element("ul", {"class": "checks"}, *items)))


def _check(check: Check) -> Markup:
    words = _CHECKS.get(check.key, numbers.fact_name(check.key))
    if not isinstance(check.value, bool):
        words += (
            f" (relative error {check.value:.1e}, allowed {MAX_RELATIVE_ERROR:.0e})"
            if check.key in _CHECKS
            else f" ({check.value:.2g})"
        )
    return element(
        "li",
        {"class": "pass" if check.passed else "fail"},
        element("b", None, "pass" if check.passed else "FAIL"),
        words,
    )


def _files(model: Model) -> Markup | None:
    """Return the files with their sizes; their digests are in the card, which verify reads."""
    files = section(model.card, "files")
    rows = [
        (str(name), number(record, "bytes") if isinstance(record, dict) else None)
        for name, record in sorted(files.items())
    ]
    if not rows:
        return None
    cells = (
        join((element("dt", None, name), element("dd", None, numbers.data_size(size))))
        for name, size in rows
    )
    return join((element("h4", None, "Files"), element("dl", {"class": "facts"}, *cells)))


def _short_ms(value: float) -> str:
    return f"{numbers.significant(value, 2)}{numbers.SPACE}ms"
