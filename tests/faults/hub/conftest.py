"""The seed of a run, how long it is, and a hub of its own for each test."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from weft.gevent.hub import Hub, get_hub

HITS = int(os.environ.get("WEFT_FAULTS_HITS") or 400)


@pytest.fixture
def chance() -> random.Random:
    """Another one each time; WEFT_FAULTS_SEED repeats one. A test that fails shows what it printed."""
    chosen = int(os.environ.get("WEFT_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_FAULTS_SEED={chosen}")
    return random.Random(chosen)


@pytest.fixture(scope="session")
def hits() -> int:
    """How many greenlets are hit; WEFT_FAULTS_HITS sets it."""
    return HITS


@pytest.fixture(autouse=True)
def hub() -> Iterator[Hub]:
    made = get_hub()
    yield made
    made.destroy(destroy_loop=True)
