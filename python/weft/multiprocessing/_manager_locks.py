"""The locks of a manager's server, which know the processes that have them.

They are the standard library's `threading` ones to those who use them. What differs is what happens when a process is killed
with one, as with weft's locks in shared memory: the lock becomes free, and the next one that acquires it gets `OwnerDied`,
once.

* An `RLock` belongs to a thread of a client, by whatever thread of the server that one is served. Nobody else can release it, so
  it becomes free however its process ends.
* A semaphore counts for each process how many it took and has not given back; a release by a process that has none counts
  for the one that has had some for longest. What a killed process has comes back, but never so much that the
  semaphore gets above the value it began with: one that begins with 0 and tells processes of something is left alone.
* A `Condition` is as its lock. A waiter that is killed takes no notification along: it passes it on.
* A `Barrier` breaks if a process is killed that waits in it; an `Event` has nothing to lose.

A `Lock` is `threading.Lock` itself, and the server's affair.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from multiprocessing import process
from typing import Any

from weft.multiprocessing._manager_waits import (
    Caller,
    CallerGone,
    Owner,
    Sleeper,
    deadline_of,
    left_until,
    the_caller,
    wait_at,
    waiting,
)
from weft.multiprocessing.errors import OwnerDied

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "RLock", "Semaphore", "owner_ended"]

# All that have to be told of the ends of processes.
_owned: weakref.WeakSet[_Owned] = weakref.WeakSet()
_owned_lock = threading.Lock()


def owner_ended(owner: Owner, killed: bool, code: int | None = None) -> None:
    """Nobody of this process will release anything any more. `code` is how it ended, if that is known."""
    with _owned_lock:
        locks = list(_owned)
    for lock in locks:
        lock.owner_ended(owner, killed, code)


class _Owned:
    """A lock that may have an owner who died, of which the next one is told."""

    def __init__(self) -> None:
        # Guards everything here, and is held for moments only.
        self._changed = threading.Condition(threading.Lock())
        # Its id, and how it ended.
        self._dead: tuple[int, int | None] | None = None
        with _owned_lock:
            _owned.add(self)

    def owner_ended(self, owner: Owner, killed: bool, code: int | None) -> None:
        """Nobody of this process will release it any more."""
        raise NotImplementedError

    def _tell(self) -> None:
        """Raise OwnerDied if it is to be told. The lock is free, and stays so: another one that waits may have it."""
        if self._dead is not None:
            (pid, code), self._dead = self._dead, None
            self._changed.notify()
            raise OwnerDied(pid or None, exitcode=code)


class RLock(_Owned):
    """`threading.RLock`, owned by a thread of a client, or by a thread of the server that works for none."""

    def __init__(self) -> None:
        super().__init__()
        self._owner: Any = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """As of `threading.RLock`. Raises OwnerDied, with the lock not held, if its last owner was killed with it."""
        deadline = _deadline(blocking, timeout)
        me = the_caller()
        with self._changed:
            if self._owner == me:
                self._count += 1
                return True
            return self._take(me, 1, blocking, deadline)

    def _take(self, me: Any, count: int, blocking: bool, deadline: float | None) -> bool:
        while self._owner is not None:
            if not blocking or not wait_at(self._changed, left_until(deadline)):
                return False
        if isinstance(me, Caller) and me.gone:
            self._changed.notify()
            raise CallerGone
        self._tell()
        self._owner, self._count = me, count
        return True

    def release(self) -> None:
        """As of `threading.RLock`: RuntimeError if the caller is not its owner."""
        with self._changed:
            if not self._is_owned():
                raise RuntimeError("cannot release un-acquired lock")
            self._count -= 1
            if not self._count:
                self._owner = None
                self._changed.notify()

    def owner_ended(self, owner: Owner, killed: bool, code: int | None) -> None:
        """Become free if this process has it, and let the next one know."""
        with self._changed:
            if isinstance(self._owner, Caller) and self._owner.owner == owner:
                self._owner, self._count, self._dead = None, 0, (owner[0], code)
                self._changed.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    # -- For a condition

    def _is_owned(self) -> bool:
        me: Any = waiting.caller
        return bool(self._owner == (threading.get_ident() if me is None else me))

    def _release_all(self) -> int:
        with self._changed:
            count, self._owner, self._count = self._count, None, 0
            self._changed.notify()
        return count

    def _acquire_again(self, count: int) -> None:
        """Acquire it so often. OwnerDied is raised afterwards, with the lock held: it is held in a `with` block."""
        died = None
        with self._changed:
            while True:
                try:
                    self._take(the_caller(), count, True, None)
                    break
                except OwnerDied as error:
                    died = error
        if died is not None:
            raise died


class Semaphore(_Owned):
    """`threading.Semaphore`, which knows how many of it each process has."""

    def __init__(self, value: int = 1) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        super().__init__()
        self._value = self._initial = value
        # How many each process has, of those that have some. The one that has had some for longest is the first.
        self._taken: dict[Owner, int] = {}

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """As of `threading.Semaphore`. Raises OwnerDied, with nothing taken, if a process was killed with some of it."""
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        deadline = deadline_of(timeout)
        caller = waiting.caller
        with self._changed:
            while not self._value:
                if not blocking or not wait_at(self._changed, left_until(deadline)):
                    return False
            if caller is not None and caller.gone:
                self._changed.notify()
                raise CallerGone
            self._tell()
            self._value -= 1
            if caller is not None:
                self._taken[caller.owner] = self._taken.get(caller.owner, 0) + 1
        return True

    def release(self, n: int = 1) -> None:
        """As of `threading.Semaphore`."""
        if n < 1:
            raise ValueError("n must be one or more")
        with self._changed:
            self._check(n)
            self._value += n
            for _ in range(n):
                if not self._taken:
                    break
                self._put_down()
            self._changed.notify(n)

    def _check(self, n: int) -> None:
        """Raise if it must not be released so often."""

    def _put_down(self) -> None:
        """Whoever has released it has one less; or the first that has some."""
        caller = waiting.caller
        owner = None if caller is None else caller.owner
        if owner not in self._taken:
            owner = next(iter(self._taken))
        assert owner is not None
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    def owner_ended(self, owner: Owner, killed: bool, code: int | None) -> None:
        """Take back what this process has if it was killed, and let the next one know."""
        with self._changed:
            count = min(self._taken.pop(owner, 0), self._initial - self._value)
            if killed and count > 0:
                self._value += count
                self._dead = owner[0], code
                self._changed.notify(count)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class BoundedSemaphore(Semaphore):
    """`threading.BoundedSemaphore`."""

    def _check(self, n: int) -> None:
        if self._value + n > self._initial:
            raise ValueError("Semaphore released too many times")


class Condition:
    """`threading.Condition`, under an RLock of its own by default."""

    def __init__(self, lock: Any = None) -> None:
        self._lock = RLock() if lock is None else _object_of(lock)
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self._sleepers: deque[Sleeper] = deque()

    def _check(self, what: str) -> None:
        lock = self._lock
        if isinstance(lock, RLock):
            owned = lock._is_owned()
        else:
            owned = not lock.acquire(False)
            if not owned:
                lock.release()
        if not owned:
            raise RuntimeError(f"cannot {what} on un-acquired lock")

    def wait(self, timeout: float | None = None) -> bool:
        """As of `threading.Condition`. Raises OwnerDied, with the lock held, if its last owner was killed with it."""
        self._check("wait")
        me = Sleeper()
        self._sleepers.append(me)
        try:
            count = self._let_go()
            # The second: in the last moment.
            notified = me.sleep(timeout) or not self._leave(me)
        except CallerGone:
            if not self._leave(me):
                self._wake(1)
            raise
        try:
            self._take_again(count)
        except CallerGone:
            if notified:
                self._wake(1)
            raise
        return notified

    def _let_go(self) -> int:
        if isinstance(self._lock, RLock):
            return self._lock._release_all()
        self._lock.release()
        return 1

    def _take_again(self, count: int) -> None:
        if isinstance(self._lock, RLock):
            self._lock._acquire_again(count)
            return
        died = None
        while True:
            try:
                self._lock.acquire()
                break
            except OwnerDied as error:
                died = error
        if died is not None:
            raise died

    def _leave(self, sleeper: Sleeper) -> bool:
        """Do not wait any more. False if it was notified."""
        try:
            self._sleepers.remove(sleeper)
        except ValueError:
            return False
        return True

    def notify(self, n: int = 1) -> None:
        """As of `threading.Condition`."""
        self._check("notify")
        self._wake(n)

    def notify_all(self) -> None:
        """As of `threading.Condition`."""
        self._check("notify")
        self._wake(len(self._sleepers))

    def _wake(self, n: int) -> None:
        for _ in range(n):
            try:
                sleeper = self._sleepers.popleft()
            except IndexError:
                # Looked for by taking: one whose caller is gone passes its notification on without the lock.
                return
            # One that is killed between this and its waking passes it on.
            sleeper.wake()

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)


def _object_of(lock: Any) -> Any:
    """The lock that a proxy stands for, if that is one of this server's own that knows its owner."""
    server = getattr(process.current_process(), "_manager_server", None)
    token = getattr(lock, "_token", None)
    if server is None or token is None or token.address != server.address:
        return lock
    found = server.id_to_obj[token.id][0]
    return found if isinstance(found, _Owned) else lock


