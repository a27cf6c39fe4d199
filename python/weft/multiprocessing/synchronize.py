"""Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event and Barrier, as `multiprocessing.synchronize` has them.

The locks themselves are `weft._native._sync`'s, words of shared memory that say who holds them; here are the manners of
the standard library. What differs from it:

* Nobody waits for ever because somebody died. A process that is killed with a Lock or RLock leaves it behind: one
  of those that want it, or the next one, gets `weft.OwnerDied`, and it is free then. A Lock that a process holds when it
  ends normally stays taken, as there, for another one to release; an RLock, which nobody else could release, does not.
  Semaphores have no owner.
* A waiter of a Condition that is killed takes no notification along. A Barrier breaks if one that waits in it is killed.
* After a fork by `os.fork`, too, what the parent holds is the parent's.
* A lock has a name in the system only when it is asked for (`_semlock.name`).

Semantics: https://docs.python.org/3/library/multiprocessing.html#synchronization-primitives
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from multiprocessing import context, process, util
from typing import TYPE_CHECKING, Any

from weft import _native
from weft.multiprocessing import errors, queues
from weft.multiprocessing._sync import BarrierBase, ConditionBase, EventBase, Guard, end_normally
from weft.multiprocessing._sync import SemLock as _NativeSemLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

__all__ = ["BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

RECURSIVE_MUTEX, SEMAPHORE = range(2)
SEM_VALUE_MAX = _NativeSemLock.SEM_VALUE_MAX


# -- How a process ends


class _Ending:
    """Says at the normal end of a process that it was one. After all other finalizers, which may release locks."""

    def __init__(self) -> None:
        self.register()
        # The finalizers of a started process are its own: those that it was born with are dropped.
        util.register_after_fork(self, _Ending.register)

    def register(self) -> None:
        util.Finalize(None, end_normally, exitpriority=-sys.maxsize)


_ending = _Ending()


def _owner_died(pid: int) -> errors.OwnerDied:
    """What to raise for the death of a lock's holder; its name and end are known if it was this process's child."""
    for child in list(vars(process)["_dangling"]):
        if not child._closed and child._parent_pid == os.getpid() and child.pid == pid:
            return errors.OwnerDied(pid, child.name, child.exitcode)
    return errors.OwnerDied(pid)


# -- How an object reaches another process


class _Passed:
    """What can be passed on to a child that is being started, and inherited by a fork."""

    _handle: Callable[[], tuple[int, int, int]]
    _is_fork_ctx: bool

    def _passed_on(self) -> tuple[tuple[int, int, int], Any]:
        """Where the object is, and what the other process needs to get there."""
        context.assert_spawning(self)
        if self._is_fork_ctx:
            raise RuntimeError(queues.FORK_ONLY)
        place, segment, _ = queues._passed_on(self)
        return place, segment

    def _extra(self) -> None:
        """Nothing else has to reach the other process."""


def _received(passed: tuple[tuple[int, int, int], Any]) -> tuple[int, int, int]:
    """In the other process: where the object is, which can be attached now."""
    place, segment = passed
    _native.attach_arena(place[0], segment.detach)
    return place


# -- Locks and semaphores


class _SemLock(_NativeSemLock):
    """What `_semlock` is."""

    _name: str | None = None
    _is_named = True  # False: in a fork context, where the standard library's has no name either

    @property
    def handle(self) -> int:
        """Which lock it is, for `_rebuild`."""
        arena, unit, generation = self._handle()
        return arena << 96 | unit << 64 | generation

    @property
    def name(self) -> str | None:
        """A name of the system's that belongs to this lock as long as it lives; None in a fork context."""
        if self._name is None and self._is_named:
            self._name = _reserve_name(self)
        return self._name

    @classmethod
    def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None) -> _SemLock:
        """The lock that has this handle, in this process or one that it was passed on to."""
        lock: _SemLock = cls()
        place = handle >> 96, handle >> 64 & 0xFFFFFFFF, handle & 0xFFFFFFFFFFFFFFFF
        try:
            lock._attach(place, kind, maxvalue == 1)
        except OSError:
            lock._attach(place, kind, False)
        lock._name = name
        lock._is_named = name is not None
        return lock


