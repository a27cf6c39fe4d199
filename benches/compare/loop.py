"""What a timed scenario gives to the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Loop(NamedTuple):
    """`run(n)` does `n * operations` operations and as little else as possible."""

    run: Callable[[int], None]
    operations: int = 1
