"""The worker processes of a pool: starting them, noticing how they end, putting others in their place.

One thread per pool waits for the ends of its workers, and for time limits of tasks. What a worker had in its hands when it died
fails with `WorkerDied`, or is done again; no other task is touched.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import CancelledError

from weft import _killer
from weft._failures import PoolTerminated, TaskTimeout, WorkerDied, how_it_ended, named
from weft._native import _pool
from weft._worker import Duty, Post, work
from weft.multiprocessing.connection import wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from weft.multiprocessing._stock import AnyProcess

RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

# So many workers in a row may end before they did anything, beyond one for each place, before the pool gives up.
_FUTILE = 8
# How long a worker has to react to each of SIGINT and SIGTERM when its task is to be stopped, in seconds.
GRACE = 1.0


class Member:
    """One worker."""

    def __init__(self, process: AnyProcess, slot: int) -> None:
        self.process = process
        self.slot = slot
        self.dismissed = False
        self.stopping: Stopping | None = None


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
        self.core = _pool.Core(self._start_service, self.poke)
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
        self._kills = _killer.kills()
        self.replaced = 0
        self.died = 0

    # --- threads ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, and the thread that watches them. If one cannot be started, none is left."""
        try:
            self.repopulate()
        except BaseException:
            started, self.processes[:] = list(self.processes), []
            for process in started:
                if process.exitcode is None:
                    process.terminate()
            for process in started:
                process.join()
            os.close(self._wake)
            raise
        self._watcher = threading.Thread(target=self._watch, name="weft-pool-watcher", daemon=True)
        self._watcher.start()

    def _start_service(self) -> None:
        self._service = threading.Thread(target=self._serve, name="weft-pool-service", daemon=True)
        self._service.start()

    def _serve(self) -> None:
        self.core.serve()

    def poke(self) -> None:
        """Have the watcher look around."""
        os.eventfd_write(self._wake, 1)

    # --- workers ----------------------------------------------------------------------------------------------

    def repopulate(self) -> None:
        """Start as many workers as there should be and are not."""
        with self._lock:
            while self._staying() < self._wanted():
                self._start_one()
            self.core.missing = max(0, self.size - self._staying())

    def resize(self, size: int) -> None:
        """Have so many workers: start some, or let some end when their tasks are done, those without one first."""
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
            # Those that waited in vain are gone until there is something to do.
            return min(self.size, max(self._staying(), self.core.queued()))
        if self.state == CLOSE and self.core.is_busy():
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
            process.start()
        except BaseException:
            self.core.close_slot(slot)
            raise
        self._members[slot] = Member(process, slot)
        self.processes.append(process)

    def _watch(self) -> None:
        while True:
            with self._lock:
                waited = {member.process.sentinel: member for member in self._members.values()}
            patience = self._tend_limits()
            for ready in wait([*waited, self._wake], patience):
                if ready == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._ended(waited[ready])
            with self._lock:
                if self.state != RUN and not self._members and not self._wanted():
                    break
                if self.state == RUN or not self._members:
                    self._refill()
        self.core.forget_callers()
        self.core.wake()

    def _refill(self) -> None:
        try:
            self.repopulate()
        except Exception as error:
            # No processes, no descriptors, no memory. As long as some work, the work goes on.
            if not self._members:
                self._break(error)

    def _ended(self, member: Member) -> None:
        process = member.process
        process.join()
        exitcode = process.exitcode
        with self._lock:
            at_hand = self.core.worker_ended(member.slot)
            did = self.core.done(member.slot)
            if exitcode:
                self.died += 1
            if at_hand is not None:
                self._settle(member, exitcode, *at_hand)
            elif exitcode and not did:
                self._futile += 1
            if did:
                self._futile = 0
            del self._members[member.slot]
            self.core.close_slot(member.slot)
            if process in self.processes:
                self.processes.remove(process)
            if self._futile >= self.size + _FUTILE:
                self._break(
                    WorkerDied(
                        "no task yet",
                        process.pid,
                        exitcode,
                        f"{self._futile} workers in a row ended before they did a task, the last one so: "
                        f"{how_it_ended(exitcode)}; does the initializer fail?",
                    )
                )
            elif self.state == RUN and not member.dismissed and self._duty.patience is None:
                self.replaced += 1

    def _settle(self, member: Member, exitcode: int | None, task: int, function: Any, retries: int) -> None:
        """Deal with the task of a worker that ended."""
        pid = member.process.pid
        if retries and self.core.retry(task):
            return
        self.core.fail(task, WorkerDied(named(function), pid, exitcode, self._why(exitcode)))

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
        self.core.fail_all(lambda _function: error)
        for member in self._members.values():
            member.process.terminate()

    # --- limits on the time of tasks ------------------------------------------------------------------------------

    def _tend_limits(self) -> float | None:
        """Stop tasks that ran too long. Returns for how many seconds there will be nothing to do, None: ever."""
        with self._lock:
            return self._tend(time.monotonic())

    def _tend(self, now: float) -> float | None:
        soonest: float | None = None
        for task, slot, left in self.core.time_left(list(self._members)):
            if left > 0 or slot is None:
                soonest = left if soonest is None else min(soonest, left)
                continue
            member = self._members[slot]
            asked = self.core.limit_of(task)
            if asked is not None:
                function, limit = asked
                words = f"{named(function)} ran longer than {limit:g} seconds in worker process {member.process.pid}"
                self.core.fail(task, TaskTimeout(f"{words}, and was stopped"))
            self._stop(member, task)
        for member in self._members.values():
            due = self._press(member, now)
            if due is not None:
                soonest = due if soonest is None else min(soonest, due)
        return soonest

    def cancel(self, task: int) -> bool:
        """Keep the task from being done, or stop it. False if it is done."""
        with self._lock:
            where = self.core.cancel(task)
            if where == -1:
                return False
            if where is not None:
                member = self._members.get(where)
                if member is not None:
                    self._stop(member, task)
        done = self.core.fail(task, CancelledError())
        self.poke()
        return done

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
        with self._lock:
            if self.state == RUN:
                self.state = CLOSE
                self.core.close()
        self.poke()

    def terminate(self) -> None:
        """End the workers at once. What is not done fails with `PoolTerminated`."""
        with self._lock:
            self.state = TERMINATE
            members = list(self._members.values())
            for member in members:
                member.process.terminate()
        self.core.fail_all(
            lambda function: PoolTerminated(f"the pool was terminated before {named(function)} was done")
        )
        self.poke()
        self.core.wake()
        deadline = time.monotonic() + GRACE
        for member in members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            if member.process.exitcode is None:
                member.process.kill()
        self.join()

    def join(self) -> None:
        """Wait until all workers have ended, and all callbacks were called."""
        if self.state == CLOSE:
            self.core.wait_idle()
        watcher, service = self._watcher, self._service
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()
        self.core.stop()
        if service is not None and service is not threading.current_thread():
            service.join()
