"""`concurrent.futures.ProcessPoolExecutor`, on shared memory.

The workers are those of `weft.Executor`; here are the manners of the standard library: the death of a worker breaks the executor,
as does a task or a result that cannot be unpickled. What differs from it:

* with `self_healing=True` the death of a worker fails its task only, with `weft.WorkerDied`;
* all tasks that no worker has begun can be cancelled, not only those beyond a few;
* `terminate_workers`, `kill_workers` (3.14), and `buffersize` of `map` (3.14), are there in all versions.

It is derived from the standard library's class, so that `isinstance` says the same whenever a name was bound, and uses nothing of it.
Of the parts that this is made of there are those that programs look at: `_processes`, `_pending_work_items`,
`_executor_manager_thread`, `_call_queue`.

This module is imported while `concurrent.futures.process` is being changed: see `weft._executor`.
"""

from __future__ import annotations

import types
from concurrent.futures import process as _stock
from typing import TYPE_CHECKING, Any

from weft import _patches
from weft._executor import Executor, Future, is_forked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.context import BaseContext

__all__ = ["ProcessPoolExecutor"]


_private: Any = _stock  # the type stubs do not have all of it
_Displaced: Any = _private.ProcessPoolExecutor


class ProcessPoolExecutor(Executor, _Displaced):  # type: ignore[misc]
    """Calls functions in worker processes; see `concurrent.futures.ProcessPoolExecutor`.

    `max_workers` is how many processes there are at most (None: one for each processor that may be used), `mp_context` the
    multiprocessing context that starts them, `initializer(*initargs)` is called in each when it starts,
    `max_tasks_per_child` is how many tasks it does before another one takes its place (None: any number; not with fork).

    If a worker dies, all futures that are not done fail with BrokenProcessPool, and so does `submit` from then on. With
    `self_healing`, only the task of that worker fails, with `weft.WorkerDied`, and another one takes the place.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        self_healing: bool = False,
    ) -> None:
        import multiprocessing

        _private._check_system_limits()
        self._check(max_workers, initializer, max_tasks_per_child)
        if mp_context is None:
            mp_context = multiprocessing.get_context(None if max_tasks_per_child is None else "spawn")
        forked = is_forked(mp_context)
        if max_tasks_per_child is not None and forked:
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method;"
                " supply a different mp_context."
            )
        self._mp_context: BaseContext = mp_context
        self._initializer = initializer
        self._initargs = initargs
        self._max_tasks_per_child = max_tasks_per_child
        self._safe_to_dynamically_spawn_children = not forked
        duty = self._duty(not self_healing)
        make: Any = mp_context
        self._set_up(max_workers, duty, make.Process, forked, not self_healing, None)
        self._call_queue: CallQueue | None = CallQueue(self._crew)

    def _duty(self, breaks: bool) -> Any:
        from weft._executor_crew import initialize
        from weft._worker import Duty

        initializer, initargs = self._initializer, self._initargs
        if initializer is not None and breaks:
            initializer, initargs = initialize, (initializer, initargs)
        return Duty(initializer, initargs, self._max_tasks_per_child, sends_all=True, strict=breaks)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._call_queue = None

    shutdown.__doc__ = Executor.shutdown.__doc__

    @property
    def _pending_work_items(self) -> dict[int, WorkItem]:
        """The tasks that are not done, by their numbers."""
        return {number: WorkItem(future) for number, future in self._crew.core.futures()}


class WorkItem:
    """A task that is not done."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future


class CallQueue:
    """What can be asked of the queue of tasks."""

    def __init__(self, crew: Any) -> None:
        self._core = crew.core

    def qsize(self) -> int:
        """How many tasks no worker has taken."""
        queued: int = self._core.queued()
        return queued

    def empty(self) -> bool:
        return not self.qsize()

    def close(self) -> None:
        """Nothing: it is closed with the executor."""

    def join_thread(self) -> None:
        """Nothing: it has no thread."""


def take_over(_module: types.ModuleType) -> None:
    """Let names that were bound before lead to ours: the package's, and those of programs."""
    import concurrent.futures

    _Displaced.__new__ = _made_of_ours
    if "ProcessPoolExecutor" in vars(concurrent.futures):
        concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor  # type: ignore[misc]


def _made_of_ours(cls: type, *_arguments: Any, **_keywords: Any) -> Any:
    """A new object; of the standard library's class itself, one of ours. What is derived from that goes on as before."""
    return ProcessPoolExecutor.__new__(ProcessPoolExecutor) if cls is _Displaced else object.__new__(cls)


_patches.finish(__name__)
