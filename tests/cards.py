"""Cards of models as tests need them: complete, with what a test is about changed."""

from __future__ import annotations

from typing import Any

from onceforall.arch import Arch
from onceforall.artifacts import Card
from onceforall.blueprint import Blueprint
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from tests.training.tiny import SPEC


def card_facts(plan: Blueprint, arch: Arch, **changes: Any) -> dict[str, Any]:
    """Return everything that a card says but its files, checks and blueprint."""
    side = arch.resolution
    return {
        "name": "net01",
        "arch": arch,
        "top1": 0.5,
        "top5": 0.9,
        "images": 100,
        "macs": count_macs(plan, resolution=side),
        "params": count_params(plan),
        "peak_activation_bytes": peak_activation_bytes(plan, resolution=side),
        "resolution": side,
        "data": "made up",
        "classes": ("a", "b", "c"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "crop_ratio": 1.0,
        "versions": {},
        "latency_ms": 1.0,
        "latency_mad_ms": 0.001,
        "latency_p90_ms": 1.1,
        "target": {"name": "ort-cpu", "threads": 1, "hardware": {"device": "this"}},
        **changes,
    }


def card(name: str, **changes: Any) -> Card:
    """Return a card of the smallest subnet of the tiny space."""
    arch = SPEC.space.smallest
    plan = SPEC.blueprint(arch)
    facts = card_facts(plan, arch, name=name, **changes)
    return Card(**facts, files={}, checks={}, blueprint=plan)
