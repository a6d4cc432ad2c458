"""Entry points of ``torch.hub``, under the published names.

    torch.hub.load("PATH_OR_REPOSITORY", "ofa_supernet_mbv3_w10", pretrained=True)

Works from a checkout, installed or not. The published ids are entry points as well.
"""

import functools
import importlib.util
import sys
from pathlib import Path as _Path  # torch.hub lists what has no underscore
from typing import Any as _Any

dependencies = ["torch", "numpy", "safetensors"]

if importlib.util.find_spec("onceforall") is None:
    sys.path.insert(0, str(_Path(__file__).resolve().parent / "src"))

from onceforall.zoo import hub as _hub  # noqa: E402
from onceforall.zoo.entries import zoo_entries as _zoo_entries  # noqa: E402


def ofa_supernet_resnet50(pretrained: bool = True) -> _hub.HubSupernet:
    """ResNet50D supernet; ``pretrained`` loads the released weights (cache, else download)."""
    return _hub.hub_supernet("ofa_resnet50", pretrained)


def ofa_supernet_mbv3_w10(pretrained: bool = True) -> _hub.HubSupernet:
    """MobileNetV3 supernet of width 1.0; ``pretrained`` loads the released weights."""
    return _hub.hub_supernet("ofa_mbv3_d234_e346_k357_w1.0", pretrained)


def ofa_supernet_mbv3_w12(pretrained: bool = True) -> _hub.HubSupernet:
    """MobileNetV3 supernet of width 1.2; ``pretrained`` loads the released weights."""
    return _hub.hub_supernet("ofa_mbv3_d234_e346_k357_w1.2", pretrained)


def ofa_supernet_proxyless(pretrained: bool = True) -> _hub.HubSupernet:
    """ProxylessNAS supernet of width 1.3; ``pretrained`` loads the released weights."""
    return _hub.hub_supernet("ofa_proxyless_d234_e346_k357_w1.3", pretrained)


def resnet50D_MAC_4_1B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 4.1 B multiply-accumulates, published top-1 79.8 %."""
    return _hub.ofa_specialized("resnet50D_MAC@4.1B_top1@79.8", pretrained)


def resnet50D_MAC_3_7B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 3.7 B multiply-accumulates, published top-1 79.7 %."""
    return _hub.ofa_specialized("resnet50D_MAC@3.7B_top1@79.7", pretrained)


def resnet50D_MAC_3_0B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 3.0 B multiply-accumulates, published top-1 79.3 %."""
    return _hub.ofa_specialized("resnet50D_MAC@3.0B_top1@79.3", pretrained)


def resnet50D_MAC_2_4B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 2.4 B multiply-accumulates, published top-1 79.0 %."""
    return _hub.ofa_specialized("resnet50D_MAC@2.4B_top1@79.0", pretrained)


def resnet50D_MAC_1_8B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 1.8 B multiply-accumulates, published top-1 78.3 %."""
    return _hub.ofa_specialized("resnet50D_MAC@1.8B_top1@78.3", pretrained)


def resnet50D_MAC_1_2B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 1.2 B multiply-accumulates, published top-1 77.1 %."""
    return _hub.ofa_specialized("resnet50D_MAC@1.2B_top1@77.1_finetune@25", pretrained)


def resnet50D_MAC_0_9B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 0.9 B multiply-accumulates, published top-1 76.3 %."""
    return _hub.ofa_specialized("resnet50D_MAC@0.9B_top1@76.3_finetune@25", pretrained)


def resnet50D_MAC_0_6B(pretrained: bool = True) -> _hub.HubSpecialized:
    """ResNet50D of 0.6 B multiply-accumulates, published top-1 75.0 %."""
    return _hub.ofa_specialized("resnet50D_MAC@0.6B_top1@75.0_finetune@25", pretrained)


def ofa_specialized_get() -> _Any:
    """Return the function ``ofa_specialized(net_id, pretrained=True)``."""
    return _hub.ofa_specialized


# The published page offers ids as entry points, too.
for _entry in _zoo_entries().values():
    if _entry.kind != "proxylessnas":
        _get = _hub.hub_supernet if _entry.kind == "supernet" else _hub.ofa_specialized
        globals()[_entry.id] = functools.partial(_get, _entry.id)
