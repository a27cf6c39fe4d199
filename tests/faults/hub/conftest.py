"""The seed of a run, how long it is, and a hub of its own for each test; what plays scripts, and
looks for what they leave, is known here as well."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from weft.gevent.hub import Hub, get_hub

sys.path.append(str(Path(__file__).parents[1] / "processes"))

HITS = int(os.environ.get("WEFT_FAULTS_HITS") or 400)


@pytest.fixture
def chance(seed: int) -> random.Random:
    """What chooses, from the seed of the run."""
    return random.Random(seed)


@pytest.fixture(scope="session")
def hits() -> int:
    """How many greenlets are hit; WEFT_FAULTS_HITS sets it."""
    return HITS


@pytest.fixture(autouse=True)
def hub() -> Iterator[Hub]:
    made = get_hub()
    yield made
    made.destroy(destroy_loop=True)
