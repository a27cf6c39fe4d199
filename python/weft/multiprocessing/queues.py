"""Queue, JoinableQueue and SimpleQueue, as `multiprocessing.queues` has them, on shared memory.

The queue itself is `weft._native.QueueBase`; here are the manners of the standard library. What differs from it:

* `put` pickles at once and in the caller's thread: there is no feeder thread, `empty` and `qsize` are exact, nothing
  is lost when a process exits, and joining a process before its queue is drained cannot hang;
* an object that cannot be pickled is reported by `_on_queue_feeder_error` as there, but before `put` returns;
* large buffers (numpy arrays and the like) arrive without a copy, writable and private to the receiver;
* `shutdown`, as `queue.Queue` has it since 3.13, on every version.

Semantics: https://docs.python.org/3/library/multiprocessing.html#pipes-and-queues
"""

from __future__ import annotations

import queue as _queue
import types
from multiprocessing import context, reduction
from multiprocessing.util import debug
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft import _native
from weft.multiprocessing import _regions
from weft.multiprocessing._displaced import rebind

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "ShutDown", "SimpleQueue"]

Empty = _queue.Empty
Full = _queue.Full

if TYPE_CHECKING:

    class ShutDown(Exception):
        """Raised by `put`, and by `get` once the queue is empty, after `shutdown`."""

elif hasattr(_queue, "ShutDown"):
    ShutDown = _queue.ShutDown
else:

    class ShutDown(Exception):
        """Raised by `put`, and by `get` once the queue is empty, after `shutdown`."""


T = TypeVar("T")

_CLOSED = "handle is closed"

# The standard library's words, for what it cannot do.
FORK_ONLY = (
    "A SemLock created in a fork context is being shared with a process in a spawn context. "
    "This is not supported. Please use the same context to create multiprocessing objects and Process."
)


class _End:
    """One end of a queue, with as much of a `Connection` as programs and the standard library use."""

    def __init__(self, owner: _Shared[Any]) -> None:
        self._owner = owner
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.closed:
            raise OSError(_CLOSED)

    def __enter__(self) -> _End:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _Reader(_End):
    readable = True
    writable = False

    def fileno(self) -> int:
        """A descriptor that is readable while there is an object. It belongs to the queue."""
        self._check()
        return self._owner._fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for an object, and say whether there is one."""
        self._check()
        return self._owner._wait_for_item(timeout)

    def recv(self) -> Any:
        """Take the next object out, waiting for it."""
        self._check()
        return self._owner._take()

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Take the next object out, and return its pickle; OSError if that is longer than `maxlength`."""
        data = bytes(reduction.ForkingPickler.dumps(self.recv()))
        if maxlength is not None and len(data) > maxlength:
            raise OSError("bad message length")
        return data


class _Writer(_End):
    readable = False
    writable = True

    def close(self) -> None:
        """Say that this process will put nothing more: `get` raises EOFError when nobody is left who could."""
        if not self.closed:
            super().close()
            self._owner._reads_only()

    def send(self, obj: Any) -> None:
        """Put an object in."""
        self._check()
        self._owner.put(obj)

    def send_bytes(self, buf: bytes, offset: int = 0, size: int | None = None) -> None:
        """Put the object in that the bytes are the pickle of."""
        view = memoryview(buf)[offset:] if size is None else memoryview(buf)[offset : offset + size]
        self.send(reduction.ForkingPickler.loads(view))


class _NoLock:
    """Stands where the standard library's queues have a lock of their ends, which some programs take.

    These queues keep their ends in order by themselves, so it holds off nobody.
    """

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_error: object) -> None:
        pass


class _Shared(_native.QueueBase, Generic[T]):
    """What the three classes have in common."""

    _reader: _Reader
    _writer: _Writer
    _rlock = _wlock = _NoLock()

    def _begin(self) -> None:
        self._reader = _Reader(self)
        self._writer = _Writer(self)

    # Whether it was made in a fork context, where the standard library refuses to pass queues on by pickling.
    _is_fork_ctx = False

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        if self._is_fork_ctx:
            raise RuntimeError(FORK_ONLY)
        return _passed_on(self)

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.__getstate__())

    def __setstate__(self, state: Any) -> None:
        (arena, unit, generation), segment, extra = state
        _native.attach_arena(arena, segment.detach)
        self._attach(arena, unit, generation)
        self._begin()
        self._restore(extra)

    def _extra(self) -> Any:
        """What else of this queue has to reach another process."""
        return None

    def _restore(self, extra: Any) -> None:
        pass

    def _take(self) -> T:
        return self.get()  # type: ignore[no-any-return]

    def _closed_error(self) -> Exception:
        return OSError(_CLOSED)

    def _shut_down_error(self) -> Exception:
        return ShutDown()

    def _put_failed(self, error: BaseException, obj: object) -> None:
        raise error

    def __class_getitem__(cls, item: Any) -> Any:
        return types.GenericAlias(cls, item)


def _passed_on(queue: Any) -> tuple[tuple[int, int, int], Any, Any]:
    """The state of a queue, or another object in shared memory, for a process that is being started."""
    handle = queue._handle()
    # The object lives at least as long as whoever starts the process knows of it.
    _regions.keep(queue)
    return handle, _regions.segment(handle[0]), queue._extra()


