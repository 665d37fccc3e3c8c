"""One server for the tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servekit import Served, serving


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running
