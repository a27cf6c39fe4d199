"""What shared objects do, by way of their proxies."""

from __future__ import annotations

import queue
import threading

import pytest
import weft
from things import Custom, Never, iterate
from weft.multiprocessing import get_context
from weft.multiprocessing.managers import RemoteError, SyncManager


@pytest.fixture(scope="module")
def shared() -> SyncManager:
    with Custom() as started:
        yield started


def test_a_dictionary_does_what_a_dictionary_does(shared: SyncManager) -> None:
    d, model = shared.dict({"a": 1}), {"a": 1}
    for key in ("a", 1, 1.5, None, (1, "x"), b"b", frozenset({1})):
        d[key] = model[key] = [key, {"deep": key}]
    assert d.copy() == model
    assert (len(d), "a" in d, "z" in d, d.get("z"), d.get("z", 3)) == (len(model), True, False, None, 3)
    assert d.pop("a") == model.pop("a")
    del d[1], model[1]
    assert sorted(map(repr, d)) == sorted(map(repr, model))
    assert (list(d.keys()), list(d.values()), list(d.items())) == (
        [*model],
        [*model.values()],
        [*model.items()],
    )
    d.update({"u": 1}, v=2)
    assert (d["u"], d["v"], d.setdefault("u", 5), d.setdefault("w", 6)) == (1, 2, 1, 6)
    assert str(d) == str(d.copy())
    with pytest.raises(KeyError, match="nothing"):
        d["nothing"]
    d.clear()
    assert not d.copy()
    with pytest.raises(KeyError):
        d.popitem()


