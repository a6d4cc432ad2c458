"""Small runs, models and files that all tests of the command line share."""

from __future__ import annotations

import pytest

from tests.cli.places import make_places


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_places(tmp_path_factory.mktemp("places"))
