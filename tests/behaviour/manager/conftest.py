"""A manager for each test. The template behind `forkserver` ends with these tests: it holds on to what the run has to close."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import weft
from weft.multiprocessing.forkserver import _forkserver
from weft.multiprocessing.managers import SyncManager


@pytest.fixture(scope="session", autouse=True)
def no_template_left(nothing_left_behind: None) -> Iterator[None]:
    """Stops it at the end."""
    yield
    _forkserver._stop()


@pytest.fixture
def manager() -> Iterator[SyncManager]:
    """A manager with a server of its own."""
    with weft.Manager() as started:
        yield started
