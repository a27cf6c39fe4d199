"""Coroutines and processes for Python, one runtime, written in Rust.

For programs that exist: `weft.greenlet`, `weft.gevent` and `weft.multiprocessing` are those packages on weft. `install` makes
`import greenlet` and `import multiprocessing` mean them, and gevent if it is asked to, in this process and its children; `python -m weft` does so for
an unchanged program.

For new ones:

* processes: `Process`, `Pool`, `Executor`, `register_joblib`, `worker_state`;
* what goes between them: `Queue`, `Pipe`, `Lock`, `RLock`, `Semaphore`, `BoundedSemaphore`, `Condition`, `Event`, `Barrier`,
  `Manager`, `SharedDict`, `SharedArray`, `share`, `forward_logging`;
* coroutines: `spawn`, `joinall`, `sleep`, `Timeout`, `offload`, and `weft.coroutines` for the rest;
* what goes wrong: `ProcessDied`, `OwnerDied`, `ManagerDied`, `WorkerDied`, `TaskTimeout`, `UnpicklableError` and others.
"""

from __future__ import annotations

from os import environ

from weft import _support

_support.check_interpreter()
_support.check_settings(environ)
try:
    from weft import _native
except ImportError as _error:
    raise _support.explain(_error) from _error

from weft._install import InstallError, install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft import coroutines, gevent, greenlet, multiprocessing
    from weft._executor import Executor
    from weft._failures import PoolTerminated, RemoteError, TaskTimeout, WorkerDied
    from weft._locks import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
    from weft._logging import LogForwarding, forward_logging
    from weft._manager import Manager
    from weft._offload import offload
    from weft._pool import Pool, PoolOptions, PoolStats, Result
    from weft._queue import Queue
    from weft._shared_array import SharedArray
    from weft._shared_dict import SharedDict
    from weft._shared_object import Shared, share
    from weft._unpicklable import UnpicklableError
    from weft._worker import worker_state
    from weft.coroutines import Timeout, joinall, sleep, spawn
    from weft.multiprocessing.api import Process
    from weft.multiprocessing.connection import Connection, MessageLost, Pipe
    from weft.multiprocessing.errors import (
        ManagerDied,
        ManagerMissing,
        ManagerRefused,
        OwnerDied,
        ProcessDied,
    )
    from weft.multiprocessing.queues import ShutDown

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Connection",
    "Event",
    "Executor",
    "InstallError",
    "Lock",
    "LogForwarding",
    "Manager",
    "ManagerDied",
    "ManagerMissing",
    "ManagerRefused",
    "MessageLost",
    "OwnerDied",
    "Pipe",
    "Pool",
    "PoolOptions",
    "PoolStats",
    "PoolTerminated",
    "Process",
    "ProcessDied",
    "Queue",
    "RLock",
    "RemoteError",
    "Result",
    "Semaphore",
    "Shared",
    "SharedArray",
    "SharedDict",
    "ShutDown",
    "TaskTimeout",
    "Timeout",
    "UnpicklableError",
    "WorkerDied",
    "__version__",
    "coroutines",
    "forward_logging",
    "gevent",
    "greenlet",
    "install",
    "joinall",
    "multiprocessing",
    "offload",
    "register_joblib",
    "share",
    "sleep",
    "spawn",
    "worker_state",
]

__version__: str = _native.__version__


# Where the names come from that are imported when they are first used; "" for a module.
_LAZY = {
    "gevent": ("weft.gevent", ""),
    "greenlet": ("weft.greenlet", ""),
    "multiprocessing": ("weft.multiprocessing", ""),
    "coroutines": ("weft.coroutines", ""),
    "Timeout": ("weft.coroutines", "Timeout"),
    "joinall": ("weft.coroutines", "joinall"),
    "sleep": ("weft.coroutines", "sleep"),
    "spawn": ("weft.coroutines", "spawn"),
    "offload": ("weft._offload", "offload"),
    "Queue": ("weft._queue", "Queue"),
    "Executor": ("weft._executor", "Executor"),
    "Pool": ("weft._pool", "Pool"),
    "PoolOptions": ("weft._pool", "PoolOptions"),
    "PoolStats": ("weft._pool", "PoolStats"),
    "Result": ("weft._pool", "Result"),
    "PoolTerminated": ("weft._failures", "PoolTerminated"),
    "RemoteError": ("weft._failures", "RemoteError"),
    "TaskTimeout": ("weft._failures", "TaskTimeout"),
    "WorkerDied": ("weft._failures", "WorkerDied"),
    "Shared": ("weft._shared_object", "Shared"),
    "share": ("weft._shared_object", "share"),
    "worker_state": ("weft._worker", "worker_state"),
    "SharedArray": ("weft._shared_array", "SharedArray"),
    "SharedDict": ("weft._shared_dict", "SharedDict"),
    "LogForwarding": ("weft._logging", "LogForwarding"),
    "forward_logging": ("weft._logging", "forward_logging"),
    "ShutDown": ("weft.multiprocessing.queues", "ShutDown"),
    "UnpicklableError": ("weft._unpicklable", "UnpicklableError"),
    "Barrier": ("weft._locks", "Barrier"),
    "BoundedSemaphore": ("weft._locks", "BoundedSemaphore"),
    "Condition": ("weft._locks", "Condition"),
    "Event": ("weft._locks", "Event"),
    "Lock": ("weft._locks", "Lock"),
    "RLock": ("weft._locks", "RLock"),
    "Semaphore": ("weft._locks", "Semaphore"),
    "Process": ("weft.multiprocessing.api", "Process"),
    "Connection": ("weft.multiprocessing.connection", "Connection"),
    "MessageLost": ("weft.multiprocessing.connection", "MessageLost"),
    "Pipe": ("weft.multiprocessing.connection", "Pipe"),
    "Manager": ("weft._manager", "Manager"),
    "ManagerDied": ("weft.multiprocessing.errors", "ManagerDied"),
    "ManagerMissing": ("weft.multiprocessing.errors", "ManagerMissing"),
    "ManagerRefused": ("weft.multiprocessing.errors", "ManagerRefused"),
    "OwnerDied": ("weft.multiprocessing.errors", "OwnerDied"),
    "ProcessDied": ("weft.multiprocessing.errors", "ProcessDied"),
}


def register_joblib(default: bool = False) -> None:
    """Make "weft" a backend of joblib: `joblib.parallel_config(backend="weft")`; with `default`, the one without a name.

    Needs the package joblib (the extra `weft[joblib]`); ModuleNotFoundError without.
    """
    from weft._joblib import register

    register(default)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        source, attribute = _LAZY[name]
        module = import_module(source)
        return getattr(module, attribute) if attribute else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