def test_values_of_every_size_arrive(shared: SyncManager) -> None:
    d = shared.dict()
    for size in (0, 1, 1500, 1900, 2000, 16_000, 17_000, 300_000, 3_000_000):
        for value in (b"b" * size, "s" * size, list(range(size // 100)), bytearray(size)):
            d["value"] = value
            assert d["value"] == value


LARGE = [
    dict.fromkeys(range(5000), 1),
    {number: number for number in range(100_000)},
    {f"key {number}": number / 2 for number in range(1000)},
    {number: (None, True, 1, 2.5, "x", b"y")[number % 6] for number in range(1000)},
    {str(number): [number] for number in range(1000)},
    {(number, "x"): 2**70 for number in range(200)},
]


@pytest.mark.parametrize("large", LARGE, ids=lambda large: f"{len(large)} {next(iter(large.items()))}")
def test_large_dictionaries_come_and_go(shared: SyncManager, large: dict[object, object]) -> None:
    d = shared.dict(large)
    assert d.copy() == large
    d.clear()
    assert d.update(large) is None
    assert d.copy() == large
    assert (d.keys(), d.values(), d.items()) == ([*large], [*large.values()], [*large.items()])
    assert [*d] == [*large]
    # What is there already is replaced, the rest stays, and so do the keys themselves.
    d.clear()
    d["first"] = 1
    first = next(iter(large))
    d[first] = "replaced"
    d.update(large)
    assert d.copy() == {"first": 1, **large}
    d.update(large, more=2)
    assert d["more"] == 2
    items = shared.list()
    items.extend([*large.items()])
    assert items[:] == [*large.items()]


def test_a_key_with_an_equality_of_its_own_is_asked_by_a_large_update(shared: SyncManager) -> None:
    d = shared.dict()
    d[Never(5)] = 1
    with pytest.raises(ZeroDivisionError):
        d.update({number: number for number in range(100)})
    with pytest.raises(ZeroDivisionError):
        d[5]


def test_calls_with_arguments_that_do_not_fit(shared: SyncManager) -> None:
    d = shared.dict()
    for length in range(60):
        d["k" * length] = "v" * length
        assert d["k" * length] == "v" * length
        assert d.get("n" * length, "d" * length) == "d" * length
        assert "k" * length in d
    for value in (
        2**63 - 1,
        -(2**63),
        2**63,
        127,
        128,
        -128,
        -129,
        1e300,
        "\ud800",
        "\N{GRINNING FACE}",
        b"",
    ):
        d[value] = value
        assert (d[value], type(d[value])) == (value, type(value))
    d[1] = "one"
    assert (d[True], d[1.0]) == ("one", "one")
    for key in (1, "x" * 10, None, 2.5, (1, 2)):
        with pytest.raises(KeyError) as raised:
            shared.dict()[key]
        assert raised.value.args == (key,)
    with pytest.raises(TypeError, match="exactly one argument"):
        d.__getitem__(1, 2)
    with pytest.raises(TypeError, match="unhashable"):
        d[[]]


def test_attributes_of_namespaces_are_found_as_in_the_standard_library(shared: SyncManager) -> None:
    names = shared.Namespace(x=1)
    names._own = 2
    assert (names._own, names.x, "_own" in names.__dict__) == (2, 1, True)
    with pytest.raises(AttributeError, match="_other"):
        names._other
    with pytest.raises(AttributeError, match="other"):
        names.other
    assert getattr(names, "other", 3) == 3
    assert not hasattr(names, "other")
    # An attribute of the proxy itself comes first, however it came there.
    object.__setattr__(names, "x", "here")
    assert names.x == "here"
    object.__delattr__(names, "x")
    assert names.x == 1
    seen: list[str] = []

    class Seeing(type(names)):  # type: ignore[misc]
        @property
        def wide(self) -> str:
            return "property"

        def __getattr__(self, key: str) -> object:
            if not key.startswith("_"):
                seen.append(key)
            return super().__getattr__(key)

    token = names._token
    mine = Seeing(token, names._serializer, authkey=names._authkey)
    assert (mine.x, mine.wide, seen) == (1, "property", ["x"])


def test_a_list_does_what_a_list_does(shared: SyncManager) -> None:
    items, model = shared.list(range(5)), [*range(5)]
    items.append(5)
    items.extend([6, 7])
    items += [8]
    model += [5, 6, 7, 8]
    assert (items[0], items[-1], items[2:4], len(items)) == (0, 8, [2, 3], 9)
    assert [*items] == model
    items[0] = "zero"
    del items[1]
    assert items[:] == ["zero", *model[2:]]
    assert items.pop() == 8
    items.reverse()
    assert items.index("zero") == 6
    with pytest.raises(IndexError):
        items[100]


def test_a_set_does_what_a_set_does(shared: SyncManager) -> None:
    s = shared.set([1, 2])
    s.add(3)
    s |= {4}
    s.discard(1)
    assert (len(s), 2 in s, 1 in s, sorted(s), s & {2, 9}) == (3, True, False, [2, 3, 4], {2})


def test_namespaces_values_and_arrays(shared: SyncManager) -> None:
    names = shared.Namespace(x=1)
    names.y = [2]
    assert (names.x, names.y) == (1, [2])
    del names.x
    with pytest.raises(AttributeError, match="x"):
        names.x
    value = shared.Value("i", 3)
    value.value = 4
    assert value.value == 4
    numbers = shared.Array("i", [1, 2, 3])
    numbers[1] = 7
    assert (list(numbers[:]), len(numbers)) == ([1, 7, 3], 3)


def test_queues(shared: SyncManager) -> None:
    q = shared.Queue(2)
    q.put(1)
    q.put(2)
    with pytest.raises(queue.Full):
        q.put(3, False)
    with pytest.raises(queue.Full):
        q.put(3, timeout=0.001)
    assert (q.get(), q.get_nowait(), q.empty(), q.qsize()) == (1, 2, True, 0)
    with pytest.raises(queue.Empty):
        q.get(timeout=0.001)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    with pytest.raises(ValueError, match="non-negative"):
        q.get(timeout=-1)
    q.task_done()
    q.task_done()
    q.join()
    with pytest.raises(ValueError, match="too many"):
        q.task_done()


def test_a_call_that_blocks_holds_nobody_up(shared: SyncManager) -> None:
    gate, q, d = shared.Gate(), shared.Queue(), shared.dict()
    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(gate.pass_through())),
        threading.Thread(target=lambda: got.append(q.get())),
    ]
    for thread in threads:
        thread.start()
    for number in range(100):
        d[number] = number
    assert not got
    q.put("put")
    gate.open()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["put", "through"]  # type: ignore[type-var]


def test_a_thread_of_a_client_is_one_thread_in_the_server(shared: SyncManager) -> None:
    lock = shared.RLock()
    assert lock.acquire()
    assert lock.acquire()
    refused: list[object] = []
    thread = threading.Thread(target=lambda: refused.append(lock.acquire(False)))
    thread.start()
    thread.join()
    assert refused == [False]
    lock.release()
    lock.release()
    counter = shared.Counter()
    assert counter.thread() == counter.thread()
    with pytest.raises(RuntimeError):
        lock.release()


def test_custom_objects(shared: SyncManager) -> None:
    counter = shared.Counter(3)
    assert (counter.up(), counter.up(by=5)) == (4, 9)
    assert counter.process() == shared._process.pid
    with pytest.raises(LookupError, match="as told"):
        counter.fail()
    with pytest.raises(RemoteError, match="Unserializable"):
        counter.unpicklable()
    with pytest.raises(RemoteError, match="not in exposed"):
        counter._callmethod("_hidden")
    assert not hasattr(counter, "_hidden")
    assert counter.up() == 10


def test_objects_in_objects_are_the_same_objects(shared: SyncManager) -> None:
    inner, outer = shared.list(), shared.dict()
    outer["inner"] = inner
    outer["inner"].append(1)
    inner.append(2)
    assert [*outer["inner"]] == [1, 2]
    del inner
    assert [*outer["inner"]] == [1, 2]


def test_objects_of_the_server_may_use_each_other(shared: SyncManager) -> None:
    caller, items, item, q, d = shared.Caller(), shared.list(), ["yours"], shared.Queue(), shared.dict()
    # What is given is copied there, as between processes.
    assert caller.append(items, item) == [["yours"]]
    assert [*items] == [["yours"]]
    thread = threading.Thread(target=lambda: d.update(got=caller.wait(q)))
    thread.start()
    q.put("put")
    thread.join()
    assert d["got"] == "put"
    assert (caller.count(d), caller.count(d), d["count"]) == (1, 2, 2)


def test_iterators(shared: SyncManager) -> None:
    assert [*shared.numbers(10)] == [*range(10)]
    big = shared.dict(dict.fromkeys(range(10_000)))
    assert [*big] == [*range(10_000)]
    with pytest.raises(RuntimeError, match="changed size"):
        for key in big:
            del big[key]


def test_arguments_by_name_and_in_lists(shared: SyncManager) -> None:
    items = shared.list([3, 1, 2])
    items.sort(reverse=True)
    assert [*items] == [3, 2, 1]
    assert items._callmethod("__getitem__", [0]) == 3
    with pytest.raises(TypeError):
        items.append()
    with pytest.raises(TypeError):
        items.append(nothing=1)


def test_what_cannot_be_pickled_is_said_at_once(shared: SyncManager) -> None:
    d = shared.dict()
    with pytest.raises(Exception, match=r"pickle|local object"):
        d["x"] = lambda: None
    d["x"] = 1
    assert d["x"] == 1


def test_references_are_counted(manager: SyncManager) -> None:
    assert manager._number_of_objects() == 0
    d = manager.dict()
    items = manager.list()
    assert manager._number_of_objects() == 2
    d["items"] = items
    identity = items._token.id
    del items
    assert manager._number_of_objects() == 1
    assert [*d["items"]] == []
    del d
    assert manager._number_of_objects() == 0
    again = [manager.list() for _ in range(5)]
    assert identity not in {proxy._token.id for proxy in again}


def test_an_override_of_callmethod_is_called(shared: SyncManager) -> None:
    d = shared.dict()
    called: list[str] = []

    class Watched(type(d)):  # type: ignore[misc]
        def _callmethod(self, methodname: str, args: object = (), kwds: object = {}) -> object:
            called.append(methodname)
            return super()._callmethod(methodname, args, kwds)

    watched = Watched(d._token, "pickle", manager=shared, authkey=shared._authkey)
    watched["x"] = 1
    assert (watched["x"], len(watched), called) == (1, 1, ["__setitem__", "__getitem__", "__len__"])


def test_the_public_names() -> None:
    assert issubclass(weft.ManagerDied, EOFError)
    assert issubclass(weft.ManagerDied, ConnectionError)
    assert issubclass(weft.ManagerDied, weft.ProcessDied)


def test_iterating_in_a_process_that_did_not_start_the_manager(manager: SyncManager) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    d = manager.dict(a=1, b=2)
    process = context.Process(target=iterate, args=(d, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == ["a", "b"]
    process.join()
