"""The seed of a run, for all tests of faults."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def seed() -> int:
    """Another one each time; WEFT_FAULTS_SEED repeats one. A test that fails shows what it printed."""
    chosen = int(os.environ.get("WEFT_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_FAULTS_SEED={chosen}")
    return chosen
