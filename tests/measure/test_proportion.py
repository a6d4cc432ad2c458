"""What a counted share can tell: known answers and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.errors import MeasurementError
from onceforall.measure.proportion import Share, difference_interval, is_clearly_above


def share(hits: int, count: int) -> Share:
    return Share(value=hits / count, count=count)


@st.composite
def shares(draw: st.DrawFn, count: int | None = None) -> Share:
    of = draw(st.integers(1, 2000)) if count is None else count
    return share(draw(st.integers(0, of)), of)


def test_wilson_interval_is_the_known_one() -> None:
    # Newcombe, Statistics in Medicine 1998, table I, method 3: 81 of 263 and 0 of 20.
    assert share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share(0, 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    # The digits data set, by the formula in another arrangement: 2np + z^2 +- z sqrt(...).
    n, hits, z = 359, 353, 1.959964
    root = z * (z * z + 4 * hits * (1 - hits / n)) ** 0.5
    bounds = [(2 * hits + z * z + sign * root) / (2 * (n + z * z)) for sign in (-1, 1)]
    assert share(hits, n).interval == pytest.approx(bounds, abs=1e-12)
    assert share(hits, n).interval == pytest.approx((0.9640, 0.9923), abs=5e-5)


@pytest.mark.parametrize(
    ("hits", "count", "expected"),
    [
        (353, 359, "98.3 +- 1.4 %"),
        (359, 359, "100.0 +- 0.5 %"),
        (38200, 50000, "76.4 +- 0.4 %"),
        (270, 359, "75 +- 4 %"),
        (5, 10, "50 +- 26 %"),
    ],
)
def test_no_digit_is_finer_than_the_interval(hits: int, count: int, expected: str) -> None:
    assert share(hits, count).in_percent() == expected


def test_the_interval_of_a_difference_is_the_known_one() -> None:
    # Newcombe, Statistics in Medicine 1998, 17:873, table II, method 10.
    known = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (10, 10, 0, 20): (0.6791, 1.0),
    }
    for (a, m, b, n), expected in known.items():
        assert difference_interval(share(a, m), share(b, n)) == pytest.approx(expected, abs=5e-5)


@given(shares())
def test_the_interval_holds_the_share(counted: Share) -> None:
    low, high = counted.interval
    assert 0 <= low <= counted.value <= high <= 1
    assert not is_clearly_above(counted, counted)


@given(shares(), shares())
def test_differences_are_antisymmetric_and_at_most_one_is_above(a: Share, b: Share) -> None:
    low, high = difference_interval(a, b)
    assert low <= a.value - b.value <= high
    assert difference_interval(b, a) == pytest.approx((-high, -low))
    assert not (is_clearly_above(a, b) and is_clearly_above(b, a))
    if is_clearly_above(a, b):
        more = [Share(value=s.value, count=4 * s.count) for s in (a, b)]
        assert is_clearly_above(*more), "more images cannot hide a difference"


def test_what_is_no_share_is_refused() -> None:
    for value, count in ((1.5, 10), (-0.1, 10), (0.5, 0), (float("nan"), 10)):
        with pytest.raises(MeasurementError, match="no share"):
            Share(value=value, count=count)
