"""Who beats whom beyond noise, what is said of it, and the table that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.artifacts import Baseline, Card
from onceforall.files import append_jsonl
from onceforall.job.closing_table import model_table, read_pairs, result_lines
from onceforall.job.folder import RunFolder
from onceforall.measure.comparison import (
    Contender,
    Pair,
    beaten_by,
    contenders,
    pair_of,
    supernet_seconds,
    top1_share,
    worth_it,
)
from onceforall.measure.proportion import Share, is_clearly_above
from tests.cards import card as make_card
from tests.training.tiny import SPEC

IMAGES = 359


def share(hits: int) -> Share:
    return Share(value=hits / IMAGES, count=IMAGES)


def pair(model: int, alone: int, *, name: str = "net01", seconds: float = 10.0) -> Pair:
    return Pair(name=name, model=share(model), alone=share(alone), alone_s=seconds)


CONTENDERS = st.lists(
    st.tuples(st.integers(0, IMAGES), st.integers(1, 5)), min_size=1, max_size=8
).map(
    lambda rows: [
        Contender(name=f"net{i}", top1=share(hits), cost=cost)
        for i, (hits, cost) in enumerate(rows)
    ]
)


@given(CONTENDERS)
def test_beaten_are_those_that_a_cheaper_one_is_clearly_above(models: list[Contender]) -> None:
    beaten = beaten_by(models)
    by_name = {model.name: model for model in models}
    for model in models:
        over = [o for o in models if o.cost <= model.cost and is_clearly_above(o.top1, model.top1)]
        assert (model.name in beaten) == bool(over)
        if over:
            winner = by_name[beaten[model.name]]
            assert winner in over and winner.top1.value == max(o.top1.value for o in over)
            assert winner.name not in beaten, "the winner itself is in the front"
    # The most accurate is never beaten, nor is the order of any importance.
    assert max(models, key=lambda m: m.top1.value).name not in beaten
    assert beaten_by(models[::-1]).keys() == beaten.keys()


def test_six_errors_against_none_are_beyond_noise_but_five_are_not_against_two() -> None:
    def beaten(fast: int, slow: int) -> dict[str, str]:
        names = (("fast", fast, 1.0), ("slow", slow, 2.0))
        return beaten_by([Contender(name=n, top1=share(h), cost=c) for n, h, c in names])

    assert beaten(IMAGES, IMAGES - 6) == {"slow": "fast"}
    assert beaten(IMAGES - 2, IMAGES - 5) == {}
    assert beaten(IMAGES - 6, IMAGES) == {}, "the faster one may be less accurate"


@pytest.mark.parametrize(
    ("model", "alone", "words"),
    [
        (357, 340, "+4.7, better"),
        (340, 357, "-4.7, worse"),
        (356, 353, "+0.8, within noise"),
        (353, 353, "0.0, within noise"),
    ],
)
def test_a_difference_says_what_it_means(model: int, alone: int, words: str) -> None:
    assert pair(model, alone).words == words


def test_the_verdict_is_said_plainly() -> None:
    def said(*pairs: Pair, supernet_s: float | None = 30.0, num_models: int | None = None) -> str:
        count = len(pairs) if num_models is None else num_models
        return " ".join(worth_it(pairs, num_models=count, supernet_s=supernet_s))

    better, equal, worse = pair(357, 340), pair(356, 353), pair(340, 357)
    text = said(better, equal, worse)
    assert "trained alone: 1 of 3 models; equal within noise: 1; worse: 1." in text
    assert "On average the difference is +0.3 points" in text
    assert "Training alone took 30 s together, the supernet 30 s." in text
    assert "serves better for net01 (99.4 +- 0.9 % alone, 94.7 +- 2.4 % shipped)." in text
    assert "On the whole" not in text
    assert "serve better here, in no more time." in said(worse, equal, equal)
    assert "serve better here, but they took 3.0 times as long." in said(worse, supernet_s=10 / 3)
    assert "serve better here." in said(worse, supernet_s=None)
    assert "as good here, in less time." in said(equal, equal)
    assert "as good here" not in said(equal, equal, num_models=4), "the others are not known"
    assert "less than their share" in said(better, equal)
    assert "less than their share" not in said(better, equal, equal)
    assert worth_it([], num_models=3, supernet_s=1.0) == []


def test_the_time_of_the_supernet_survives_interruptions() -> None:
    step = {"event": "step_done", "step": "train", "seconds": 5.0}
    epoch = {"event": "epoch", "seconds": 90.0}
    assert supernet_seconds([epoch, step]) == 90.0
    again = {**step, "seconds": 0.001}
    assert supernet_seconds([{**epoch, "seconds": 4.0}, step, again]) == pytest.approx(5.001)
    others = [{"event": "baseline_epoch", "seconds": 7.0}, {"event": "epoch", "seconds": "x"}]
    assert supernet_seconds(others) is None


def test_records_that_do_not_fit_make_no_pair() -> None:
    shipped = card("net01", 353, 1.0)
    alone = baseline(shipped, 340)
    assert pair_of(shipped, alone) == pair(353, 340, seconds=12.0)
    assert pair_of(shipped, None) is None
    assert pair_of(shipped, alone.model_copy(update={"arch": SPEC.space.largest})) is None
    uncounted = shipped.model_copy(update={"images": None})
    assert top1_share(uncounted) is None and pair_of(uncounted, alone) is None
    assert [c.name for c in contenders([uncounted, shipped])] == ["net01"]


@pytest.mark.parametrize(("cost", "expected"), [("latency_ms", 1.5), ("macs", 7), ("params", 3)])
def test_contenders_have_the_cost_that_is_asked_for(cost: str, expected: float) -> None:
    shipped = make_card("net01", top1=0.5, images=4, latency_ms=1.5, macs=7, params=3)
    (found,) = contenders([shipped], cost)
    assert found == Contender(name="net01", top1=Share(value=0.5, count=4), cost=expected)


# -- the table ------------------------------------------------------------------------------------


def card(name: str, hits: int, milliseconds: float) -> Card:
    return make_card(name, top1=hits / IMAGES, images=IMAGES, latency_ms=milliseconds)


def baseline(card: Card, hits: int) -> Baseline:
    """Return the architecture of a model trained alone, in 12 seconds."""
    return Baseline(
        name=card.name,
        arch=card.arch,
        top1=hits / IMAGES,
        top1_interval=(0.9, 1.0),
        top5=1.0,
        images=IMAGES,
        epochs=1,
        seconds=12.0,
        budget_s=12.0,
        seed=0,
        resolution=8,
        processes=1,
        threads=1,
        versions={},
    )


def test_the_table_shows_the_noise_and_who_is_beaten() -> None:
    table = model_table([card("net01", 357, 1.0), card("net02", 340, 2.0)])
    assert table[0].split("  ")[-1] == "beaten by"
    assert "99.4 +- 0.9 %" in table[2] and not table[2].endswith("net01")
    assert "94.7 +- 2.4 %" in table[3] and table[3].endswith("net01")
    even = model_table([card("net01", 357, 1.0), card("net02", 356, 2.0)])
    assert not any("beaten" in line or "alone" in line for line in even)


def test_a_card_of_before_still_has_its_row() -> None:
    old = card("net01", 353, 1.0).model_copy(update={"images": None})
    assert model_table([old])[-1].endswith("98.3 %")


def test_what_was_trained_alone_stands_beside(tmp_path: Path) -> None:
    cards = [card("net01", 357, 1.0), card("net02", 356, 2.0), card("net03", 356, 3.0)]
    folder = RunFolder(path=tmp_path)
    alone = baseline(cards[0], 340)
    alone.write(folder.baseline("net01"))
    other = alone.model_copy(update={"arch": SPEC.space.largest})
    other.write(folder.baseline("net02"))
    append_jsonl(tmp_path / "events.jsonl", {"event": "epoch", "seconds": 60.0})
    assert list(read_pairs(folder, cards)) == ["net01"], "net02's file is of another arch"
    lines = result_lines(folder, cards)
    assert lines[0].split()[-3:] == ["trained", "alone", "difference"]
    assert lines[2].endswith("94.7 +- 2.4 %  +4.7, better")
    assert lines[3].endswith("%")
    assert "trained alone: 1 of 1 model;" in "\n".join(lines)
    assert "the supernet 60 s." in "\n".join(lines)
