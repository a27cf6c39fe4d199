"""`weft.share`: an object that many tasks use, and that each worker gets once."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

from weft._shared_array import SharedArray
from weft._unpicklable import explained

T = TypeVar("T")

_ALIGNMENT = 64  # of buffers, in bytes
_MOST = 32  # objects that a process keeps of those it got
_GONE = 0  # where it is noted that the handle is gone; the pickle begins behind this, aligned

# What this process got, with its memory, by where it lies.
_received: OrderedDict[tuple[int, int, int], tuple[Any, SharedArray]] = OrderedDict()


class Shared(Generic[T]):
    """A handle of an object in shared memory; `share` makes it.

    Passed to another process it becomes the object.
    """

    def __init__(self, memory: SharedArray, layout: tuple[int, list[tuple[int, int]]]) -> None:
        self._memory = memory
        self._layout = layout
        self._maker = os.getpid()

    def __del__(self) -> None:
        if os.getpid() == self._maker:
            memoryview(self._memory)[_GONE] = 1
            _received.pop(self._memory._handle(), None)

    @property
    def nbytes(self) -> int:
        """How many bytes of memory it takes, once for all processes."""
        return self._memory.nbytes

    def get(self) -> T:
        """The object, as other processes get it."""
        obj: T = _open(self._memory, self._layout)
        return obj

    def __reduce__(self) -> Any:
        return _open, (self._memory, self._layout)


def share(obj: T) -> Shared[T]:
    """Put `obj` into shared memory, and return a handle to be passed to tasks, alone or inside other arguments.

    The object is pickled once, and unpickled once in each process that gets it; all tasks of a worker see the same one. Its
    buffers, as those of contiguous numpy arrays, are not copied: all processes see the same memory, read-only. The memory is
    gone with the last user of it, of the handle and of the object's buffers; a worker lets go of an object whose handle is
    gone when it gets the next one. Raises `weft.UnpicklableError`, and MemoryError.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = memoryview(_dump(obj, buffers))
    except MemoryError:
        raise
    except Exception as error:
        raise explained(error, obj, "cannot share {}") from error
    raw = [buffer.raw() for buffer in buffers]
    begin = _ALIGNMENT
    places, end = [], begin + len(data)
    for view in raw:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        places.append((start, view.nbytes))
        end = start + view.nbytes
    memory = SharedArray(end, "u1")
    target = memoryview(memory)
    target[begin : begin + len(data)] = data
    for (start, length), view in zip(places, raw, strict=True):
        target[start : start + length] = view
    return Shared(memory, (len(data), places))


def _dump(obj: object, buffers: list[pickle.PickleBuffer]) -> bytes:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:
            return True  # in several pieces: the pickler copies it
        if not view.nbytes:
            return True
        buffers.append(buffer)
        return False

    file = io.BytesIO()
    pickler: Any = ForkingPickler
    pickler(file, 5, True, keep).dump(obj)  # its constructor takes no keywords
    return file.getvalue()


def _open(memory: SharedArray, layout: tuple[int, list[tuple[int, int]]]) -> Any:
    key = memory._handle()
    if key in _received:
        _received.move_to_end(key)
        return _received[key][0]
    # A program that shares one large object after the other is not to keep them all.
    for other in [other for other, (_, of) in _received.items() if memoryview(of)[_GONE]]:
        del _received[other]
    view = memoryview(memory).toreadonly()
    length, places = layout
    buffers = [view[start : start + size] for start, size in places]
    obj = ForkingPickler.loads(view[_ALIGNMENT : _ALIGNMENT + length], buffers=buffers)
    _received[key] = obj, memory
    while len(_received) > _MOST:
        _received.popitem(last=False)
    return obj
