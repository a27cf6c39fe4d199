"""What goes into a queue comes out as it was."""

from __future__ import annotations

import array
import collections
import decimal
import math
import multiprocessing
import threading
from typing import Any

import pytest
from weft.multiprocessing.queues import JoinableQueue, Queue, SimpleQueue

CONTEXT = multiprocessing.get_context("fork")


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


class Number(int):
    pass


Pair = collections.namedtuple("Pair", "left right")

MESSAGES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    10**100,
    0.0,
    -1.5,
    float("inf"),
    "",
    "plain",
    "grüße \N{SNOWMAN} \U0001f600",
    "null\0inside",
    "\ud800 alone",
    b"",
    b"bytes \0\xff",
    "x" * 20_000,
    b"y" * 20_000,
    b"z" * 3_000_000,
    (),
    (1, "two", 3.0, b"four", None, True),
    (1, (2, 3)),
    (1, [2, 3]),
    tuple(range(255)),
    tuple(range(256)),
    ("x" * 10_000, "y" * 10_000),
    [],
    [1, 2, [3]],
    {"a": 1, "b": [2]},
    {1, 2},
    1 + 2j,
    bytearray(b"array"),
    bytearray(100_000),
    array.array("d", [1.0, 2.0] * 50_000),
    decimal.Decimal("1.10"),
    Point(3),
    Number(7),
    Pair(1, 2),
    {"large": b"q" * 200_000, "small": 1},
    {},
    {1: {2: {3: {4: {5: {6: {7: "deep"}}}}}}},
    {(1, "key"): [None, True, 1.5, b"x", (), {}]},
    {"text": "t" * 30_000},
    {str(number): number for number in range(200)},
    [list(range(100)) for _ in range(3)],
    [2**70, "\ud800"],
    [[number] for number in range(40)],
    collections.OrderedDict(a=1),
]


def identity(value: Any) -> str:
    text = repr(value) if not isinstance(value, Point) else f"Point {value.x}"
    return f"{type(value).__name__} {text[:30]}"


@pytest.fixture(params=[Queue, JoinableQueue, SimpleQueue])
def queue(request: pytest.FixtureRequest) -> Any:
    return request.param(ctx=CONTEXT)


@pytest.mark.parametrize("message", MESSAGES, ids=identity)
def test_a_message_arrives_as_it_was(message: Any) -> None:
    queue = Queue[Any](ctx=CONTEXT)
    queue.put(message)
    received = queue.get()
    assert received == message
    assert type(received) is type(message)


NUMBERS = [
    *(list(range(length)) for length in (63, 64, 65, 129, 5_000, 100_000)),
    tuple(range(-300, 0)),
    [2**31 - 1, -(2**31)] * 100,
    [2**31, *range(200)],
    [-(2**31) - 1] * 200,
    [2**63 - 1, -(2**63)] * 5_000,
    [2**63, *range(200)],
    [*range(200), True],
    [*range(200), Number(7)],
    [*range(200), 1.0],
    [number / 7 for number in range(300)],
    tuple(float(number) for number in range(20_000)),
    [0.0, -0.0, float("inf"), 5e-324] * 50,
    [1.5] * 200 + [1],
    [*range(200), "x"],
    [[*range(200)], [*range(200)]],
]


@pytest.mark.parametrize("message", NUMBERS, ids=identity)
def test_a_long_list_of_numbers_arrives_as_it_was(message: Any) -> None:
    queue = Queue[Any](ctx=CONTEXT)
    queue.put(message)
    received = queue.get()
    assert type(received) is type(message)
    # With the types of the items, and the sign of a zero.
    assert [repr(item) for item in received] == [repr(item) for item in message]
    assert [type(item) for item in received] == [type(item) for item in message]


TEXT = "a string that is longer than a word, but not long"
COLUMNS = [
    dict.fromkeys(range(1000), 1),
    {number: number * 1000 for number in range(-500, 500)},
    {f"key {number}": number / 3 for number in range(1000)},
    {f"Schlüssel {number} \N{GRINNING FACE}": None for number in range(100)},
    {number / 2: f"{number}" for number in range(100)},
    {number: (None, True, False, 1, 2.5, "x", b"y", -0.0)[number % 8] for number in range(100)},
    {"a" * number: b"b" * (number % 250) for number in range(255)},
    {"a" * number: number for number in range(300)},
    {**{str(number): number for number in range(100)}, "last": "\ud800"},
    {**{str(number): number for number in range(100)}, "last": [1]},
    {**{str(number): number for number in range(100)}, "last": 2**64},
    {**{number: number for number in range(100)}, 1.5: 2, None: 3, b"": 4, ("x",): 5},
    [*"word " * 100],
    [str(number) for number in range(300)] * 2,
    [TEXT] * 1000,
    [TEXT, *range(200), TEXT],
    [b"bytes"] * 100 + ["bytes"] * 100,
    [*range(100), "x" * 1000],
    [True] * 100,
    [True, *range(100)],
    [2**15, -(2**15), 127, -128, 0] * 50,
    [(number, str(number), number / 2, None) for number in range(200)],
    [(number,) for number in range(200)],
    [(number, number) for number in range(200)] + [(1,)],
    [(number, [number]) for number in range(200)],
    [(1, 2)] * 200,
    [()] * 200,
    tuple((number, number) for number in range(200)),
    ({number: number for number in range(100)},),
    (1, "x", {number: number for number in range(100)}, None),
    ([*range(1000)], 5),
    ([], [*range(1000)]),
    ((), {}, [*range(200)]),
    (tuple(range(200)), 1, [2]),
]