def _rebuilt(cls: type[_Shared[Any]], state: Any) -> _Shared[Any]:
    queue: _Shared[Any] = cls.__new__(cls)
    queue.__setstate__(state)
    return queue


class Queue(_Shared[T]):
    """A queue of objects between processes.

    `maxsize` is how many objects it may hold; 0 or less: any number. `ctx` is the multiprocessing context.
    """

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        self._create(max(maxsize, 0))
        self._is_fork_ctx = ctx.get_start_method() == "fork"
        self._ignore_epipe = False
        self._begin()

    def _extra(self) -> Any:
        # A class derived from this one may not have called __init__ of it first.
        return getattr(self, "_ignore_epipe", False)

    def _restore(self, extra: Any) -> None:
        self._ignore_epipe = extra

    def _closed_error(self) -> Exception:
        if self._reader.closed and not self._closed:
            return OSError(_CLOSED)
        return ValueError(f"Queue {self!r} is closed")

    def _put_failed(self, error: BaseException, obj: object) -> None:
        if not isinstance(error, Exception):
            raise error
        try:
            raise error
        except Exception:
            self._on_queue_feeder_error(error, obj)

    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: object) -> None:
        """What to do about an object that cannot be pickled. Called inside the handler of the exception `e`."""
        import traceback

        traceback.print_exc()

    def empty(self) -> bool:
        """Whether there is no object. It is exact, but other processes go on."""
        if self._closed and self._used:
            raise OSError(_CLOSED)
        return super().empty()

    def close(self) -> None:
        """Say that this process will put nothing more, nor get anything."""
        self._close()
        self._reader.close()

    def join_thread(self) -> None:
        """Return at once, for there is no thread: what was put is in the queue. AssertionError before `close`."""
        debug("Queue.join_thread()")
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread to be joined at exit."""
        debug("Queue.cancel_join_thread()")

    def _terminate_broken(self) -> None:
        # concurrent.futures asks for it when a worker died.
        self.close()

    def shutdown(self, immediate: bool = False) -> None:
        """Let nobody put any more: `put` raises ShutDown, and so does `get` when the queue is empty.

        With `immediate`, throw away what is in the queue, and count it as done. Those who wait are woken.
        Semantics: `queue.Queue.shutdown`.
        """
        self._shutdown(immediate)


class JoinableQueue(Queue[T]):
    """A queue that knows how many of its objects are not done with."""

    def task_done(self) -> None:
        """Say that one of the objects got is done with; ValueError if it is more than were put."""
        self._task_done()

    def join(self) -> None:
        """Wait until as many `task_done` were called as objects were put."""
        self._join()


class SimpleQueue(_Shared[T]):
    """A queue with no limit and few methods."""

    def __init__(self, *, ctx: BaseContext) -> None:
        self._create(0)
        self._is_fork_ctx = ctx.get_start_method() == "fork"
        self._begin()

    def _begin(self) -> None:
        super()._begin()
        self._poll: Callable[..., bool] = self._reader.poll

    def close(self) -> None:
        """Let go of the queue: every use of it in this process raises OSError."""
        self._close()
        self._reader.close()
        self._writer.close()

    def empty(self) -> bool:
        """Whether there is no object. It is exact, but other processes go on."""
        return not self._poll()

    def get(self) -> T:  # type: ignore[override]
        """Take the next object out, waiting for it."""
        return super().get()  # type: ignore[no-any-return]

    def put(self, obj: T) -> None:  # type: ignore[override]
        """Put `obj` in; raises what the pickler raises."""
        super().put(obj)


def take_over(stock: types.ModuleType) -> None:
    """Let the standard library's queues go on that were made before they were replaced, or whose class was derived from.

    `concurrent.futures.process` does, if it was imported before. Both pickling and their own methods find their class by its
    name in the module, which means ours from now on. So the class gets another name, and the methods see the module as it was.
    """
    displaced = [getattr(stock, ours.__name__) for ours in (Queue, JoinableQueue, SimpleQueue)]
    as_it_was = dict(vars(stock))
    for before in displaced:
        if issubclass(before, _Shared):
            return  # they were replaced already
        rebind(before, as_it_was)
        before.__reduce__ = _reduce_displaced
        before.__qualname__ = f"_Stock{before.__name__}"
        setattr(stock, before.__qualname__, before)


def _reduce_displaced(queue: Any) -> Any:
    """How a standard library's queue is pickled after it was replaced."""
    base = next(cls for cls in type(queue).__mro__ if cls.__qualname__.startswith("_Stock"))
    return _rebuilt_displaced, (type(queue), base, queue.__getstate__())


def _rebuilt_displaced(cls: Any, base: type, state: Any) -> Any:
    """In another process, where what `cls` names may be derived from ours: it was defined when that was in place."""
    if not issubclass(cls, base):
        own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        cls = types.new_class(cls.__name__, (base,), exec_body=lambda names: names.update(own))
    queue: Any = cls.__new__(cls)
    queue.__setstate__(state)
    return queue
