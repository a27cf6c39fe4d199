"""The side that the faults are for, and the seed of a run."""

from __future__ import annotations

import os
import random

import arena
import pytest


@pytest.fixture
def weft() -> arena.Side:
    """Scripts on `multiprocessing` that is weft's."""
    return arena.WEFT


@pytest.fixture
def seed() -> int:
    """Another one each time; WEFT_FAULTS_SEED repeats one. A test that fails shows what it printed."""
    chosen = int(os.environ.get("WEFT_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_FAULTS_SEED={chosen}")
    return chosen
