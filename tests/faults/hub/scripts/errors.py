"""Everything that the hub calls raises, at random, while there is traffic: errors.py SEED ROUNDS."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any

from stage import descriptors, report, say
from weft.gevent import Greenlet, GreenletExit, Timeout, get_hub, sleep, spawn
from weft.gevent.event import AsyncResult, Event
from weft.gevent.hub import signal as signal_handler
from weft.gevent.lock import Semaphore
from weft.gevent.queue import Queue
from weft.gevent.server import StreamServer
from weft.gevent.socket import create_connection, socketpair

PATIENCE = 5.0


class Ordinary(Exception):
    """As most are."""


class Base(BaseException):
    """That is no Exception."""


TO_MAIN: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit)
KINDS: tuple[type[BaseException], ...] = (Ordinary, Base, GreenletExit, *TO_MAIN)


class Trial:
    """One kind of exception out of all that the hub calls, one after the other."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.kind: type[BaseException] = Ordinary
        self.raised = 0

    def fail(self, *_: object) -> Any:
        self.raised += 1
        raise self.kind("on purpose")

    # Each returns how often it is to be told of; the hub calls what fails while the caller waits.

    def callback(self) -> None:
        get_hub().loop.run_callback(self.fail)

    def callback_of_a_thread(self) -> None:
        get_hub().threadpool.apply(get_hub().loop.run_callback_threadsafe, (self.fail,))

    def timer(self) -> None:
        get_hub().loop.timer(0.0001).start(self.fail)

    def io_watcher(self) -> None:
        near, far = socketpair()
        watcher = get_hub().loop.io(near.fileno(), 1)

        def once() -> None:
            watcher.close()
            near.close()
            far.close()
            self.fail()

        watcher.start(once)
        far.send(b"x")

    def async_watcher(self) -> None:
        watcher = get_hub().loop.async_()

        def once() -> None:
            watcher.close()
            self.fail()

        watcher.start(once)
        watcher.send()

    def signal_watcher(self) -> None:
        def once() -> None:
            handler.cancel()
            self.fail()

        handler = signal_handler(signal.SIGUSR1, once)
        os.kill(os.getpid(), signal.SIGUSR1)

    def child_watcher(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        get_hub().loop.child(pid).start(self.fail)

    def link_of_greenlet(self) -> None:
        spawn(int).link(self.fail)

    def rawlink_of_greenlet(self) -> None:
        spawn(int).rawlink(self.fail)

    def rawlink_of_event(self) -> None:
        event = Event()
        event.rawlink(self.fail)
        # Those behind it are told all the same.
        event.rawlink(lambda _: self.told.append(event))
        self.expected_told += 1
        event.set()

    def rawlink_of_result(self) -> None:
        result: AsyncResult[int] = AsyncResult()
        result.rawlink(self.fail)
        result.set(1)

    def rawlink_of_semaphore(self) -> None:
        semaphore = Semaphore(0)
        semaphore.rawlink(self.fail)
        semaphore.release()

    def greenlet(self) -> None:
        spawn(self.fail)

    def task_of_a_thread(self) -> None:
        get_hub().threadpool.spawn(self.fail)

    told: list[object] = []
    expected_told = 0

    def all(self) -> list[Callable[[], object]]:
        return [
            self.callback,
            self.callback_of_a_thread,
            self.timer,
            self.io_watcher,
            self.async_watcher,
            self.signal_watcher,
            self.child_watcher,
            self.link_of_greenlet,
            self.rawlink_of_greenlet,
            self.rawlink_of_event,
            self.rawlink_of_result,
            self.rawlink_of_semaphore,
            self.greenlet,
            self.task_of_a_thread,
        ]


class Traffic:
    """What must not be disturbed."""

    def __init__(self) -> None:
        self.over = False
        self.got = 0
        self.greenlets = [spawn(self._talk), spawn(self._sleep)]

    def _talk(self) -> None:
        queue: Any = Queue(1)

        def put() -> None:
            number = 0
            while not self.over:
                queue.put(number)
                number += 1
                sleep(0.0002)
            queue.put(None)

        spawn(put)
        while (item := queue.get()) is not None:
            assert item == self.got
            self.got += 1

    def _sleep(self) -> None:
        while not self.over:
            sleep(0.0001)


def bad_streams() -> list[Any]:
    class Broken:
        def write(self, *_: object) -> None:
            raise OSError("broken")

        def flush(self) -> None:
            raise OSError("broken")

    closed = open(os.devnull, "w")
    closed.close()
    return [Broken(), closed, None, object()]


def main() -> None:
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    hub = get_hub()
    hub.threadpool.apply(abs, (-1,))
    traffic = Traffic()
    trial = Trial(rng)
    wrong: list[str] = []
    told: list[type[BaseException]] = []
    broke: list[type[BaseException]] = []  # where telling failed itself
    ordinary = type(hub).handle_error

    def handle_error(context: Any, kind: Any, value: Any, tb: Any) -> None:
        if issubclass(kind, KINDS):
            told.append(kind)
        if len(told) % 5 == 0 and not issubclass(kind, TO_MAIN):
            broke.append(kind)
            raise Ordinary("in handle_error")
        ordinary(hub, context, kind, value, tb)

    hub.handle_error = handle_error  # type: ignore[method-assign]
    before = 0
    for number in range(rounds):
        for deed in rng.sample(trial.all(), len(trial.all())):
            trial.kind = rng.choice(KINDS)
            if trial.kind is GreenletExit and deed in (trial.greenlet, trial.link_of_greenlet):
                continue  # which is no error there
            raised, heard, broken = trial.raised, len(told), len(broke)
            sys.stderr = rng.choice([*bad_streams(), open(os.devnull, "w")])
            came: list[type[BaseException]] = []
            try:
                deed()
                with Timeout(PATIENCE):
                    while trial.raised == raised or len(told) == heard:
                        sleep(0.0001)
            except KINDS as error:
                came.append(type(error))
            except Timeout:
                wrong.append(f"{deed.__name__} {trial.kind.__name__}: nobody was told")
            finally:
                sys.stderr = sys.__stderr__
            try:
                sleep(0.001)
            except KINDS as error:
                came.append(type(error))
            # What handlers of signals raise goes to the main greenlet, whatever it is.
            to_main = trial.kind in TO_MAIN or deed == trial.signal_watcher
            expected = [trial.kind] if to_main else []
            if len(broke) > broken:
                # It may be told of that in turn.
                fine = told[heard] is trial.kind and came in ([], expected)
            else:
                fine = told[heard:] == [trial.kind] and came == expected
            if not fine:
                wrong.append(f"{deed.__name__} {trial.kind.__name__}: came {came}, told {told[heard:]}")
        if number == 0:
            before = descriptors()
        say(f"{number} {wrong[:3]}")
    servers = handlers_that_fail(told)
    finalizers = finalizers_that_fail()
    traffic.over = True
    with Timeout(PATIENCE):
        for each in traffic.greenlets:
            each.get()
    gc.collect()
    hub.threadpool.kill()
    sleep(0)
    report(
        wrong=wrong[:10],
        moved=traffic.got,
        servers=servers,
        finalizers=finalizers,
        untold=trial.expected_told - len(trial.told),
        active=hub.loop.activecnt,
        descriptors=descriptors() - before,
    )


def handlers_that_fail(told: list[type[BaseException]]) -> int:
    """How many connections to a server whose handlers raise were not closed and told of."""
    before = len(told)

    def handle(_sock: Any, _address: Any) -> None:
        raise Ordinary

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    sys.stderr = open(os.devnull, "w")
    unclosed = 0
    for _ in range(20):
        with create_connection(("127.0.0.1", server.server_port)) as sock:
            unclosed += sock.recv(1) != b""
    sys.stderr = sys.__stderr__
    server.stop()
    return unclosed + 20 - (len(told) - before)


def finalizers_that_fail() -> int:
    """How many finalizers and callbacks of weak references, run in the hub, were not reported by the interpreter."""
    reported: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, reported.append

    class Bad:
        def __del__(self) -> None:
            raise Ordinary

    class Referred:
        pass

    def complain(_: object) -> None:
        raise Ordinary

    references = []
    for _ in range(20):
        spawn(lambda _bad: None, Bad())
        referred = Referred()
        references.append(weakref.ref(referred, complain))
        get_hub().loop.run_callback(lambda _referred: None, referred)
        del referred
        ended = Greenlet.spawn(int)
        ended.bad = Bad()  # type: ignore[attr-defined]
        del ended
        sleep(0)
        sleep(0)
    gc.collect()
    sys.unraisablehook = hook
    return 60 - len(reported)


if __name__ == "__main__":
    main()
