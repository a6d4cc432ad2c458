"""Made-up runs and one browser for all tests of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import CHROMIUM, Browser, open_browser
from tests.report.make_run import Story, make_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run; tests do not write to it."""
    return make_run(tmp_path_factory.mktemp("finished") / "digits", Story())


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
