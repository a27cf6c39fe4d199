"""The names are the default context's methods, as in the standard library, whose types these are."""

from collections.abc import Callable as _Callable
from multiprocessing import (
    Array as Array,
)
from multiprocessing import (
    AuthenticationError as AuthenticationError,
)
from multiprocessing import (
    BufferTooShort as BufferTooShort,
)
from multiprocessing import (
    Manager as Manager,
)
from multiprocessing import (
    Pool as Pool,
)
from multiprocessing import (
    ProcessError as ProcessError,
)
from multiprocessing import (
    RawArray as RawArray,
)
from multiprocessing import (
    RawValue as RawValue,
)
from multiprocessing import (
    TimeoutError as TimeoutError,
)
from multiprocessing import (
    Value as Value,
)
from multiprocessing import (
    active_children as active_children,
)
from multiprocessing import (
    allow_connection_pickling as allow_connection_pickling,
)
from multiprocessing import (
    cpu_count as cpu_count,
)
from multiprocessing import (
    current_process as current_process,
)
from multiprocessing import (
    freeze_support as freeze_support,
)
from multiprocessing import (
    get_all_start_methods as get_all_start_methods,
)
from multiprocessing import (
    get_context as get_context,
)
from multiprocessing import (
    get_logger as get_logger,
)
from multiprocessing import (
    get_start_method as get_start_method,
)
from multiprocessing import (
    log_to_stderr as log_to_stderr,
)
from multiprocessing import (
    parent_process as parent_process,
)
from multiprocessing import (
    set_executable as set_executable,
)
from multiprocessing import (
    set_forkserver_preload as set_forkserver_preload,
)
from multiprocessing import (
    set_start_method as set_start_method,
)
from types import ModuleType
from typing import Any

from weft.multiprocessing import connection as _connection
from weft.multiprocessing import queues as _queues
from weft.multiprocessing import synchronize as _synchronize
from weft.multiprocessing.context import Process as Process

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]

SUBDEBUG: int
SUBWARNING: int
reducer: ModuleType

def Pipe(duplex: bool = True) -> tuple[_connection.Connection, _connection.Connection]: ...
def Queue(maxsize: int = 0) -> _queues.Queue[Any]: ...
def JoinableQueue(maxsize: int = 0) -> _queues.JoinableQueue[Any]: ...
def SimpleQueue() -> _queues.SimpleQueue[Any]: ...
def Lock() -> _synchronize.Lock: ...
def RLock() -> _synchronize.RLock: ...
def Condition(lock: Any = None) -> _synchronize.Condition: ...
def Semaphore(value: int = 1) -> _synchronize.Semaphore: ...
def BoundedSemaphore(value: int = 1) -> _synchronize.BoundedSemaphore: ...
def Event() -> _synchronize.Event: ...
def Barrier(
    parties: int, action: _Callable[[], object] | None = None, timeout: float | None = None
) -> _synchronize.Barrier: ...
def __getattr__(name: str) -> Any: ...
