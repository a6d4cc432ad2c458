"""Filled networks, one for each published one: golden tests share them and change none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from onceforall.supernets.families import proxylessnas, published_spec
from onceforall.supernets.supernet import Supernet
from tests.golden.recipe import fill
from tests.threads import one_thread  # noqa: F401

SPECS = {
    "mbv3_w1.0": lambda: published_spec("ofa_mbv3_d234_e346_k357_w1.0"),
    "mbv3_w1.2": lambda: published_spec("ofa_mbv3_d234_e346_k357_w1.2"),
    "proxyless_w1.3": lambda: published_spec("ofa_proxyless_d234_e346_k357_w1.3"),
    "proxyless_w1.0": lambda: proxylessnas(width_mult=1.0),
    "proxyless_w1.0_google": lambda: proxylessnas(width_mult=1.0, widths=(32, 64, 96, 160)),
    "resnet50": lambda: published_spec("ofa_resnet50"),
}


@pytest.fixture(scope="package")
def filled() -> Callable[[str], Supernet]:
    """Return the shared filled supernet of a name in ``SPECS``; float64, eval mode."""
    return cache(filled_supernet)


def filled_supernet(name: str) -> Supernet:
    """Return a filled supernet of your own."""
    return fill(Supernet(SPECS[name]()))
