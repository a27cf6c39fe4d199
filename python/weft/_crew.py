"""The worker processes of a pool: starting them, noticing how they end, putting others in their place.

One thread per pool waits for the ends of its workers, and for time limits of tasks. What a worker had in its hands when it died
fails with `WorkerDied`, or is done again; no other task is touched.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from concurrent.futures import CancelledError

from weft import _killer
from weft._failures import PoolTerminated, TaskTimeout, WorkerDied, described, how_it_ended, named
from weft._native import _pool
from weft._worker import Duty, Post, work
from weft.multiprocessing import _payload
from weft.multiprocessing.connection import wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weft.multiprocessing._stock import AnyProcess

RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

# So many workers in a row may end before they were ready for tasks, beyond one for each place, before the pool gives up.
_FUTILE = 8
# So often in a row workers may fail to be started while there is none, with a pause after each attempt of so many seconds.
_PATIENT = 20
_PAUSE = 0.1
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# How long a worker has to react to each of SIGINT and SIGTERM when its task is to be stopped, in seconds.
GRACE = 1.0


def check_size(size: int) -> None:
    """TypeError or ValueError if a pool cannot have so many workers."""
    if not isinstance(size, int):
        raise TypeError(f"the number of processes must be an integer, not {size!r}")
    if size < 1:
        raise ValueError("Number of processes must be at least 1")
    if size > _pool.MOST_WORKERS:
        raise ValueError(f"a pool cannot have more than {_pool.MOST_WORKERS} workers, {size} were asked for")


class Member:
    """One worker."""

    def __init__(self, process: AnyProcess, slot: int) -> None:
        self.process = process
        self.slot = slot
        self.dismissed = False
        self.stopping: Stopping | None = None
        self.ending: float | None = None  # when SIGKILL is due


class Stopping:
    """A task that is being stopped, with ever stronger means."""

    def __init__(self, task: int, grace: float) -> None:
        self.task = task
        self.grace = grace
        self.sent = 0
        self.next = time.monotonic()


class Crew:
    """The workers of one pool.

    `make_process` makes a process object from a target and arguments. `processes` is the list of those that
    were started and have not been taken note of as ended.
    """

    def __init__(
        self,
        make_process: Callable[..., AnyProcess],
        size: int,
        duty: Duty,
        processes: list[AnyProcess] | None = None,
        grace: float = GRACE,
    ) -> None:
        self.core = _pool.Core(self._start_service, self._call_workers)
        self.core.size = size
        self._grace = grace
        self.processes: list[AnyProcess] = [] if processes is None else processes
        self.size = size
        self.state = RUN
        self.broken: BaseException | None = None
        self._make_process = make_process
        self._duty = duty
        self._members: dict[int, Member] = {}
        self._lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watcher: threading.Thread | None = None
        self._service: threading.Thread | None = None
        self._futile = 0
        self._failed_starts = 0
        self._pid = os.getpid()
        self._kills = _killer.kills()
        self.replaced = 0
        self.died = 0

    # --- threads ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, and the thread that watches them. If one cannot be started, none is left."""
        watcher = threading.Thread(target=self._watch, name="weft-pool-watcher", daemon=True)
        try:
            self.repopulate()
            watcher.start()
        except BaseException:
            # Also for a watcher that runs already, because its start was interrupted.
            self.state = self.core.state = TERMINATE
            started = [member.process for member in self._members.values()]
            self.processes.clear()
            for process in started:
                if process.exitcode is None:
                    process.terminate()
            for process in started:
                process.join()
            self._members.clear()
            self._close()
            raise
        self._watcher = watcher

    def _start_service(self) -> None:
        service = threading.Thread(target=self._serve, name="weft-pool-service", daemon=True)
        service.start()
        self._service = service  # not before: whoever joins it may

    def _serve(self) -> None:
        try:
            self.core.serve()
        except BaseException as error:
            # No memory, say. Results that somebody wants to be told of would never be: all ends, and they are told that.
            with self._lock:
                if self.state != TERMINATE:
                    self._break(error)
            self.poke()
            self.core.serve()
            raise

    def poke(self) -> None:
        """Have the watcher look around."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _call_workers(self) -> None:
        """A task was put, and workers are missing."""
        self.poke()

    def _close(self) -> None:
        """Nothing will be started any more."""
        with self._lock:
            wake, self._wake = self._wake, -1
            if wake >= 0:
                os.close(wake)
        self.core.forget_callers()

    # --- workers ----------------------------------------------------------------------------------------------

    def repopulate(self) -> None:
        """Start as many workers as there should be and are not."""
        with self._lock:
            while self._staying() < self._wanted():
                self._start_one()
            self.core.missing = max(0, self.size - self._staying())

    def resize(self, size: int) -> None:
        """Have so many workers: start some, or let some end when their tasks are done, those without one first."""
        check_size(size)
        with self._lock:
            self.size = size
            self.core.size = size
            staying = [member for member in self._members.values() if not member.dismissed]
            staying.sort(key=lambda member: self.core.running(member.slot) is not None)
            for member in staying[: max(0, len(staying) - size)]:
                member.dismissed = True
                self.core.dismiss(member.slot)
            if self.state == RUN:
                self.repopulate()
        self.poke()

    def _staying(self) -> int:
        return sum(not member.dismissed for member in self._members.values())

    def _wanted(self) -> int:
        if self.state == RUN:
            if self._duty.patience is None:
                return self.size
            # Those that waited in vain are gone until there is something to do: for them, not for those that are at work.
            return min(self.size, max(self._staying(), self.core.outstanding()))
        if self.state == CLOSE and self.core.has_work():
            return min(self.size, max(1, self.core.outstanding()))
        return 0

    def busy(self) -> int:
        """How many workers are at a task."""
        with self._lock:
            return sum(self.core.running(slot) is not None for slot in self._members)

    def _start_one(self) -> None:
        slot = self.core.open_slot()
        try:
            process = self._make_process(target=work, args=(Post(self.core, slot, self._duty),))
            _payload.mark_worker(process)
            process.start()
        except BaseException:
            self.core.close_slot(slot)
            raise
        self._members[slot] = Member(process, slot)
        self._enlist(process)

    def _enlist(self, process: AnyProcess) -> None:
        self.processes.append(process)

    def _strike(self, process: AnyProcess) -> None:
        if process in self.processes:
            self.processes.remove(process)

    def _watch(self) -> None:
        try:
            while self._look_around():
                pass
        except BaseException as error:
            # Nobody would notice any more how workers end: nothing may be left to wait for.
            with self._lock:
                self._break(error)
            raise
        finally:
            if self.state == TERMINATE:
                self._fail_all()  # whoever terminated it may have been interrupted
            self._close()
            self.core.wake()

    def _look_around(self) -> bool:
        """Wait until something happens, and see to it. False if nothing will."""
        patience = self._tend_limits()
        for member in self._wait(patience):
            self._ended(member)
        with self._lock:
            if self.state != RUN and not self._members and not self._wanted():
                # A task may be on its way: either it is seen here, or it is refused.
                if self.state == TERMINATE or self.core.seal():
                    return False
            if self.state == RUN or not self._members:
                self._refill()
        return True

    def _wait(self, patience: float | None) -> list[Member]:
        """The workers that ended, after so many seconds at most."""
        with self._lock:
            members = list(self._members.values())
        try:
            waited = {member.process.sentinel: member for member in members}
            ready = wait([*waited, self._wake], patience)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            # None is left for as many as there are workers: look now and then.
            wait([self._wake], _PAUSE if patience is None else min(patience, _PAUSE))
            self._hush()
            return [member for member in members if member.process.exitcode is not None]
        if self._wake in ready:
            self._hush()
        return [waited[sentinel] for sentinel in ready if sentinel in waited]

    def _hush(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass  # nobody poked

    def _refill(self) -> None:
        try:
            self.repopulate()
        except Exception as error:
            # No processes, no descriptors, no memory. As long as some work, the work goes on; and it may be better soon.
            self._failed_starts += 1
            if not self._members and self._failed_starts > _PATIENT:
                self._break(error)
        else:
            self._failed_starts = 0

    def _ended(self, member: Member) -> None:
        process = member.process
        if process.exitcode is None:
            process.join()
        exitcode = process.exitcode
        process.join()  # has multiprocessing forget it
        with self._lock:
            at_hand = self.core.worker_ended(member.slot)
            if exitcode:
                self.died += 1
            fatal = self._unguarded(member, exitcode) or self._fatal(exitcode, at_hand is not None)
            if self.state == TERMINATE:
                pass  # its task fails with all others
            elif fatal is not None:
                self._break(fatal)
            elif at_hand is not None:
                self._settle(member, exitcode, *at_hand)
            if self.core.has_arrived(member.slot):
                self._futile = 0
            elif not member.dismissed:
                self._futile += 1
            del self._members[member.slot]
            self.core.close_slot(member.slot)
            self._strike(process)
            if self._futile >= self.size + _FUTILE and self.state != TERMINATE:
                self._break(
                    WorkerDied(
                        "",
                        process.pid,
                        exitcode,
                        f"{how_it_ended(exitcode)}, and {self._futile} workers in a row came no further; does the initializer "
                        "fail, or does the main module start the pool outside of `if __name__ == '__main__'`?",
                        0,
                    )
                )
            elif self.state == RUN and not member.dismissed and self._duty.patience is None:
                self.replaced += 1

    def _unguarded(self, member: Member, exitcode: int | None) -> BaseException | None:
        """What all tasks fail with because a worker could not import the main module, which starts the pool again."""
        if exitcode != _payload.UNGUARDED or self.core.has_arrived(member.slot):
            return None
        why = (
            "it imports the main module, which starts processes when it is imported; it is to do so below "
            "`if __name__ == '__main__':` only"
        )
        return WorkerDied("", member.process.pid, exitcode, why, 0)

    def _fatal(self, exitcode: int | None, had_task: bool) -> BaseException | None:
        """What all tasks fail with because a worker ended so; None if that is no reason."""
        return None

    def _settle(self, member: Member, exitcode: int | None, task: int, retries: int, retried: int) -> None:
        """Deal with the task of a worker that ended, which was done again `retried` times and may be `retries` times more."""
        pid = member.process.pid
        if retries and self.core.retry(task):
            return
        words = self._words(task) or "a task"
        self.core.fail(task, WorkerDied(words, pid, exitcode, self._why(exitcode), retried + 1))

    def _words(self, task: int) -> str:
        """The task in a message; nothing if it is resolved."""
        known = self.core.known_of(task)
        return "" if known is None else described(*known)

    def _why(self, exitcode: int | None) -> str:
        why = how_it_ended(exitcode)
        if exitcode == -signal.SIGKILL:
            suspicion = _killer.suspicion(self._kills)
            self._kills = _killer.kills()
            if suspicion:
                return f"{why}, {suspicion}"
        return why

    def _break(self, error: BaseException) -> None:
        """Give up: all tasks fail."""
        self.broken = error
        self.state = TERMINATE
        self.core.broken = error
        self.core.state = TERMINATE
        self.core.fail_all(lambda _function: error)
        for member in self._members.values():
            self._end(member)

    # --- limits on the time of tasks ------------------------------------------------------------------------------

    def _tend_limits(self) -> float | None:
        """Stop tasks that ran too long. Returns for how many seconds there will be nothing to do, None: ever."""
        with self._lock:
            return self._tend(time.monotonic())

    def _tend(self, now: float) -> float | None:
        soonest: float | None = _PAUSE if self._failed_starts else None
        for task, slot, left in self.core.time_left(list(self._members)):
            if left > 0 or slot is None:
                soonest = left if soonest is None else min(soonest, left)
                continue
            member = self._members[slot]
            limit = self.core.limit_of(task)
            if limit is not None:
                words = f"{self._words(task)} ran longer than {limit:g} seconds"
                self.core.fail(
                    task, TaskTimeout(f"{words} in worker process {member.process.pid}, and was stopped")
                )
            self._stop(member, task)
        for member in self._members.values():
            if self.state == TERMINATE:
                due: float | None = self._end(member)
            else:
                due = self._press(member, now)
            if due is not None:
                soonest = due if soonest is None else min(soonest, due)
        return soonest

    def cancel(self, tasks: Iterable[int]) -> bool:
        """Keep the tasks from being done, or stop them. False if all are done."""
        self.core.check()
        cancelled = False
        for task in tasks:
            # Each with the lock: the watcher could have it done again.
            with self._lock:
                cancelled |= self._cancel(task)
        self.poke()
        return cancelled

    def _cancel(self, task: int) -> bool:
        where = self.core.cancel(task)
        if where == -1:
            return False
        if where is not None:
            member = self._members.get(where)
            if member is not None:
                self._stop(member, task)
        return self.core.fail(task, CancelledError())

    def _stop(self, member: Member, task: int) -> None:
        if member.stopping is None or member.stopping.task != task:
            member.stopping = Stopping(task, self._grace)

    def _press(self, member: Member, now: float) -> float | None:
        """Send the next signal to a worker whose task is to be stopped, if it is due. Returns when the next one is."""
        stopping = member.stopping
        if stopping is None:
            return None
        if self.core.at_hand(member.slot) != stopping.task:
            member.stopping = None  # it went on to another one
            return None
        if now >= stopping.next:
            if stopping.sent and not self.core.condemn(member.slot, stopping.task):
                member.stopping = None
                return None
            if stopping.sent == 0:
                self.core.mark_interrupted(member.slot, stopping.task)
                member.process.interrupt()
            elif stopping.sent == 1:
                member.process.terminate()
            else:
                member.process.kill()
            stopping.sent += 1
            stopping.next = now + stopping.grace
        return stopping.next - now if stopping.sent <= 2 else None

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more tasks; workers end when all are done."""
        if os.getpid() != self._pid:
            return  # a forked process's copy, of which nothing is its own
        with self._lock:
            if self.state == RUN:
                self.state = CLOSE
                self.core.close()
        self.poke()

    def terminate(self) -> None:
        """End the workers at once. What is not done fails with `PoolTerminated`."""
        # From here on the watcher sees to it, whatever happens to this thread.
        self.state = TERMINATE
        self.poke()
        with self._lock:
            for member in self._members.values():
                self._end(member)
        self._fail_all()
        self.core.wake()
        self.join()

    def _fail_all(self) -> None:
        def terminated(function: Callable[..., object]) -> BaseException:
            return PoolTerminated(f"the pool was terminated before {named(function)} was done")

        self.core.fail_all(terminated)

    def _end(self, member: Member) -> float | None:
        """End a worker: SIGTERM, and SIGKILL if it takes its time. Returns for how many seconds it may, None: nothing is left."""
        now = time.monotonic()
        if member.ending is None:
            member.process.terminate()
            member.ending = now + GRACE
        elif now >= member.ending:
            member.process.kill()
            return None
        return member.ending - now

    def join(self) -> None:
        """Wait until all workers have ended, and all callbacks were called."""
        self.core.check()
        if self.state == CLOSE:
            if threading.current_thread() in (self._watcher, self._service):
                raise RuntimeError("a callback cannot join its pool, which waits for it to return")
            self.core.wait_idle()
        watcher, service = self._watcher, self._service
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()
        self.core.stop()
        if service is not None and service is not threading.current_thread():
            service.join()
