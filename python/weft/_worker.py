"""What runs in a worker process of a pool."""

from __future__ import annotations

import os
import signal
import sys
import threading

from weft import _native, _title
from weft._native import _pool
from weft.multiprocessing import _regions
from weft.multiprocessing._stock import context, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from types import FrameType
    from typing import Any

    _Handles = tuple[int, list[tuple[int, int]]]


class Post:
    """A worker's place in its pool, as the worker gets it."""

    def __init__(self, core: _pool.Core, slot: int, duty: Duty) -> None:
        self._core: _pool.Core | None = core
        self.handles: _Handles = core.handles()
        self.slot = slot
        self.duty = duty

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        _regions.keep(self._core)
        return self.handles, _regions.segment(self.handles[0]), self.slot, self.duty

    def __setstate__(self, state: Any) -> None:
        self.handles, segment, self.slot, self.duty = state
        self._core = None
        _native.attach_arena(self.handles[0], segment.detach)

    def take_up(self) -> _pool.Worker:
        """In the worker: be it."""
        self._core = None  # a forked worker inherited the owner's
        return _pool.Worker(self.handles, self.slot, self.duty.sends_all, self.duty.strict)


class Duty:
    """What all workers of a pool do."""

    def __init__(
        self,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        most: int | None = None,
        sends_all: bool = False,
        patience: float | None = None,
        memory: int | None = None,
        affinity: Sequence[Collection[int]] | None = None,
        state: Callable[[], object] | None = None,
        farewell: Callable[..., object] | None = None,
        reseed: bool = False,
        strict: bool = False,
    ) -> None:
        self.initializer = initializer
        try:
            self.initargs = tuple(initargs)
        except TypeError:
            raise TypeError(
                f"initargs must be the arguments of the initializer, as a tuple, not {initargs!r}"
            ) from None
        self.most = most  # tasks that a worker does before another one takes its place
        self.sends_all = sends_all  # also what is no Exception; as an executor
        self.strict = strict  # a task that cannot be unpickled ends its worker
        self.patience = patience  # seconds without a task before it ends
        self.memory = memory  # bytes it may take after a task
        self.affinity = affinity  # processors of the workers, by their slots in turn
        self.state = state  # makes what tasks find by `worker_state()`
        self.farewell = farewell  # called at the end, with that
        self.reseed = reseed  # whether random generators that were inherited are to be random


_state: object = None


def worker_state() -> Any:
    """In a task: what the pool's `worker_state` made in this worker; None without."""
    return _state


def work(post: Post) -> None:
    """Do tasks until there are none, or the pool says so."""
    global _state
    worker = post.take_up()
    _title.call_worker()
    duty = post.duty
    if duty.affinity:
        os.sched_setaffinity(0, duty.affinity[post.slot % len(duty.affinity)])
    if duty.reseed:
        _reseed()
    if duty.initializer is not None:
        duty.initializer(*duty.initargs)
    if duty.state is not None:
        _state = duty.state()
    if threading.current_thread() is threading.main_thread():
        _listen(worker)
    reason = worker.serve(duty.most, duty.patience, duty.memory)
    util.debug("worker ends: %s", reason)
    if duty.farewell is not None:
        duty.farewell(*(() if duty.state is None else (_state,)))


def _listen(worker: _pool.Worker) -> None:
    """Have Ctrl-C, and the pool when it stops a task, interrupt the task at hand and nothing else."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        return  # the program's own business

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if worker.is_interrupted():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def _reseed() -> None:
    """Make numpy's global generator random, which all forks of one process would have in common.

    The standard library's does so by itself.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
