"""One thing that goes wrong with a task, and that exactly this task has to report; the pool goes on.

    pool_errors.py --case result_cannot_be_unpickled --api multiprocessing --method fork

Prints the exception that came, and `usable` at the end.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pickle import PicklingError
from typing import Any

WORKERS = 2


# -- What is sent


class Unpicklable:
    def __reduce__(self) -> Any:
        raise PicklingError("this stays where it is")


class Unreadable:
    """Pickled well; whoever unpickles it gets an error."""

    def __reduce__(self) -> Any:
        return refuse, ()


class Deadly:
    """Whoever pickles it is gone."""

    def __reduce__(self) -> Any:
        os._exit(7)


class DeadlyToRead:
    """Whoever unpickles it is gone, if it is a worker."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return end_unless, (self.pid,)


class NeedsTwo(Exception):
    """Pickled well; cannot be made again from its arguments."""

    def __init__(self, one: object, other: object) -> None:
        super().__init__(f"{one} and {other}")


class HoldsLock(Exception):
    def __init__(self) -> None:
        super().__init__("an exception with a lock")
        self.lock = threading.Lock()


def refuse() -> None:
    raise RuntimeError("this cannot be read")


def end_unless(pid: int) -> int:
    if os.getpid() != pid:
        os._exit(8)
    return pid


# -- What tasks do


def take(item: object) -> str:
    return type(item).__name__


def make(kind: type) -> object:
    return kind()


def fail(kind: type, *arguments: object) -> None:
    raise kind(*arguments)


def leave(code: int) -> None:
    os._exit(code)


def leave_politely(code: int) -> None:
    sys.exit(code)


def die_of(number: int) -> None:
    faulthandler.disable()
    if number != signal.SIGKILL:  # which has no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pause()


def square(number: int) -> int:
    return number * number


# -- The cases: the task, and what has to come

Case = tuple[Callable[..., object], tuple[object, ...], Callable[[BaseException], bool]]


def is_a(kind: type, text: str = "") -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kind) and text in str(error)


def died(code: int | None = None, number: int | None = None) -> Callable[[BaseException], bool]:
    """A worker's death: by its exit code, or by the signal's number."""

    def fits(error: BaseException) -> bool:
        if not isinstance(error, BrokenProcessPool):
            return False
        told: Any = error
        expected = -number if number is not None else code
        return (told.signal, told.exitcode) == (number, expected) and bool(
            told.task and told.reason and told.pid
        )

    return fits


def cases() -> dict[str, Case]:
    lock = threading.Lock()
    return {
        "task_cannot_be_pickled": (take, (Unpicklable(),), is_a(PicklingError, "stays where it is")),
        "function_cannot_be_pickled": (lock.acquire, (), is_a((TypeError, PicklingError), "lock")),
        "argument_has_a_lock": (take, ([lock],), is_a(TypeError, "lock")),
        "task_cannot_be_unpickled": (take, (Unreadable(),), is_a(Exception, "cannot be read")),
        "result_cannot_be_pickled": (make, (Unpicklable,), is_a(Exception, "stays where it is")),
        "result_has_a_lock": (make, (threading.Lock,), is_a(Exception, "lock")),
        "result_cannot_be_unpickled": (make, (Unreadable,), is_a(Exception, "cannot be read")),
        "exception_cannot_be_pickled": (fail, (HoldsLock,), is_a(Exception, "lock")),
        "exception_cannot_be_unpickled": (fail, (NeedsTwo, 1, 2), is_a(Exception, "1 and 2")),
        "exit": (leave, (3,), died(3)),
        "exit_well": (leave, (0,), died(0)),
        "exit_while_pickling": (make, (Deadly,), died(7)),
        "exit_while_unpickling": (take, (DeadlyToRead(os.getpid()),), died(8)),
        "kill": (die_of, (signal.SIGKILL,), died(number=signal.SIGKILL)),
        "terminate": (die_of, (signal.SIGTERM,), died(number=signal.SIGTERM)),
        "crash": (die_of, (signal.SIGSEGV,), died(number=signal.SIGSEGV)),
        "system_exit": (leave_politely, (5,), lambda error: is_a(SystemExit)(error) or died(5)(error)),
        "keyboard_interrupt": (
            fail,
            (KeyboardInterrupt, "of the task"),
            lambda error: is_a((KeyboardInterrupt, BrokenProcessPool), "")(error),
        ),
    }


CASES = sorted(cases())


def pool_of(api: str, method: str) -> Any:
    context = multiprocessing.get_context(method)
    if api == "multiprocessing":
        return context.Pool(WORKERS)
    import weft

    ours: Any = weft
    return ours.Pool(WORKERS, context=context) if api == "weft" else ours.Executor(WORKERS, context)


def submitted(
    pool: Any, function: Callable[..., object], arguments: tuple[object, ...]
) -> Callable[[], object]:
    """How to get the result."""
    if hasattr(pool, "submit"):
        get: Callable[[], object] = pool.submit(function, *arguments).result
    else:
        get = pool.apply_async(function, arguments).get
    return get


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--api", choices=("multiprocessing", "weft", "executor"), default="multiprocessing")
    parser.add_argument("--method", default="fork")
    options = parser.parse_args()
    function, arguments, fits = cases()[options.case]
    pool = pool_of(options.api, options.method)
    before = [submitted(pool, square, (number,)) for number in range(50)]
    try:
        # weft.Pool may refuse at once what cannot be pickled.
        found = submitted(pool, function, arguments)()
    except BaseException as error:
        stage.say(f"{type(error).__qualname__}: {error}")
        if not fits(error):
            raise
    else:
        raise RuntimeError(f"no exception, but {found!r}")
    after = [submitted(pool, square, (number,)) for number in range(50)]
    for getters in (before, after):
        if [get() for get in getters] != [number * number for number in range(50)]:
            raise RuntimeError("other tasks have wrong results")
    if hasattr(pool, "submit"):
        pool.shutdown()
    else:
        pool.close()
        pool.join()
    stage.say("usable")


if __name__ == "__main__":
    main()