def _revive_tracker() -> None:
    """If there is a resource tracker, and it was killed, start it again, as making a lock does in the standard library."""
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None and tracker._resource_tracker._fd is not None:
        tracker.ensure_running()


def _reserve_name(lock: _SemLock) -> str:
    """Make a named semaphore that stands for the lock where only a name will do, such as to the resource tracker."""
    import _multiprocessing  # type: ignore[import-not-found, unused-ignore]
    from itertools import count
    from multiprocessing.resource_tracker import register

    prefix = vars(process.current_process())["_config"]["semprefix"]
    for number in count():
        name = f"{prefix}-weft{lock.handle & 0xFFFFFFFF:x}-{number}"
        try:
            _multiprocessing.SemLock(SEMAPHORE, 0, 1, name, False)
            break
        except FileExistsError:
            continue
    register(name, "semaphore")
    util.Finalize(lock, _give_name_back, (name,), exitpriority=0)
    return name


def _give_name_back(name: str) -> None:
    import _multiprocessing
    from multiprocessing.resource_tracker import unregister

    _multiprocessing.sem_unlink(name)
    unregister(name, "semaphore")


class SemLock(Guard, _Passed):
    """What the locks and semaphores have in common.

    `acquire(block=True, timeout=None)` and `release()` are those of `_semlock`.
    """

    _semlock: _SemLock
    _is_owned = False
    acquire: Callable[..., bool]
    release: Callable[[], None]

    def __init__(self, kind: int, value: int, maxvalue: int, *, ctx: BaseContext | None) -> None:
        if ctx is None:
            ctx = vars(context)["_default_context"].get_context()
        self._is_fork_ctx = ctx.get_start_method() == "fork"
        lock = _SemLock()
        lock._create(kind, value, maxvalue, self._is_owned)
        if self._is_fork_ctx:
            lock._is_named = False
        else:
            _revive_tracker()
        self._semlock = lock
        util.debug("created semlock with handle %s", lock.handle)
        self._make_methods()

    def _make_methods(self) -> None:
        self.acquire = self._semlock.acquire
        self.release = self._semlock.release

    def _handle(self) -> tuple[int, int, int]:
        return self._semlock._handle()

    def __getstate__(self) -> Any:
        passed = self._passed_on()
        lock = self._semlock
        return passed, lock.kind, lock._is_owned, lock.recovers, lock._name, lock._is_named

    def __setstate__(self, state: Any) -> None:
        passed, kind, owned, recovers, name, is_named = state
        lock = _SemLock()
        lock._attach(_received(passed), kind, owned)
        if recovers:
            lock.recovers = True
        if name is not None:
            lock._name = name
        if not is_named:
            lock._is_named = False
        self._semlock = lock
        util.debug("recreated blocker with handle %r", lock.handle)
        self._make_methods()
        self._is_fork_ctx = False

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.__getstate__())

    def _owner_name(self) -> str:
        """Who holds it, as the standard library says it."""
        lock = self._semlock
        if lock._is_mine():
            name = process.current_process().name
            thread = threading.current_thread().name
            return name if thread == "MainThread" else f"{name}|{thread}"
        if lock._get_value() == 1:
            return "None"
        return "SomeOtherThread" if lock._count() > 0 else "SomeOtherProcess"


def _rebuilt(cls: Any, state: Any) -> Any:
    rebuilt = cls.__new__(cls)
    rebuilt.__setstate__(state)
    return rebuilt


