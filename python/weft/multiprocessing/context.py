"""The contexts of `weft.multiprocessing`, one for each start method and the default.

They are the standard library's with weft's processes and queues. Which start method is the default one is a property of
the process, not of a package: it is kept by the standard library's default context.
"""

from __future__ import annotations

from multiprocessing import context as stock
from multiprocessing import process

from weft._sentinel import Signals, sentinel
from weft.multiprocessing import _stock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from weft.multiprocessing import synchronize
    from weft.multiprocessing._popen import Popen
    from weft.multiprocessing._stock import AnyProcess
    from weft.multiprocessing.connection import Connection
    from weft.multiprocessing.managers import SyncManager
    from weft.multiprocessing.pool import Pool
    from weft.multiprocessing.queues import JoinableQueue, Queue, SimpleQueue

__all__: list[str] = []

ProcessError = stock.ProcessError
BufferTooShort = stock.BufferTooShort
TimeoutError = stock.TimeoutError
AuthenticationError = stock.AuthenticationError
assert_spawning = stock.assert_spawning
get_spawning_popen = stock.get_spawning_popen
set_spawning_popen = stock.set_spawning_popen


class _Process(Signals, process.BaseProcess):
    """A process whose sentinel is opened on demand."""

    if TYPE_CHECKING:
        _start_method: str | None

        @staticmethod
        def _after_fork() -> None: ...

    _sentinel = sentinel


class ForkProcess(_Process):
    """A process started by forking this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: AnyProcess) -> Popen:
        from weft.multiprocessing.popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(_Process):
    """A process started in a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: AnyProcess) -> Popen:
        from weft.multiprocessing.popen_spawn_posix import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """Nothing was forked."""


class ForkServerProcess(_Process):
    """A process started from the template process."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: AnyProcess) -> Popen:
        from weft.multiprocessing.popen_forkserver import Popen

        return Popen(process_obj)


class Process(_Process):
    """A process started by the default method."""

    _start_method = None

    @staticmethod
    def _Popen(process_obj: AnyProcess) -> Popen:
        chosen: Any = _default_context.get_context().Process
        popen: Popen = chosen._Popen(process_obj)
        return popen

    @staticmethod
    def _after_fork() -> None:
        _default_context.get_context().Process._after_fork()


class BaseContext(stock.BaseContext):
    """What the contexts have in common."""

    if TYPE_CHECKING:
        _name: str
        Process: type[_Process]

    def Manager(self) -> SyncManager:  # type: ignore[override, unused-ignore]
        """Returns a manager associated with a running server process"""
        from weft.multiprocessing.managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:  # type: ignore[override, unused-ignore]
        """Returns two connection object connected by a pipe"""
        from weft.multiprocessing.connection import Pipe

        return Pipe(duplex)

    def Queue(self, maxsize: int = 0) -> Queue[Any]:  # type: ignore[override, unused-ignore]
        """Returns a queue object"""
        from weft.multiprocessing.queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> JoinableQueue[Any]:  # type: ignore[override, unused-ignore]
        """Returns a queue object"""
        from weft.multiprocessing.queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> SimpleQueue[Any]:  # type: ignore[override, unused-ignore]
        """Returns a queue object"""
        from weft.multiprocessing.queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Lock(self) -> synchronize.Lock:  # type: ignore[override, unused-ignore]
        """Returns a non-recursive lock object"""
        from weft.multiprocessing.synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> synchronize.RLock:  # type: ignore[override, unused-ignore]
        """Returns a recursive lock object"""
        from weft.multiprocessing.synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: Any = None) -> synchronize.Condition:  # type: ignore[override, unused-ignore]
        """Returns a condition object"""
        from weft.multiprocessing.synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:  # type: ignore[override, unused-ignore]
        """Returns a semaphore object"""
        from weft.multiprocessing.synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(  # type: ignore[override, unused-ignore]
        self, value: int = 1
    ) -> synchronize.BoundedSemaphore:
        """Returns a bounded semaphore object"""
        from weft.multiprocessing.synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> synchronize.Event:  # type: ignore[override, unused-ignore]
        """Returns an event object"""
        from weft.multiprocessing.synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(  # type: ignore[override, unused-ignore]
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> synchronize.Barrier:
        """Returns a barrier object"""
        from weft.multiprocessing.synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Pool(  # type: ignore[override, unused-ignore]
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        """Returns a process pool object"""
        from weft.multiprocessing.pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Returns a shared object"""
        from weft.multiprocessing.sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """Returns a shared array"""
        from weft.multiprocessing.sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:  # type: ignore[override, unused-ignore]
        """Returns a synchronized shared object"""
        from weft.multiprocessing.sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:  # type: ignore[override, unused-ignore]
        """Returns a synchronized shared array"""
        from weft.multiprocessing.sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def set_forkserver_preload(self, module_names: list[str]) -> None:
        """Set list of module names to try to load in the template process."""
        from weft.multiprocessing.forkserver import set_forkserver_preload

        set_forkserver_preload(module_names)

    def get_context(self, method: str | None = None) -> BaseContext:  # type: ignore[override]
        """The context of that start method, or this one; ValueError if there is none."""
        if method is None:
            return self
        try:
            return _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None


class ForkContext(BaseContext):
    """Processes are started by forking this one."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """Processes are started in fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """Processes are started from the template process."""

    _name = "forkserver"
    Process = ForkServerProcess


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


class DefaultContext(BaseContext):
    """Processes are started by the method that the program or the interpreter's version chose."""

    Process = Process

    def get_context(self, method: str | None = None) -> BaseContext:  # type: ignore[override]
        """The context of that start method, or the one in use, which is settled by asking."""
        if method is None:
            method = _stock.context._default_context.get_start_method()
        return super().get_context(method)

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Choose the default; RuntimeError if it is settled already and `force` is not given."""
        _stock.context._default_context.set_start_method(method, force)

    def get_start_method(self, allow_none: bool = False) -> str | None:  # type: ignore[override]
        """The default; None if it is not settled and `allow_none` is given."""
        name: str | None = _stock.context._default_context.get_start_method(allow_none)
        return name

    def get_all_start_methods(self) -> list[str]:
        """Returns a list of the supported start methods, default first."""
        names: list[str] = _stock.context._default_context.get_all_start_methods()
        return names


_default_context = DefaultContext()


def _force_start_method(method: str) -> None:
    _stock.context._force_start_method(method)
