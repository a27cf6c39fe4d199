"""The side that the faults are for."""

from __future__ import annotations

import arena
import pytest


@pytest.fixture
def weft() -> arena.Side:
    """Scripts on `multiprocessing` that is weft's."""
    return arena.WEFT