class Semaphore(SemLock):
    """A semaphore: `value` is how often it can be acquired before it is released."""

    def __init__(self, value: int = 1, *, ctx: BaseContext | None) -> None:
        super().__init__(SEMAPHORE, value, SEM_VALUE_MAX, ctx=ctx)

    def get_value(self) -> int:
        """How often it can be acquired now. Other processes go on."""
        return self._semlock._get_value()

    def _value_text(self) -> object:
        try:
            return self._semlock._get_value()
        except (AttributeError, RuntimeError):  # not initialised
            return "unknown"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self._value_text()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that may not be released oftener than acquired: ValueError then."""

    def __init__(self, value: int = 1, *, ctx: BaseContext | None) -> None:
        SemLock.__init__(self, SEMAPHORE, value, value, ctx=ctx)

    def __repr__(self) -> str:
        value = self._value_text()
        return f"<{type(self).__name__}(value={value}, maxvalue={self._semlock.maxvalue})>"


class Lock(SemLock):
    """A lock that any process or thread may release, whoever acquired it."""

    _is_owned = True

    def __init__(self, *, ctx: BaseContext | None) -> None:
        super().__init__(SEMAPHORE, 1, 1, ctx=ctx)

    def __repr__(self) -> str:
        try:
            name = self._owner_name()
        except (AttributeError, RuntimeError):  # not initialised
            name = "unknown"
        return f"<{type(self).__name__}(owner={name})>"


class RLock(SemLock):
    """A lock that the thread which acquired it may acquire again, and must release as often."""

    _is_owned = True

    def __init__(self, *, ctx: BaseContext | None) -> None:
        super().__init__(RECURSIVE_MUTEX, 1, 1, ctx=ctx)

    def __repr__(self) -> str:
        count: object
        try:
            name = self._owner_name()
            if self._semlock._is_mine():
                count = self._semlock._count()
            else:
                count = 0 if name == "None" else "nonzero"
        except (AttributeError, RuntimeError):  # not initialised
            name = count = "unknown"
        return f"<{type(self).__name__}({name}, {count})>"


# -- Condition


class _View:
    """A number of a condition, where the standard library has a semaphore."""

    def __init__(self, value: Callable[[], int]) -> None:
        self.get_value = value

    @property
    def _semlock(self) -> _View:
        return self

    def _get_value(self) -> int:
        return self.get_value()

    def _is_zero(self) -> bool:
        return self.get_value() == 0

    def __repr__(self) -> str:
        return f"<Semaphore(value={self.get_value()})>"


class Condition(ConditionBase, _Passed):
    """A condition variable under `lock`, an RLock of its own by default.

    `wait(timeout=None)` and `notify(n=1)` are the native class's, as long as the lock is weft's.
    """

    _lock: Any
    acquire: Callable[..., bool]
    release: Callable[[], None]

    def __init__(self, lock: Any = None, *, ctx: BaseContext) -> None:
        self._is_fork_ctx = ctx.get_start_method() == "fork"
        self._lock = lock or ctx.RLock()
        self._create()
        self._make_methods()
        self._bind_native()

    def __getstate__(self) -> Any:
        return self._passed_on(), self._lock

    def __setstate__(self, state: Any) -> None:
        passed, self._lock = state
        self._attach(_received(passed))
        self._is_fork_ctx = False
        self._make_methods()
        self._bind_native()

    def _bind_native(self) -> None:
        """Let waits go to the lock without Python in between, if it is one of ours and behaves as such."""
        lock = self._lock
        if isinstance(lock, SemLock) and (lock.acquire, lock.release) == (
            lock._semlock.acquire,
            lock._semlock.release,
        ):
            self._bind(lock._semlock)

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.__getstate__())

    def _make_methods(self) -> None:
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        entered: bool = self._lock.__enter__()
        return entered

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)

    @property
    def _sleeping_count(self) -> _View:
        return _View(self._waiting)

    @property
    def _woken_count(self) -> _View:
        return _View(lambda: 0)  # who has woken does not count as sleeping any more

    @property
    def _wait_semaphore(self) -> _View:
        return _View(self._pending)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._waiting()})>"

    def _wait_slowly(self, timeout: float | None) -> bool:
        """`wait` with a lock that is none of ours."""
        lock = self._lock
        held = lock._semlock
        assert held._is_mine(), "must acquire() condition before using wait()"
        end = None if timeout is None else time.monotonic() + timeout
        count: int = held._count()
        entry = self._enter()
        try:
            while True:
                for _ in range(count):
                    lock.release()
                try:
                    may = self._sleep(entry, timeout)
                finally:
                    self._acquire_again(count)
                if self._take(entry):
                    return True
                if not may:
                    return False
                # Another one was quicker.
                if end is not None:
                    timeout = end - time.monotonic()
        finally:
            self._leave(entry)

    def _acquire_again(self, count: int) -> None:
        """Acquire the lock so often, and only then say if its owner died."""
        died = None
        while count:
            try:
                self._lock.acquire()
            except errors.OwnerDied as error:
                died = error
            else:
                count -= 1
        if died is not None:
            raise died

    def _notify_slowly(self, n: int) -> None:
        """`notify` with a lock that is none of ours."""
        assert self._lock._semlock._is_mine(), "lock is not owned"
        self._notify(n)

    def notify_all(self) -> None:
        """Let all that wait go on. AssertionError if the caller does not hold the lock."""
        self.notify(n=sys.maxsize)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate()` is true, `timeout` seconds at most (None: for ever); returns its last value."""
        result = predicate()
        if result:
            return result
        end = None if timeout is None else time.monotonic() + timeout
        left = None
        while not result:
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    break
            self.wait(left)
            result = predicate()
        return result


