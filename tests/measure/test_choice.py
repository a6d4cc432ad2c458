"""Which model to take: by validation images alone, under limits, and what looser ones gain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.artifacts import Card
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.measure.choice import choose
from tests.cards import card

ROWS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 8), st.integers(0, 8)),
    min_size=1,
    max_size=7,
)


def cards(rows: list[tuple[int, int, int, int]]) -> list[Card]:
    return [
        card(f"net{i}", latency_ms=float(ms), macs=macs, valid_top1=valid / 8, top1=test / 8)
        for i, (ms, macs, valid, test) in enumerate(rows)
    ]


@given(ROWS, st.integers(1, 6), st.integers(1, 6))
def test_the_best_on_validation_images_under_the_limits(
    rows: list[tuple[int, int, int, int]], ms: int, macs: int
) -> None:
    shipped, limits = cards(rows), {"latency_ms": float(ms), "macs": float(macs)}
    keeping = [c for c in shipped if c.latency_ms <= ms and c.macs <= macs]
    if not keeping:
        with pytest.raises(InfeasibleError, match="no shipped model keeps"):
            choose(shipped, limits)
        return
    found = choose(shipped, limits)
    best = max(c.valid_top1 or 0.0 for c in keeping)
    assert found.card in keeping and found.card.valid_top1 == best
    better = [c for c in shipped if (c.valid_top1 or 0.0) > best]
    assert bool(found.gains) == bool(better)
    for gain in found.gains:
        assert gain.card in better and gain.limits
        for name, needed in gain.limits.items():
            assert needed == getattr(gain.card, name) > limits[name]
    if better:  # the last step is the best model of all
        assert found.gains[-1].card.valid_top1 == max(c.valid_top1 or 0.0 for c in better)


def test_luck_on_the_test_images_chooses_nothing() -> None:
    lucky = card("lucky", top1=0.9, valid_top1=0.7, latency_ms=1.0)
    good = card("good", top1=0.8, valid_top1=0.75, latency_ms=1.0)
    assert choose([lucky, good], {}).card is good
    assert choose([good, lucky], {"latency_ms": 1.0}).card is good


def test_a_gain_says_whether_it_is_more_than_noise() -> None:
    small = card("small", top1=0.5, valid_top1=0.5, latency_ms=1.0, images=100)
    near = card("near", top1=0.52, valid_top1=0.53, latency_ms=2.0, images=100)
    far = card("far", top1=0.8, valid_top1=0.8, latency_ms=3.0, images=100)
    slower = card("slower", top1=0.51, valid_top1=0.52, latency_ms=4.0, images=100)
    found = choose([small, near, far, slower], {"latency_ms": 1.5})
    assert [(g.card.name, g.is_clear) for g in found.gains] == [("near", False), ("far", True)]
    assert found.gains[1].points == pytest.approx(30)


def test_models_without_a_validation_figure_are_left_out_and_named() -> None:
    known, unknown = card("known", valid_top1=0.1), card("unknown", top1=0.99)
    found = choose([known, unknown], {})
    assert found.card is known and found.left_out == ("unknown",)
    with pytest.raises(ConfigError, match="none of 1 models has a top-1 on validation images"):
        choose([unknown], {})


def test_limits_that_nothing_keeps_are_said_with_the_nearest() -> None:
    fast = card("fast", latency_ms=1.0, macs=9, valid_top1=0.5)
    small = card("small", latency_ms=3.0, macs=2, valid_top1=0.5)
    with pytest.raises(InfeasibleError, match=r"latency_ms=0\.5: no .* is 1, of fast"):
        choose([fast, small], {"latency_ms": 0.5})
    with pytest.raises(InfeasibleError, match="together, though each can be kept"):
        choose([fast, small], {"latency_ms": 2.0, "macs": 5})
    with pytest.raises(ConfigError, match="limit 'joules' is not one of latency_ms"):
        choose([fast], {"joules": 1.0})
