"""A hub of its own for each test, so that nothing of one is left for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from weft.gevent.hub import Hub, get_hub
from weft.multiprocessing.forkserver import _forkserver


@pytest.fixture(autouse=True)
def hub() -> Iterator[Hub]:
    made = get_hub()
    yield made
    made.destroy(destroy_loop=True)


@pytest.fixture(scope="package", autouse=True)
def no_template_left() -> Iterator[None]:
    yield
    _forkserver._stop()