# -- Event


class Event(EventBase, _Passed):
    """A flag to wait for: `is_set`, `set`, `clear`, and `wait(timeout=None)`, which says whether it is set."""

    def __init__(self, *, ctx: BaseContext) -> None:
        self._is_fork_ctx = ctx.get_start_method() == "fork"
        self._create()

    def __getstate__(self) -> Any:
        return self._passed_on()

    def __setstate__(self, state: Any) -> None:
        self._attach(_received(state))
        self._is_fork_ctx = False

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.__getstate__())

    def __repr__(self) -> str:
        status = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {status}>"


# -- Barrier


class Barrier(BarrierBase, threading.Barrier, _Passed):
    """So many `parties` that wait for each other; see `threading.Barrier`.

    It breaks, too, if a process that waits in it dies.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: BaseContext,
    ) -> None:
        if not isinstance(parties, int):
            raise TypeError(f"parties must be an int, not {type(parties).__name__}")
        if parties < 0:
            # In the standard library such a barrier never lets anybody pass.
            raise ValueError("parties must be >= 1")
        self._is_fork_ctx = ctx.get_start_method() == "fork"
        self._create(parties)
        self._parties, self._action, self._timeout = parties, action, timeout

    def __getstate__(self) -> Any:
        return self._passed_on(), self._parties, self._action, self._timeout

    def __setstate__(self, state: Any) -> None:
        passed, self._parties, self._action, self._timeout = state
        self._attach(_received(passed), self._parties)
        self._is_fork_ctx = False

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.__getstate__())

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties do, `timeout` seconds at most (None: the barrier's own).

        Returns a number that tells one from the others, 0 up to the parties. Raises `threading.BrokenBarrierError` if
        the barrier is or gets broken: a time was over, one was killed, the action failed, it was reset or aborted.
        """
        if timeout is None:
            timeout = self._timeout
        arrival = self._arrive(self._action is not None, timeout)
        if arrival is None:
            raise threading.BrokenBarrierError
        index, place = arrival
        if place is not None:
            assert self._action is not None
            try:
                self._action()
            except BaseException:
                self._fail(place)
                raise
            if not self._finish(place):
                raise threading.BrokenBarrierError
        return index

    def reset(self) -> None:
        """Make it as new. Those that wait get `threading.BrokenBarrierError`."""
        self._reset()

    def abort(self) -> None:
        """Break it: those that wait, or come to wait, get `threading.BrokenBarrierError` until it is reset."""
        self._abort()

    @property
    def parties(self) -> int:
        """How many have to wait."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait."""
        return self._waiting()

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._is_broken()


def take_over(stock: types.ModuleType) -> None:
    """Let the standard library's locks go on that were made before they were replaced.

    Pickling finds their class by its name in the module, which means ours from now on. So the class gets another name.
    """
    for ours in (SemLock, Semaphore, BoundedSemaphore, Lock, RLock, Condition, Event, Barrier):
        before = getattr(stock, ours.__name__)
        if before is ours:
            return  # they were replaced already
        before.__qualname__ = f"_Stock{before.__name__}"
        setattr(stock, before.__qualname__, before)
