"""The template that workers start from ends with these tests: it holds on to what the run has to close."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from weft.multiprocessing.forkserver import _forkserver


@pytest.fixture(scope="session", autouse=True)
def no_template_left(nothing_left_behind: None) -> Iterator[None]:
    """Stops it at the end."""
    yield
    _forkserver._stop()
