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

# Where each name lives.
_HOMES = {
    "Accuracy": "measure.accuracy",
    "Arch": "arch",
    "Blueprint": "blueprint",
    "Encoding": "encoding",
    "OFANet": "zoo.ofanet",
    "SearchSpace": "space",
    "StaticNet": "supernets.static",
    "Supernet": "supernets.supernet",
    "build": "supernets.static",
    "compile_costs": "measure.cost_tables",
    "count_macs": "measure.costs",
    "count_params": "measure.costs",
    "ElasticChoices": "supernets.graphs.assemble",
    "Graph": "graph",
    "GraphNet": "supernets.graphs.network",
    "GraphSupernet": "supernets.graphs.supernet",
    "elastic": "supernets.supernet",
    "elasticize": "supernets.graphs.elasticize",
    "evaluate": "measure.accuracy",
    "load_model": "deploy.load",
    "load_specialized": "zoo",
    "load_supernet": "zoo",
    "measure_latency": "measure.latency.measure",
    "open_dataset": "data",
    "peak_activation_bytes": "measure.costs",
    "recalibrate_bn": "measure.calibrate",
    "run": "job.run",
    "ship": "deploy.ship",
    "specialize": "deploy.specialize",
    "train": "job.run",
}
_MODULES = (
    "data", "deploy", "errors", "measure", "predictors", "search", "supernets", "training", "zoo",
)  # fmt: skip

__all__ = sorted((*_HOMES, "__version__"))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"onceforall.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"onceforall.{name}")
    else:
        raise AttributeError(f"module 'onceforall' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
