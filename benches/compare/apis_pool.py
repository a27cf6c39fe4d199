"""What the scenarios of pools and executors are written against, for each package.

`multiprocessing.Pool` gives the names. The rivals' pools say the same with other words; here they are
made to do it. Every pool has two workers unless it is told otherwise.
"""

from __future__ import annotations

import atexit
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from apis import is_weft

WORKERS = 2


class Pool(Protocol):
    def apply(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any: ...

    def apply_all(self, function: Callable[..., Any], every: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Submit a task for each of the tuples, then wait for all."""
        ...

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Any: ...

    def starmap(
        self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]], chunksize: int
    ) -> Any: ...

    def imap_unordered(
        self, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int
    ) -> Iterable[Any]: ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> object:
        """A task whose result nobody asks for."""
        ...

    def end(self) -> None:
        """Close and join."""
        ...

    def terminate(self) -> None: ...


class Api:
    """Those of the standard library, or weft's in their place. `subject` says which it was."""

    def __init__(self) -> None:
        self.subject: str | None = None

    def pool(self, workers: int = WORKERS) -> Pool:
        """One that is there until the measurement ends."""
        made = self.new_pool(workers)
        atexit.register(made.terminate)
        return made

    def new_pool(self, workers: int = WORKERS) -> Pool:
        made = StdlibPool(workers)
        self._note(type(made.pool))
        return made

    def executor(self) -> Executor:
        made = self._executor_class()(WORKERS)
        self._note(type(made))
        atexit.register(made.shutdown)
        return made

    def _executor_class(self) -> Callable[[int], Executor]:
        """weft's own executor if it has one; else what a program gets that imports the standard library's."""
        from concurrent.futures import ProcessPoolExecutor

        if is_weft():
            import weft

            return getattr(weft, "Executor", ProcessPoolExecutor)
        return ProcessPoolExecutor

    def _note(self, measured: type) -> None:
        self.subject = f"{measured.__module__}.{measured.__qualname__}"


class StdlibPool:
    def __init__(self, workers: int) -> None:
        self.pool = multiprocessing.Pool(workers)
        self.apply = self.pool.apply
        self.map = self.pool.map
        self.starmap = self.pool.starmap
        self.imap_unordered = self.pool.imap_unordered
        self.terminate = self.pool.terminate

    def apply_all(self, function: Callable[..., Any], every: Iterable[tuple[Any, ...]]) -> list[Any]:
        results = [self.pool.apply_async(function, arguments) for arguments in every]
        return [result.get() for result in results]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> object:
        return self.pool.apply_async(function, arguments)

    def end(self) -> None:
        self.pool.close()
        self.pool.join()


class Mpire(Api):
    def new_pool(self, workers: int = WORKERS) -> Pool:
        made: Any = MpirePool(workers)
        pool: Pool = made
        return pool


class MpirePool:
    def __init__(self, workers: int) -> None:
        from mpire import WorkerPool

        self.pool: Any = WorkerPool(workers, keep_alive=True)
        self.apply = self.pool.apply
        self.terminate = self.pool.terminate

    def apply_all(self, function: Callable[..., Any], every: Iterable[tuple[Any, ...]]) -> list[Any]:
        results = [self.pool.apply_async(function, arguments) for arguments in every]
        return [result.get() for result in results]

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None) -> Any:
        return self.pool.map(function, items, chunk_size=chunksize)

    # Its map hands over the parts of a tuple one by one.
    starmap = map

    def imap_unordered(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int
    ) -> Iterable[Any]:
        found: Iterable[Any] = self.pool.imap_unordered(
            function, items, iterable_len=len(items), chunk_size=chunksize
        )
        return found

    def end(self) -> None:
        self.pool.stop_and_join()


class FuturesPool:
    """A pool on an executor: what loky and pebble have."""

    def __init__(self, executor: Any, submit: Callable[..., Any]) -> None:
        self.executor = executor
        self.submit = submit

    def apply(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return self.submit(function, *arguments).result()

    def apply_all(self, function: Callable[..., Any], every: Iterable[tuple[Any, ...]]) -> list[Any]:
        results = [self.submit(function, *arguments) for arguments in every]
        return [result.result() for result in results]


class LokyPool(FuturesPool):
    def __init__(self, workers: int) -> None:
        from loky import ProcessPoolExecutor

        executor = ProcessPoolExecutor(workers)
        super().__init__(executor, executor.submit)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int) -> Any:
        return list(self.executor.map(function, items, chunksize=chunksize))

    def end(self) -> None:
        self.executor.shutdown()

    def terminate(self) -> None:
        self.executor.shutdown(kill_workers=True)


class Loky(Api):
    def new_pool(self, workers: int = WORKERS) -> Pool:
        made: Any = LokyPool(workers)
        pool: Pool = made
        return pool

    def _executor_class(self) -> Callable[[int], Executor]:
        from loky import ProcessPoolExecutor

        found: Callable[[int], Executor] = ProcessPoolExecutor
        return found


class PebblePool(FuturesPool):
    def __init__(self, workers: int) -> None:
        from pebble import ProcessPool

        pool = ProcessPool(max_workers=workers)
        super().__init__(pool, lambda function, *arguments: pool.schedule(function, arguments))

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int) -> Any:
        return list(self.executor.map(function, items, chunksize=chunksize).result())

    def end(self) -> None:
        self.executor.close()
        self.executor.join()

    def terminate(self) -> None:
        self.executor.stop()
        self.executor.join()


class Pebble(Api):
    def new_pool(self, workers: int = WORKERS) -> Pool:
        made: Any = PebblePool(workers)
        pool: Pool = made
        return pool


RIVALS: dict[str, type[Api]] = {"mpire": Mpire, "loky": Loky, "pebble": Pebble}
