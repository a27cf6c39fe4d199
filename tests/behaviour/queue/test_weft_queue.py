"""`weft.Queue`: errors at the caller."""

from __future__ import annotations

import array
import collections.abc
import pickle
import threading
from typing import Any

import pytest
import weft


class Holder:
    def __init__(self, part: object) -> None:
        self.part = part


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (LOCK, "obj"),
        ([1, LOCK], "obj[1]"),
        ({"a": {"b": (0, LOCK)}}, "obj['a']['b'][1]"),
        ({"x": [Holder(LOCK)]}, "obj['x'][0].part"),
    ],
)
def test_what_cannot_be_pickled_is_named(message: Any, path: str) -> None:
    queue = weft.Queue[Any](1)
    with pytest.raises(weft.UnpicklableError) as caught:
        queue.put(message)
    assert caught.value.path == path and caught.value.part is LOCK
    assert str(caught.value) == (
        f"cannot put {path}, a _thread.lock, into a queue: cannot pickle '_thread.lock' object"
    )
    assert isinstance(caught.value, pickle.PicklingError)
    assert isinstance(caught.value.__cause__, TypeError)
    assert queue.empty()
    queue.put("there is room")


def test_an_object_that_refuses_by_itself_is_named() -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    with pytest.raises(
        weft.UnpicklableError, match=r"cannot put obj\[0\], a .*Refuses, into a queue: not me"
    ):
        weft.Queue[Any]().put([Refuses()])


class Endless(collections.abc.Sequence[int]):
    def __init__(self, part: object) -> None:
        self.part = part

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError("nobody should go through this one")


def test_a_collection_that_is_not_pickled_by_its_items_is_not_gone_through() -> None:
    with pytest.raises(weft.UnpicklableError) as caught:
        weft.Queue[Any]().put([Endless(LOCK)])
    assert caught.value.path == "obj[0].part"
    with pytest.raises(weft.UnpicklableError, match=r"cannot put obj, a builtins\.memoryview"):
        weft.Queue[Any]().put(memoryview(array.array("u", "text").tobytes()).cast("B", (4, 4))[::2])


def test_it_joins_and_shuts_down() -> None:
    queue = weft.Queue[int]()
    queue.put(1)
    assert queue.get() == 1
    queue.task_done()
    queue.join()
    queue.shutdown()
    with pytest.raises(weft.ShutDown):
        queue.put(2)


def test_a_queue_in_a_message_is_named_as_such() -> None:
    with pytest.raises(
        weft.UnpicklableError, match=r"cannot put obj\['reply'\], a weft\.Queue, into a queue: "
    ):
        weft.Queue[Any]().put({"reply": weft.Queue[Any]()})


def test_the_size_is_a_number() -> None:
    with pytest.raises(TypeError, match="maxsize must be an int, not str"):
        weft.Queue[Any]("a")  # type: ignore[arg-type]