@pytest.mark.parametrize("message", COLUMNS, ids=identity)
def test_a_long_container_of_plain_values_arrives_as_it_was(message: Any) -> None:
    queue = Queue[Any](ctx=CONTEXT)
    queue.put(message)
    received = queue.get()
    assert repr(received) == repr(message)
    assert type(received) is type(message)


def test_what_was_one_object_is_one_where_that_matters() -> None:
    queue = Queue[Any](ctx=CONTEXT)
    text, changing = "text " * 20, [*range(100)]
    queue.put([text, *range(200), text])
    received = queue.get()
    assert received[0] is received[-1]
    queue.put((changing, changing))
    one, other = queue.get()
    assert one == changing
    assert one is other
    queue.put(dict.fromkeys(range(100), text))
    assert len(set(map(id, queue.get().values()))) == 1


def test_messages_arrive_in_order(queue: Any) -> None:
    for message in MESSAGES * 3:
        queue.put(message)
    for message in MESSAGES * 3:
        assert queue.get() == message
    assert queue.empty()


def test_not_a_number_arrives() -> None:
    queue = Queue[float](ctx=CONTEXT)
    queue.put(math.nan)
    assert math.isnan(queue.get())


def test_the_same_object_twice_in_a_message_is_one_object() -> None:
    queue = Queue[Any](ctx=CONTEXT)
    part = [1]
    queue.put([part, part])
    first, second = queue.get()
    assert first is second


def test_a_container_in_itself_arrives() -> None:
    queue = Queue[Any](ctx=CONTEXT)
    message: list[Any] = [1]
    message.append(message)
    queue.put(message)
    received = queue.get()
    assert received[1] is received


def test_the_order_of_a_dictionary_is_kept() -> None:
    queue = Queue[dict[str, int]](ctx=CONTEXT)
    queue.put({"b": 1, "a": 2, "c": 3})
    assert list(queue.get()) == ["b", "a", "c"]


def test_a_message_is_what_it_was_when_it_was_put() -> None:
    queue = Queue[list[int]](ctx=CONTEXT)
    message = [1]
    queue.put(message)
    message.append(2)
    assert queue.get() == [1]


def private_memory() -> int:
    """The bytes of memory that are this process's alone."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Anonymous:"))


def test_a_large_pickle_leaves_no_memory_behind() -> None:
    queue = Queue[Any](ctx=CONTEXT)
    queue.put({"first": set()})
    queue.get()
    before = private_memory()
    queue.put({"large": bytes(200 << 20)})
    queue.get()
    assert private_memory() - before < 100 << 20


@pytest.mark.parametrize("code", ["B", "b", "i", "d"])
def test_an_empty_memoryview_arrives(code: str) -> None:
    queue = Queue[memoryview](ctx=CONTEXT)
    queue.put(memoryview(array.array(code)))
    received = queue.get()
    assert (received.format, received.shape, received.readonly) == (code, (0,), False)


def test_a_memoryview_that_cannot_be_made_again_is_refused_by_put() -> None:
    queue = SimpleQueue[memoryview](ctx=CONTEXT)
    views = [memoryview(array.array("u", "text")), memoryview(bytearray(8)).cast("c")[:0]]
    for view in views:
        with pytest.raises(TypeError):
            queue.put(view)
    assert queue.empty()


def test_a_memoryview_arrives_with_its_shape() -> None:
    queue = Queue[memoryview](ctx=CONTEXT)
    source = memoryview(array.array("i", range(6))).cast("B").cast("i", (2, 3))
    queue.put(source)
    received = queue.get()
    assert received.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (received.format, received.shape, received.readonly) == ("i", (2, 3), False)


def test_buffers_out_of_band_are_writable_and_private() -> None:
    numpy = pytest.importorskip("numpy")
    queue = Queue[Any](ctx=CONTEXT)
    source = numpy.arange(100_000)
    queue.put(source)
    queue.put({"array": source, "twice": [source, source]})
    first, second = queue.get(), queue.get()
    assert (first == source).all() and (second["array"] == source).all()
    first[0] = 77
    assert source[0] == 0 and second["array"][0] == 0
    assert second["twice"][0] is second["twice"][1]


def test_a_read_only_array_arrives_writable() -> None:
    numpy = pytest.importorskip("numpy")
    queue = Queue[Any](ctx=CONTEXT)
    source = numpy.arange(100_000)
    source.setflags(write=False)
    queue.put(source)
    received = queue.get()
    received[0] = 5
    assert received[0] == 5 and source[0] == 0


class Sends:
    """An object whose reduction uses a queue itself."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __reduce__(self) -> Any:
        self.queue.put({"from": "inside"})
        return str, ("outside",)


def test_pickling_may_use_queues() -> None:
    inner, outer = Queue[Any](ctx=CONTEXT), Queue[Any](ctx=CONTEXT)
    outer.put([Sends(inner), Sends(inner)])
    assert outer.get() == ["outside", "outside"]
    assert [inner.get(), inner.get()] == [{"from": "inside"}] * 2


def test_threads_share_a_queue() -> None:
    queue = Queue[tuple[int, int]](ctx=CONTEXT)
    each, threads = 2_000, 8

    def produce(number: int) -> None:
        for position in range(each):
            queue.put((number, position))

    workers = [threading.Thread(target=produce, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    received = [queue.get() for _ in range(each * threads)]
    for worker in workers:
        worker.join()
    assert sorted(received) == [(n, p) for n in range(threads) for p in range(each)]
    for number in range(threads):
        assert [p for n, p in received if n == number] == list(range(each))
