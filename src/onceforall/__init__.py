"""onceforall: train one elastic network, then specialise it for any device and limit.

    import random
    import onceforall as ofa

    net = ofa.load_supernet("ofa_mbv3_d234_e346_k357_w1.0")
    arch = net.space.sample(random.Random(0))
    logits = net(images, arch)
    model = ofa.specialize(net, arch, calibration=batches)

Names are resolved when they are first used, so that ``import onceforall.space`` loads no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Accuracy": "onceforall.measure.accuracy",
    "Arch": "onceforall.arch",
    "Blueprint": "onceforall.blueprint",
    "Encoding": "onceforall.encoding",
    "SearchSpace": "onceforall.space",
    "StaticNet": "onceforall.supernets.static",
    "Supernet": "onceforall.supernets.supernet",
    "build": "onceforall.supernets.static",
    "compile_costs": "onceforall.measure.cost_tables",
    "count_macs": "onceforall.measure.costs",
    "count_params": "onceforall.measure.costs",
    "evaluate": "onceforall.measure.accuracy",
    "load_specialized": "onceforall.zoo",
    "load_supernet": "onceforall.zoo",
    "measure_latency": "onceforall.measure.latency",
    "open_dataset": "onceforall.data",
    "peak_activation_bytes": "onceforall.measure.costs",
    "recalibrate_bn": "onceforall.measure.calibrate",
    "specialize": "onceforall.deploy.specialize",
}
_MODULES = (
    "data", "deploy", "errors", "measure", "predictors", "search", "supernets", "train", "zoo",
)  # fmt: skip

__all__ = [
    "Accuracy",
    "Arch",
    "Blueprint",
    "Encoding",
    "SearchSpace",
    "StaticNet",
    "Supernet",
    "__version__",
    "build",
    "compile_costs",
    "count_macs",
    "count_params",
    "evaluate",
    "load_specialized",
    "load_supernet",
    "measure_latency",
    "open_dataset",
    "peak_activation_bytes",
    "recalibrate_bn",
    "specialize",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"onceforall.{name}")
    else:
        raise AttributeError(f"module 'onceforall' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