class Event:
    """`threading.Event`."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._is_set = False
        self._times = 0

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and let all that wait go on."""
        with self._changed:
            self._is_set = True
            self._times += 1
            self._changed.notify_all()

    def clear(self) -> None:
        """Take it back."""
        with self._changed:
            self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for `timeout` seconds at most. Says whether it was, even if it was taken back since."""
        deadline = deadline_of(timeout)
        with self._changed:
            before = self._times
            while not self._is_set and self._times == before:
                if not wait_at(self._changed, left_until(deadline)):
                    return False
        return True


class _Entrance(threading.Condition):
    """A condition whose waits end with the process they are for."""

    def wait(self, timeout: float | None = None) -> bool:
        return wait_at(self, timeout)


class Barrier(threading.Barrier):
    """`threading.Barrier`, which breaks if a process is killed that waits in it."""

    def __init__(self, parties: int, action: Any = None, timeout: float | None = None) -> None:
        super().__init__(parties, action, timeout)
        self._cond = _Entrance(threading.Lock())

    def wait(self, timeout: float | None = None) -> int:
        """As of `threading.Barrier`."""
        try:
            return super().wait(timeout)
        except CallerGone:
            self.abort()
            raise


def _deadline(blocking: bool, timeout: float | None) -> float | None:
    """When an acquisition gives up; what `threading.RLock` says of arguments that make no sense."""
    if timeout is None or timeout == -1:
        return None
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return deadline_of(timeout)
