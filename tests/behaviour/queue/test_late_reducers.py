"""How an object is pickled that somebody teaches the pickler after the first messages."""

from __future__ import annotations

import copyreg
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import weft


class Stubborn:
    """Cannot be pickled by itself."""

    def __reduce__(self) -> Any:
        raise TypeError("not by itself")


def reduced(_obj: Stubborn) -> Any:
    return str, ("once",)


def reduced_again(_obj: Stubborn) -> Any:
    return str, ("again",)


@pytest.mark.parametrize("register", [ForkingPickler.register, copyreg.pickle])
def test_a_reducer_counts_from_when_it_is_registered(register: Any) -> None:
    extra: Any = ForkingPickler
    tables = extra._extra_reducers, copyreg.dispatch_table
    queue: Any = weft.Queue()
    queue.put([{1: {2}}])
    assert queue.get() == [{1: {2}}]
    try:
        for reduce, expected in ((reduced, "once"), (reduced_again, "again")):
            register(Stubborn, reduce)
            queue.put(Stubborn())
            assert queue.get() == expected
    finally:
        [table.pop(Stubborn, None) for table in tables]
    with pytest.raises(TypeError, match="not by itself"):
        queue.put(Stubborn())
