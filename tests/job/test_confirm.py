"""Which candidates of a front are measured, and which of those are shipped: known answers."""

from __future__ import annotations

import pytest

from onceforall.artifacts import Confirmed, FrontPoint
from onceforall.job.steps.confirm import choose_winners, clearly_beats, spread_best
from tests.training.tiny import SPEC

ARCH = SPEC.space.smallest


def front_point(milliseconds: float, macs: int = 1) -> FrontPoint:
    return FrontPoint(
        arch=ARCH, predicted_top1=0.5, cautious_top1=0.5, predicted_top1_std=0.0, macs=macs,
        params=1, latency_ms=milliseconds,
    )  # fmt: skip


def confirmed(milliseconds: float, top1: float, *, loss: float = 1.0, images: int = 100):
    return Confirmed(
        **dict(front_point(milliseconds)), predicted_latency_ms=milliseconds, valid_top1=top1,
        valid_loss=loss, valid_images=images,
    )  # fmt: skip


def times(points: list[FrontPoint]) -> list[float]:
    return [point.latency_ms for point in points]


def test_candidates_are_spread_over_log_latency_with_both_ends() -> None:
    points = [front_point(ms) for ms in (16.0, 1.0, 1.1, 2.0, 4.2, 8.0, 15.0)]
    assert times(choose_winners(points, 5)) == [1.0, 2.0, 4.2, 8.0, 16.0]
    assert times(choose_winners(points, 2)) == [1.0, 16.0]
    assert times(choose_winners(points, 1)) == [16.0]
    assert times(choose_winners(points, 99)) == sorted(times(points))


def test_equally_fast_candidates_stand_by_macs() -> None:
    points = [front_point(1.0, macs=5), front_point(1.0, macs=3)]
    assert [point.macs for point in choose_winners(points, 2)] == [3, 5]


@pytest.mark.parametrize(
    ("first", "second", "beats"),
    [
        # The standard error of 50 % on 100 images is 5 points.
        (confirmed(1.0, 0.56), confirmed(1.0, 0.50), True),
        (confirmed(1.0, 0.54), confirmed(1.0, 0.50), False),
        (confirmed(1.1, 0.90), confirmed(1.0, 0.50), False),
        # Nothing wrong of 100 images still has an error of a tenth of a point squared.
        (confirmed(1.0, 1.0), confirmed(1.0, 1.0), False),
        (confirmed(1.0, 0.02), confirmed(1.0, 0.0), True),
    ],
)
def test_one_beats_another_beyond_the_noise(
    first: Confirmed, second: Confirmed, beats: bool
) -> None:
    assert clearly_beats(first, second) == beats


def test_the_best_of_each_part_of_log_latency_is_shipped() -> None:
    points = [
        confirmed(1.0, 0.60),
        confirmed(1.2, 0.62),  # the best of the first part
        confirmed(3.0, 0.50),  # beaten by a faster one beyond the noise
        confirmed(5.0, 0.63, loss=0.8),  # as accurate as the next, with less loss
        confirmed(6.0, 0.63, loss=0.9),
        confirmed(16.0, 0.70),
    ]
    assert times(spread_best(points, 2)) == [1.2, 16.0]
    assert times(spread_best(points, 4)) == [1.2, 5.0, 16.0], "a part without any is skipped"
    assert times(spread_best(points[:1], 3)) == [1.0]
