"""The workers of an executor: started as tasks come, and, if so wished, all broken by the death of one."""

from __future__ import annotations

import os
import sys
import threading
import traceback
import weakref
from concurrent.futures import _base
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from weft._crew import CLOSE, RUN, TERMINATE, Crew
from weft._failures import PoolTerminated, named, remote_cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weft._worker import Duty
    from weft.multiprocessing._stock import AnyProcess

_crews: weakref.WeakSet[ExecutorCrew] = weakref.WeakSet()
_over = False  # the interpreter is about to end


class ExecutorCrew(Crew):
    """The workers of one executor.

    None is started before there is a task; then all at once (`at_once`), or one whenever there are more tasks than workers.
    `breaks` says whether the death of one ends all. `processes` has them by their process ids.
    """

    def __init__(
        self,
        make_process: Callable[..., AnyProcess],
        size: int,
        duty: Duty,
        by_pid: dict[int, AnyProcess],
        at_once: bool,
        breaks: bool,
    ) -> None:
        super().__init__(make_process, size, duty)
        self.by_pid = by_pid
        self.breaks = breaks
        self._hired = 0
        self._at_once = at_once
        self.core.missing = size
        if breaks:
            self.core.on_unreadable = self._unreadable
        _crews.add(self)

    @property
    def manager(self) -> threading.Thread | None:
        """The thread that watches the workers: it ends when all is done."""
        return self._watcher

    # --- workers ---------------------------------------------------------------------------------------------------

    def _call_workers(self) -> None:
        with self._lock:
            if self.state != RUN or self._hired >= self.size:
                return
            if self._hired and self.core.unanswered() <= self._hired:
                return
            self._hired = self.size if self._at_once else self._hired + 1
            try:
                if self._watcher is None:
                    self.start()
                    if self.breaks:
                        self._ready_service()
                else:
                    self.repopulate()
                    self.poke()
            except Exception as error:
                self._hired = len(self._members)
                if not self._members:
                    self._break(error)
                raise

    def _ready_service(self) -> None:
        """Start what calls callbacks before a task is under way: as in the standard library, an executor is broken if it cannot
        have its threads, which is so while the interpreter ends, and not only once a callback is missed."""
        try:
            self.core.ready_service()
        except RuntimeError as error:
            failure = BrokenProcessPool(f"the executor's service thread could not be started: {error}")
            failure.__cause__ = error
            self._break(failure)
            self.poke()

    def _wanted(self) -> int:
        return min(self._hired, super()._wanted())

    def _enlist(self, process: AnyProcess) -> None:
        super()._enlist(process)
        self.by_pid[process.pid] = process

    def _strike(self, process: AnyProcess) -> None:
        super()._strike(process)
        self.by_pid.pop(process.pid, None)

    def _watch(self) -> None:
        try:
            super()._watch()
        finally:
            # Futures that nobody waits for are shown to be done all the same.
            self.core.wait_idle()
            self._dismiss_service()

    def _dismiss_service(self) -> None:
        self.core.stop()
        service = self._service
        if service is not None:
            service.join()

    # --- breaking ------------------------------------------------------------------------------------------------

    def _fatal(self, exitcode: int | None, had_task: bool) -> BaseException | None:
        return broken() if self.breaks and (exitcode or had_task) else None

    def _unreadable(self, error: BaseException) -> BaseException:
        """A result cannot be unpickled: as the standard library has it, nothing goes on then."""
        failure = broken()
        failure.__cause__ = remote_cause("".join(traceback.format_exception(error)))
        with self._lock:
            if self.state != TERMINATE:
                self._break(failure)
        self.poke()
        return failure

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked worker's copy, at the worker's end
        with self._lock:
            if self.state == RUN:
                # Before anything else: whatever runs meanwhile puts no task any more.
                self.core.state = CLOSE
            super().close()
            if self._watcher is None and not self._is_begun():
                self._close()
                self.core.stop()

    def _is_begun(self) -> bool:
        """Whether a first task was taken in the very moment of the end. It came too late to start workers, so that is done here."""
        if self.core.seal():
            return False
        self._hired = self.size if self._at_once else 1
        try:
            self.start()
        except Exception as error:
            self._break(error)
            return False
        return True

    def cancel_queued(self) -> None:
        """Take no more tasks, and cancel those that no worker has begun. Where that is to be as in the standard library, so many
        are done all the same as it would have handed to its workers by now."""
        with self._lock:
            if self.state == RUN:
                self.core.state = CLOSE
            kept = 0
            if self.breaks and self.state == RUN:
                kept = max(0, self.size + 1 - self.busy())
        # Before workers hear that nothing will come any more.
        self.core.cancel_queued(kept)

    def wait(self) -> None:
        """Wait until the workers have ended, and all futures are done."""
        current = threading.current_thread()
        if self._watcher is not None and current not in (self._watcher, self._service):
            self._watcher.join()

    def force(self, how: str) -> None:
        """End the workers at once, by their method `how`. What they were doing fails."""
        with self._lock:
            if self.state == RUN:
                self.core.state = CLOSE
        self.core.cancel_queued(0)
        self.close()
        with self._lock:
            self.state = self.core.state = TERMINATE
            processes = list(self.processes)
            self.core.fail_all(_forced_broken if self.breaks else _forced)
            for process in processes:
                getattr(process, how)()
        self.poke()


def broken() -> BrokenProcessPool:
    """What the tasks of a broken executor fail with."""
    return BrokenProcessPool(
        "A process in the process pool was terminated abruptly while the future was running or pending."
    )


def _forced_broken(_function: object) -> BaseException:
    return broken()


def _forced(function: object) -> BaseException:
    return PoolTerminated(f"the executor's workers were ended before {named(function)} was done")


def initialize(initializer: Callable[..., object], initargs: Iterable[Any]) -> None:
    """In a worker: call the initializer of an executor that breaks if it fails."""
    try:
        initializer(*initargs)
    except BaseException:
        _base.LOGGER.critical("Exception in initializer:", exc_info=True)
        sys.exit(1)


def is_over() -> bool:
    """Whether the interpreter is about to end."""
    return _over


def _finish() -> None:
    """Before the interpreter ends: what was submitted is done."""
    global _over
    _over = True
    crews = list(_crews)
    for crew in crews:
        crew.close()
    for crew in crews:
        crew.wait()


# As concurrent.futures: before threads that are no daemons are joined.
_register: Any = threading
_register._register_atexit(_finish)
