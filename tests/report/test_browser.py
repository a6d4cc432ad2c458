"""What a reader does: look, hover, click, sort, copy, with and without a script."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onceforall.artifacts import Baseline, Card
from onceforall.measure.choice import choose
from onceforall.report import write_report
from tests.report.browser import Browser
from tests.report.make_run import Story, make_run

LATENCY = '.axis-panel[data-cost="latency_ms"]'
MACS = '.axis-panel[data-cost="macs"]'
WIDTHS = (320, 390, 820, 1280, 1600)


@pytest.fixture(scope="module")
def report(finished: Path) -> Path:
    return write_report(finished)


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report)
    return browser


def settle(ask: Callable[[], Any]) -> Any:
    """Return the answer as soon as it is true: events of the page come a frame later."""
    end = time.monotonic() + 5
    while not (answer := ask()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return answer


def hover(page: Browser, selector: str) -> None:
    x, y = page.centre(selector)
    settle(lambda: page.centre(selector) == (x, y))
    # A scroll that is still under way would hide the tooltip again.
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.move(x + 2, y + 2)


def text(page: Browser, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).innerText"))


def test_the_console_is_silent_and_nothing_is_asked_for(page: Browser, report: Path) -> None:
    for dark in (False, True):
        for width in WIDTHS:
            page.open(report, width=width, dark=dark)
            assert page.run("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    assert {url for url in page.requests if url != "about:blank"} <= {report.as_uri(), "data:,"}


def test_one_model_is_shown_and_a_click_shows_another(page: Browser, report: Path) -> None:
    def shown() -> Any:
        return page.run(
            "[...document.querySelectorAll('.model')].filter(m => m.offsetHeight).map(m => m.id)"
        )

    assert shown() == ["m7"], "the most accurate one"
    page.click(f'{LATENCY} .mark[data-m="2"] .disc')
    assert settle(lambda: shown() == ["m2"])
    name = text(page, "#m2 h3")
    assert name.startswith("net03")
    current = page.run("[...document.querySelectorAll('[aria-current]')].map(e => e.dataset.m)")
    assert current and set(current) == {"2"}
    assert page.run("location.hash") == "#m2"
    assert f"ofa verify {report.parent}/models/{name}" in text(page, ".usage")
    assert f"Path('{report.parent}/models/{name}')" in text(page, ".usage")
    page.click('.models tr[data-m="4"] td')
    assert settle(lambda: shown() == ["m4"])


def test_the_address_selects(browser: Browser, report: Path) -> None:
    browser.open(report, fragment="#m3")
    assert browser.run("document.querySelector('.model.selected').id") == "m3"


def test_hovering_names_models_and_subnets(page: Browser) -> None:
    assert page.run("document.getElementById('tip').hidden")
    hover(page, f'{LATENCY} .mark[data-m="5"] .disc')
    assert settle(lambda: not page.run("document.getElementById('tip').hidden"))
    words = text(page, "#tip")
    assert words.startswith("net06") and "top-1" in words and "ms" in words
    page.move(2, 2)
    assert settle(lambda: page.run("document.getElementById('tip').hidden"))


def test_an_evaluated_subnet_speaks(page: Browser, finished: Path) -> None:
    page.click('label[for="x-macs"]')
    x, y = page.run(
        "(() => {"
        f"const plot = document.querySelector('{MACS} .plot');"
        "plot.scrollIntoView({block: 'center'});"
        "const [x, y] = document.querySelector("
        f"'{MACS} .sample').getAttribute('d').match(/[\\d.]+ [\\d.]+/)[0].split(' ').map(Number);"
        "const b = plot.getBoundingClientRect();"
        "return [b.x + b.width * x / 100, b.y + b.height * y / 100]; })()"
    )
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.move(x, y)
    assert settle(lambda: "validation images" in text(page, "#tip"))
    assert "px k" in text(page, "#tip"), "the arch in short"


def test_the_axis_switches(page: Browser) -> None:
    def visible() -> Any:
        return page.run(
            "[...document.querySelectorAll('.axis-panel')].filter(p => p.offsetHeight)"
            ".map(p => p.dataset.cost)"
        )

    assert visible() == ["latency_ms"]
    for cost in ("macs", "params", "latency_ms"):
        page.click(f'label[for="x-{cost}"]')
        assert settle(lambda cost=cost: visible() == [cost])


def test_the_slider_takes_the_model_under_a_limit(page: Browser, finished: Path) -> None:
    cards = [Card.read(path) for path in sorted(finished.glob("models/*/card.json"))]
    limit = f"{LATENCY} .limit"
    words = text(page, f"{limit} output")
    least = min(cards, key=lambda card: card.latency_ms)
    page.run(f"document.querySelector('{limit} input').focus()")
    page.press("Home")
    settle(lambda: text(page, f"{limit} output") != words)
    assert text(page, f"{limit} output").endswith(f"ms: {least.name}")
    shown = settle(lambda: page.run("document.querySelector('.model.selected').dataset.name"))
    assert shown == least.name
    line, disc = (
        page.run(f"parseFloat(document.querySelector('{LATENCY} {part}').getAttribute('{at}'))")
        for part, at in ((".bound", "x1"), (".mark[aria-current] .disc", "cx"))
    )
    assert line == pytest.approx(disc, abs=0.1)
    for _ in cards:
        page.press("ArrowRight")
    best = choose(cards, {}).card.name
    settle(lambda: text(page, f"{limit} output").endswith(best))


def test_the_keyboard_reaches_every_model(page: Browser) -> None:
    tabs = page.run(f"document.querySelectorAll('{LATENCY} a.mark[tabindex=\"0\"]').length")
    assert tabs == 1, "one stop for all marks"
    page.run(f"document.querySelector('{LATENCY} a.mark[tabindex=\"0\"]').focus()")
    seen = set()
    for _ in range(8):
        page.press("ArrowLeft")
        seen.add(page.run("document.activeElement.dataset.m"))
    assert seen == {str(i) for i in range(8)}
    page.press("ArrowRight")
    focused = page.run("document.activeElement.dataset.m")
    assert focused == "0", "around the end"
    assert not page.run("document.getElementById('tip').hidden")
    page.press("Escape")
    assert page.run("document.getElementById('tip').hidden")
    page.press("Enter")
    assert settle(lambda: page.run("document.querySelector('.model.selected').id") == "m0")


def test_the_table_sorts_by_any_column(page: Browser) -> None:
    def column(number: int) -> list[float]:
        values: list[float] = page.run(
            f"[...document.querySelectorAll('.models tbody tr')].map(r => "
            f"Number(r.cells[{number}].dataset.v))"
        )
        return values

    heads = page.run("[...document.querySelectorAll('.models thead th')].map(h => h.innerText)")
    assert heads[:4] == ["Model", "Top-1", "Latency", "MACs"]
    for number in range(1, len(heads)):
        head = f".models thead th:nth-child({number + 1})"
        page.click(f"{head} button")
        assert column(number) == sorted(column(number))
        assert page.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == (
            "ascending"
        )
        page.click(f"{head} button")
        assert column(number) == sorted(column(number), reverse=True)
    page.click(".models thead th:first-child button")
    names = page.run("[...document.querySelectorAll('.models tbody th')].map(h => h.innerText)")
    assert names == sorted(names)


def test_what_is_unknown_sorts_last(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Story(num_models=3, num_samples=4, num_front=6))
    for path in sorted(run.glob("models/*/card.json"))[::2]:
        card = Card.read(path)
        alone = Baseline(
            **{name: getattr(card, name) for name in ("name", "arch", "top1", "top5", "images")},
            top1_interval=(0.0, 1.0), epochs=1, seconds=2.0, budget_s=2.0, seed=0,
            resolution=card.resolution, processes=1, threads=1, versions={},
        )  # fmt: skip
        alone.write(run / "baselines" / f"{card.name}.json")
    browser.open(write_report(run))
    head = ".models thead th:nth-child(3)"
    assert text(browser, head) == "Alone"
    for _ in range(2):
        browser.click(f"{head} button")
        order = browser.run(
            "[...document.querySelectorAll('.models tbody th')].map(h=>h.innerText)"
        )
        assert order[-1].startswith("net02")


def test_copy_buttons_copy(page: Browser) -> None:
    page.run(
        "Object.defineProperty(navigator, 'clipboard', {value: "
        "{writeText: async (text) => { window.copied = text; }}})"
    )
    page.click(".snippet .copy")
    assert settle(lambda: page.run("window.copied")) == page.run(
        "document.querySelector('.snippet code').textContent"
    )
    assert settle(lambda: text(page, ".snippet .copy") == "Copied")


def test_it_can_be_read_without_a_script(page: Browser, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(report)
        assert page.run("[...document.querySelectorAll('.model')].every(m => m.offsetHeight)")
        assert (
            page.run(f"document.querySelector('{LATENCY} .plot').getBoundingClientRect().height")
            > 200
        )
        page.click('label[for="x-macs"]')
        assert page.run(f"document.querySelector('{MACS}').offsetHeight") > 200
        assert page.run("document.querySelector('.copy').offsetHeight") == 0
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_no_labels_overlap(page: Browser) -> None:
    overlaps = page.run(
        "(() => { const boxes = [...document.querySelectorAll("
        f"'{LATENCY} .name, {LATENCY} .x-tick, {LATENCY} .y-tick')]"
        ".map(e => [e.textContent, e.getBoundingClientRect()]);"
        "const found = [];"
        "boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {"
        "if (p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom)"
        "found.push([a, b]); })); return found; })()"
    )
    assert overlaps == []


def test_it_prints(page: Browser) -> None:
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("until", ["none", "train", "evaluate", "search"])
def test_unfinished_runs_open_without_a_problem(
    browser: Browser, tmp_path: Path, until: str
) -> None:
    browser.problems.clear()
    story = Story(num_models=2, num_samples=12, num_front=6, until=until)
    browser.open(write_report(make_run(tmp_path / "run", story)), width=390)
    assert browser.problems == []
    assert browser.run("document.documentElement.scrollWidth") <= 390


def test_a_hostile_name_does_not_run(browser: Browser, tmp_path: Path) -> None:
    browser.problems.clear()
    name = "</title><script>document.title = 'owned'</script><img src=x onerror='document.title=1'>"
    story = Story(num_models=1, num_samples=4, num_front=4, classes=(name, "b"), data_name=name)
    browser.open(write_report(make_run(tmp_path / "run", story)))
    assert browser.run("document.title").startswith("</title><script>")
    assert browser.run("document.images.length") == 0
    assert browser.problems == []
