"""Blocks in one call of a lock; SIGINT must raise KeyboardInterrupt there and leave everything usable.

    interrupt_locks.py --call lock --method fork

Prints `blocks` when it is about to, `interrupted` when the exception came, `usable` at the end.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import multiprocessing
from typing import Any

FOR_EVER = 10_000  # seconds, for the calls with a timeout


def hold(lock: Any, rlock: Any, ready: Any, end: Any) -> None:
    """Another process that has both."""
    with lock, rlock:
        ready.release()
        end.acquire()


def use(calls: Any, done: Any) -> None:
    with calls["lock"], calls["rlock"], calls["condition"]:
        calls["condition"].notify_all()
    calls["event"].set()
    calls["barrier"].wait()
    done.release()


class Calls:
    """The blocking calls by their names; each blocks until it is interrupted."""

    def __init__(self, context: Any) -> None:
        self.shared = {
            "lock": context.Lock(),
            "rlock": context.RLock(),
            "condition": context.Condition(),
            "event": context.Event(),
            "barrier": context.Barrier(2),
        }
        self.none = context.Semaphore(0)

    def lock(self) -> None:
        self.shared["lock"].acquire()

    def lock_timeout(self) -> None:
        self.shared["lock"].acquire(True, FOR_EVER)

    def lock_with(self) -> None:
        with self.shared["lock"]:
            pass

    def rlock(self) -> None:
        self.shared["rlock"].acquire()

    def rlock_with(self) -> None:
        with self.shared["rlock"]:
            pass

    def semaphore(self) -> None:
        self.none.acquire()

    def condition(self) -> None:
        with self.shared["condition"]:
            self.shared["condition"].wait()

    def condition_timeout(self) -> None:
        with self.shared["condition"]:
            self.shared["condition"].wait(FOR_EVER)

    def condition_wait_for(self) -> None:
        with self.shared["condition"]:
            self.shared["condition"].wait_for(lambda: False)

    def event(self) -> None:
        self.shared["event"].wait()

    def event_timeout(self) -> None:
        self.shared["event"].wait(FOR_EVER)

    def barrier(self) -> None:
        self.shared["barrier"].wait()

    def barrier_timeout(self) -> None:
        self.shared["barrier"].wait(FOR_EVER)


CALLS = sorted(name for name in vars(Calls) if not name.startswith("_"))


def main() -> None:
    options = stage.interrupted_call(CALLS)
    context: Any = multiprocessing.get_context(options.method)
    calls = Calls(context)
    shared = calls.shared
    ready, end, done = context.Semaphore(0), context.Semaphore(0), context.Semaphore(0)
    # A program's own children get the terminal's Ctrl-C as well; here only the program is hit.
    holder = context.Process(target=hold, args=(shared["lock"], shared["rlock"], ready, end))
    holder.start()
    ready.acquire()
    stage.be_interrupted(getattr(calls, options.call), options.times)

    # Everything still works, here and in a child.
    assert shared["lock"].acquire(False) is False and shared["rlock"].acquire(False) is False
    end.release()
    holder.join()
    assert holder.exitcode == 0, holder.exitcode
    assert "None" in repr(shared["lock"]) and "None" in repr(shared["rlock"])
    assert calls.none.get_value() == 0
    condition, barrier = shared["condition"], shared["barrier"]
    assert condition._sleeping_count.get_value() == condition._woken_count.get_value()
    assert barrier.n_waiting == 0 and not barrier.broken
    child = context.Process(target=use, args=(shared, done))
    with condition:
        child.start()
        assert condition.wait(60)
    assert shared["event"].wait(60)
    barrier.wait()
    done.acquire()
    child.join()
    assert child.exitcode == 0, child.exitcode
    stage.say("usable")


if __name__ == "__main__":
    main()
