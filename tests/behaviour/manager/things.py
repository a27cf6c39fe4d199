"""Classes and functions that servers and other processes have to find by name."""

from __future__ import annotations

import os
import queue
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from weft.multiprocessing._manager_server import Server
from weft.multiprocessing.managers import BaseManager, SyncManager, batch


class Getters:
    """Threads of this process that wait at a queue, and what becomes of them."""

    def __init__(self, q: Any, count: int) -> None:
        self.errors: list[BaseException] = []
        self._q = q
        self._threads = [threading.Thread(target=self._get) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _get(self) -> None:
        try:
            self._q.get()
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


@contextmanager
def alarm() -> Iterator[None]:
    """Soon, a signal handler raises InterruptedError."""

    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


class Counter:
    """A custom shared object."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def up(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def thread(self) -> int:
        return threading.get_ident()

    def process(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise LookupError("as told")

    def unpicklable(self) -> Any:
        return lambda: None

    def _hidden(self) -> None:
        raise AssertionError("it is not exposed")


class Never:
    """A key that is as likely in a dictionary as an integer, and cannot be compared."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


class Caller:
    """Uses other objects of the same server."""

    def append(self, items: Any, item: Any) -> list[Any]:
        items.append(item)
        item.append("mine")
        return list(items[:])

    def wait(self, queue: Any) -> Any:
        return queue.get()

    def count(self, shared: Any) -> int:
        return shared.add("count")


class Gate:
    """Something that blocks until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def pass_through(self) -> str:
        self._open.wait()
        return "through"

    def open(self) -> None:
        self._open.set()


def numbers(most: int) -> Any:
    yield from range(most)


class Custom(SyncManager):
    """A manager with more."""


Custom.register("Counter", Counter)
Custom.register("Gate", Gate)
Custom.register("Caller", Caller)
Custom.register("numbers", numbers, proxytype=SyncManager._registry["Iterator"][-1])


class Remote(BaseManager):
    """Its objects are found by clients that connect."""


_shared: dict[str, Any] = {}
Remote.register("shared", lambda: _shared, SyncManager._registry["dict"][-1])
Remote.register("inbox", queue.Queue)
Remote.register("Iterator", proxytype=SyncManager._registry["Iterator"][-1], create_method=False)


def appended(value: list[Any], item: Any) -> list[Any]:
    return [*value, item]


def failing(value: Any) -> Any:
    raise ZeroDivisionError(value)


def take(queue: Any, answer: Any) -> None:
    answer.send("begun")
    answer.send(queue.get())


def take_in_a_batch(queue: Any, count: int, answer: Any) -> None:
    calls = batch(queue)
    for _ in range(count):
        calls.get()
    answer.send("begun")
    calls.run()


def hold(lock: Any, answer: Any) -> None:
    lock.acquire()
    answer.send("held")
    signal.pause()


def hold_and_leave(lock: Any) -> None:
    lock.acquire()


def add_up(shared: Any, key: str, times: int) -> None:
    for _ in range(times):
        shared.add(key)
        shared.update_with(key + "2", int.__add__, 1, default=0)


def wait_for(condition: Any) -> None:
    """Until it is true; the watchdog of the tests ends it otherwise."""
    while not condition():
        time.sleep(0.001)


def keep(proxy: Any, answer: Any) -> None:
    answer.send(len(proxy))
    signal.pause()


def call_of_dead(proxy: Any, answer: Any) -> None:
    try:
        answer.send("begun")
        proxy.get()
    except Exception as error:
        answer.send(
            (
                type(error).__name__,
                str(error),
                isinstance(error, EOFError),
                isinstance(error, ConnectionError),
            )
        )


# -- Ends


def what_it_raises(call: Any) -> Any:
    """What of the exception can be told to another process: its classes, pid, signal, text."""
    try:
        call()
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return kinds, getattr(error, "pid", None), getattr(error, "signal", None), str(error)
    return None


def use_late(proxy: Any, answer: Any) -> None:
    answer.send(what_it_raises(lambda: proxy.copy()))


def connect_and_wait(address: Any, key: bytes, answer: Any) -> None:
    """A client that knows the address alone."""
    manager = Remote(address, key)
    manager.connect()
    inbox = manager.inbox()
    answer.send(inbox.qsize())
    answer.send(what_it_raises(inbox.get))


# -- Locks


def acquire_and_stay(lock: Any, times: int, answer: Any) -> None:
    for _ in range(times):
        lock.acquire()
    answer.send("held")
    signal.pause()


def acquire_and_leave(lock: Any) -> None:
    lock.acquire()


def acquire_and_drop_dead(lock: Any, code: int) -> None:
    lock.acquire()
    os._exit(code)


def wait_at_condition(condition: Any, answer: Any) -> None:
    condition.acquire()
    # With the lock held: who gets it next knows that this one waits.
    answer.send("waits")
    answer.send(condition.wait())


def wait_at_barrier(barrier: Any, answer: Any) -> None:
    answer.send("waits")
    barrier.wait()


# -- What the serving thread must not do

GATE = threading.Event()


def pass_the_gate() -> str:
    GATE.wait()
    return "passed"


class Stuck:
    """Its unpickling in the server takes until the gate is opened."""

    def __reduce__(self) -> Any:
        return pass_the_gate, ()


class StuckKey:
    """Equal to nothing, which is found out when the gate is open."""

    def __hash__(self) -> int:
        return hash(5)

    def __eq__(self, other: object) -> bool:
        GATE.wait()
        return False


class Porter:
    """What goes on in the server."""

    def open(self) -> None:
        GATE.set()

    def waiting(self, queue: Any) -> int:
        """How many threads wait for an item."""
        return len(_object_of(queue).not_empty._waiters)


def _object_of(proxy: Any) -> Any:
    from multiprocessing import process

    server: Any = process.current_process()._manager_server  # type: ignore[attr-defined]
    return server.id_to_obj[proxy._token.id][0]


Custom.register("Porter", Porter)


# -- Servers with small limits


class Strict(Server):
    """Hears few strangers at a time."""

    most_unproven = 10


class Impatient(SyncManager):
    """Its server does not wait long."""

    _Server = Strict
    handshake_timeout = 0.2
    longest_message = 10_000


def few_descriptors(most: int) -> None:
    """An initializer of servers."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def call_until_told(shared: Any, answer: Any) -> None:
    """Calls whose lane somebody else spoils."""
    answer.send(os.getpid())
    seen = 0
    while not answer.poll():
        try:
            shared["marker-of-the-lane"] = b"spoil me" * 20
            shared.get("marker-of-the-lane")
            shared.update({"nested": [1, {"x": (2, 3)}]})
        except Exception:
            seen += 1
    answer.send(seen)


def iterate(shared: Any, answer: Any) -> None:
    answer.send(sorted(shared))
