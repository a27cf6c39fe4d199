"""joblib on weft: `joblib.parallel_config(backend="weft")` after `weft.register_joblib()`.

The executor is kept for later calls with the same number of workers, as joblib keeps loky's. Functions that cannot be
pickled by name travel by value, with cloudpickle, which joblib needs itself. Large arrays travel through shared memory, and
are private to each task; joblib's memory maps are not used.
"""

from __future__ import annotations

import os
import pickle
import threading
from abc import ABCMeta
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
from joblib import parallel  # type: ignore[import-untyped, unused-ignore]
from joblib._parallel_backends import (  # type: ignore[import-untyped, unused-ignore]
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from weft._executor import Executor
from weft.multiprocessing.pool import processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._executor import Future

__all__ = ["Backend", "register"]

# What joblib gives each backend, of memory maps and of its other backends.
_JOBLIBS = frozenset({"context", "max_nbytes", "mmap_mode", "temp_folder", "verbose"})

_lock = threading.Lock()
_kept: tuple[int, Executor] | None = None
os.register_at_fork(after_in_child=lambda: _forget(None))


class Backend(AutoBatchingMixin, ParallelBackendBase, metaclass=ABCMeta):  # type: ignore[misc]
    """Runs joblib's batches in worker processes of weft."""

    supports_retrieve_callback = True
    uses_threads = False
    supports_sharedmem = False

    _executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers that is: a negative number counts down from all processors, None is 1. ValueError for 0."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(processors() + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int | None = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **options: Any,
    ) -> int:
        """Have so many workers ready; `options` are those of `weft.Executor`, and workers are kept only without any."""
        workers = self.effective_n_jobs(n_jobs)
        if workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._workers = workers
        options = {**self.backend_kwargs, **options}
        self._options = {name: value for name, value in options.items() if name not in _JOBLIBS}
        self._executor = self._get()
        return workers

    def _get(self) -> Executor:
        if not self._options:
            return _kept_executor(self._workers, self._prepare_worker_env(n_jobs=self._workers))
        return Executor(self._workers, **self._options)

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Future[Any]:
        """Have a worker run a batch."""
        if self._executor is None:
            raise RuntimeError("the backend was terminated: configure it again")
        future: Future[Any] = self._executor.submit(_Batch(func))
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch, or the exception of its first call that failed."""
        return out.result()

    def terminate(self) -> None:
        """Let go of the workers; those that are kept stay for later."""
        executor, self._executor = self._executor, None
        if executor is not None and self._options:
            executor.shutdown()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the tasks, and the workers with them; have others ready if there are more tasks to come."""
        executor, self._executor = self._executor, None
        if executor is not None:
            _forget(executor)
            executor.kill_workers()
        if ensure_ready:
            self._executor = self._get()


class _Batch:
    """A batch of joblib's. It is pickled by name where that leads anywhere, and else by value."""

    def __init__(self, calls: Callable[[], Any]) -> None:
        self._calls = calls
        self.__qualname__ = "a batch of joblib"

    def __call__(self) -> Any:
        return self._calls()

    def __reduce__(self) -> Any:
        items = getattr(self._calls, "items", None)
        if items is not None and all(_has_name(function) for function, _, _ in items):
            return _Batch, (self._calls,)
        return _unpickled_batch, (cloudpickle.dumps(self._calls),)


def _unpickled_batch(pickled: bytes) -> _Batch:
    return _Batch(pickle.loads(pickled))


def _has_name(function: Any) -> bool:
    """Whether a function can be found by its name in another process, as far as can be told without looking."""
    name = getattr(function, "__qualname__", "")
    if "<" in name:
        return False
    from weft.multiprocessing import _payload

    return getattr(function, "__module__", None) != "__main__" or _payload.main_can_be_imported()


def _adopt(environment: dict[str, str]) -> None:
    """In a worker: the variables that keep libraries from starting a thread for each processor in every worker."""
    os.environ.update(environment)


def _kept_executor(workers: int, environment: dict[str, str]) -> Executor:
    """The executor of this size, from before if it still takes tasks."""
    global _kept
    before = None
    with _lock:
        if _kept is not None:
            size, executor = _kept
            if size == workers and not executor._shutdown_thread and not executor._broken:
                return executor
            before = executor
        executor = Executor(workers, initializer=_adopt, initargs=(environment,))
        _kept = workers, executor
    if before is not None:
        before.shutdown(wait=False)
    return executor


def _forget(executor: Executor | None) -> None:
    """Keep this executor no longer; with None, whichever it is, which is another process's."""
    global _kept, _lock
    if executor is None:
        _kept, _lock = None, threading.Lock()
        return
    with _lock:
        if _kept is not None and _kept[1] is executor:
            _kept = None


def register(default: bool = False) -> None:
    """Make "weft" a backend of joblib's, and with `default` the one that is used if nobody names one."""
    parallel.register_parallel_backend("weft", Backend, make_default=default)
