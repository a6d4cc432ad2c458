"""The facts of a run and its models in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from onceforall.artifacts import Card
from onceforall.measure.comparison import worth_it
from onceforall.measure.latency.model import LatencyModel
from onceforall.report import numbers
from onceforall.report.records import Check, Model
from onceforall.report.run_folder import Run

_CHECKS = {
    "extracted_bitwise": "the plain network gives the supernet's very bits",
    "safetensors_bitwise": "read back from model.safetensors, it gives the same bits",
    "extracted_relative_error": "the plain network gives the supernet's answers, rounded otherwise",
    "safetensors_relative_error": "read back from model.safetensors, it rounds otherwise",
    "onnx_relative_error": "model.onnx computes the same in ONNX Runtime",
    "depends_on_input": "different images give different answers",
}


def title(run: Run) -> str:
    """Return the name of the data set, or of the run where it is not known."""
    return run.name if run.settings is None else run.settings.data.name


def headline(run: Run) -> str:
    """Return the result in one sentence."""
    if not run.models:
        return "No model has been exported yet."
    verified = [model for model in run.models if model.verified]
    shown = verified or run.models
    start = f"{numbers.plural(len(shown), 'verified model' if verified else 'unverified model')}"
    top1 = sorted(model.card.top1 for model in shown)
    latency = sorted(model.card.latency_ms for model in shown)
    accuracy = numbers.span(numbers.percent(top1[0]), numbers.percent(top1[-1]))
    time = numbers.span(numbers.milliseconds(latency[0]), numbers.milliseconds(latency[-1]))
    measured_on = device(run)
    place = f" on {measured_on}" if measured_on else ""
    sentence = f"{start}, {accuracy} top-1{_noise(shown)}, {time}{place}."
    if verified and len(verified) < len(run.models):
        failed = len(run.models) - len(verified)
        sentence += f" {numbers.plural(failed, 'more model')} did not pass the checks."
    return sentence


def device(run: Run) -> str | None:
    """Return the device that latency was measured on, with its threads."""
    if not run.models:
        return None if run.settings is None else run.settings.hardware.get("cpu")
    target = run.models[0].card.target
    name = target.hardware.get("device", target.name)
    return f"{name} ({numbers.plural(target.threads, 'thread')})"


def software(run: Run) -> str:
    """Return the versions that matter most; empty where they are unknown."""
    versions = {} if run.settings is None else run.settings.versions
    return ", ".join(f"{k} {versions[k]}" for k in ("onceforall", "torch") if k in versions)


def class_names(run: Run) -> tuple[str, ...]:
    """Return the names of the classes, which any card tells."""
    return run.models[0].card.classes if run.models else ()


def target_words(card: Card) -> str:
    """Return where the latency was measured: device, threads, runtime."""
    hardware = card.target.hardware
    threads = numbers.plural(card.target.threads, "thread")
    parts = [hardware.get("device"), threads, hardware.get("runtime", card.target.name)]
    return ", ".join(str(part) for part in parts if part)


def check_words(check: Check) -> str:
    """Return what a check says, with its figure."""
    words = _CHECKS.get(check.key, numbers.fact_name(check.key))
    if isinstance(check.value, bool):
        return words
    if check.key in _CHECKS:
        allowed = f"allowed {check.allowed:.0e}"
        return f"{words} (relative error {check.value:.1e}, {allowed})"
    return f"{words} ({check.value:.2g})"


def table_facts(table: LatencyModel) -> dict[str, Any]:
    """Return what a latency table says of itself, by key."""
    keys = ("target", "threads", "batch_size", "sentinel_ms")
    return {**table.hardware.to_json(), **{key: getattr(table, key) for key in keys}}


def configuration(run: Run) -> str:
    """Return what ``run.yaml`` says that the report does not show elsewhere, as YAML."""
    if run.settings is None:
        return ""
    settings = run.settings.to_json()
    shown = {k: v for k, v in settings.items() if k not in ("data", "hardware", "versions")}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def verdict(run: Run) -> list[str]:
    """Return in sentences whether the supernet was worth it; nothing where that is not known."""
    pairs = [model.pair for model in run.models if model.pair is not None]
    said = worth_it(pairs, num_models=len(run.models), supernet_s=run.supernet_s)
    return [numbers.typeset(line) for line in said]


def _noise(models: Sequence[Model]) -> str:
    """Return the widest noise of the models' top-1, with the images behind it."""
    shares = [share for model in models if (share := model.share) is not None]
    if not shares:
        return ""
    widest = max(shares, key=lambda share: share.half_width)
    _, plus_minus, noise = numbers.share(widest).partition(numbers.PLUS_MINUS)
    images = numbers.plural(widest.count, "test image")
    return f" ({plus_minus}{noise} or less, {images})"
