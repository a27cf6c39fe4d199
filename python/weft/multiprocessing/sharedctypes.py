"""ctypes objects in shared memory, as `multiprocessing.sharedctypes` has them.

What differs from it: the memory is weft's (`weft.multiprocessing.heap`); the wrappers are native where it counts; and
numbers have atomic operations.

*Atomic operations.* On a `Value` that is an integer of 1, 2, 4 or 8 bytes, `load`, `store`, `exchange`,
`compare_exchange` and `add` happen in one step that no thread of any process can come between, without the lock.
Those that change it return the value that was there before, as C11's and JavaScript's atomics do. They wait for nobody,
and so not for who holds the lock: a counter is changed by `add` everywhere, or under its lock everywhere.

Semantics: https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.sharedctypes
"""

from __future__ import annotations

import ctypes
import weakref
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft import _native, _patches
from weft.multiprocessing import heap
from weft.multiprocessing._stock import context, reduction

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    sharedctypes: Any
else:
    from multiprocessing import sharedctypes

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

T = TypeVar("T")

typecode_to_type: dict[str, Any] = sharedctypes.typecode_to_type
rebuild_ctype = sharedctypes.rebuild_ctype
reduce_ctype = sharedctypes.reduce_ctype

_members = _native.synchronized_members


def _new_value(type_: Any) -> Any:
    return rebuild_ctype(type_, heap.BufferWrapper(ctypes.sizeof(type_)), None)


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """Returns a ctypes object allocated from shared memory"""
    obj = _new_value(typecode_to_type.get(typecode_or_type, typecode_or_type))
    ctypes.memset(ctypes.addressof(obj), 0, ctypes.sizeof(obj))
    obj.__init__(*args)
    return obj


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    """Returns a ctypes array allocated from shared memory"""
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        obj = _new_value(type_ * size_or_initializer)
        ctypes.memset(ctypes.addressof(obj), 0, ctypes.sizeof(obj))
    else:
        obj = _new_value(type_ * len(size_or_initializer))
        obj.__init__(*size_or_initializer)
    return obj


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: BaseContext | None = None) -> Any:
    """Return a synchronization wrapper for a Value"""
    return _wrapped(RawValue(typecode_or_type, *args), lock, ctx)


def Array(
    typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: BaseContext | None = None
) -> Any:
    """Return a synchronization wrapper for a RawArray"""
    return _wrapped(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


def _wrapped(obj: Any, lock: Any, ctx: BaseContext | None) -> Any:
    if lock is False:
        return obj
    if lock in (True, None):
        ctx = ctx or get_context()
        lock = ctx.RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(obj, lock, ctx=ctx)


def copy(obj: Any) -> Any:
    """Return a ctypes object allocated from shared memory which is a copy of the ctypes object `obj`."""
    new_obj = _new_value(type(obj))
    ctypes.pointer(new_obj)[0] = obj
    return new_obj


def synchronized(obj: Any, lock: Any = None, ctx: BaseContext | None = None) -> SynchronizedBase[Any]:
    """Return a wrapper of a ctypes object that is used under `lock`; without one, under a new RLock."""
    assert not isinstance(obj, SynchronizedBase), "object already synchronized"
    ctx = ctx or get_context()
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        if obj._type_ is ctypes.c_char:
            return SynchronizedString(obj, lock, ctx)
        return SynchronizedArray(obj, lock, ctx)
    cls = type(obj)
    try:
        wrapper = class_cache[cls]
    except KeyError:
        members = {field[0]: make_property(field[0]) for field in cls._fields_}
        wrapper = class_cache[cls] = type(f"Synchronized{cls.__name__}", (SynchronizedBase,), members)
    return wrapper(obj, lock, ctx)


prop_cache: dict[str, property] = {}
class_cache: weakref.WeakKeyDictionary[type, type[SynchronizedBase[Any]]] = weakref.WeakKeyDictionary()


def make_property(name: str) -> property:
    """A property that gets and sets that attribute of the wrapped object under the lock."""
    try:
        return prop_cache[name]
    except KeyError:
        pass

    def get(self: SynchronizedBase[Any]) -> Any:
        self.acquire()
        try:
            return getattr(self._obj, name)
        finally:
            self.release()

    def set(self: SynchronizedBase[Any], value: Any) -> None:
        self.acquire()
        try:
            setattr(self._obj, name, value)
        finally:
            self.release()

    prop_cache[name] = property(get, set)
    return prop_cache[name]


class SynchronizedBase(_native.SynchronizedBase, Generic[T]):
    """A ctypes object and the lock that guards it, a new RLock of `ctx` if none is given."""

    def __init__(self, obj: Any, lock: Any = None, ctx: BaseContext | None = None) -> None:
        if not lock:
            ctx = ctx or get_context()
            lock = ctx.RLock()
        self._begin(obj, lock)

    if TYPE_CHECKING:

        def get_lock(self) -> Any:
            """The lock that guards the object."""
    else:
        get_lock = _members["get_lock"]

    def __reduce__(self) -> Any:
        context.assert_spawning(self)
        return synchronized, (self._obj, self._lock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class Synchronized(SynchronizedBase[T]):
    """A simple value and its lock. Integers have atomic operations: see the module."""

    if TYPE_CHECKING:
        value: T

        def add(self, n: int, /) -> int:
            """Add `n` in one step, and return the value before; it wraps around as the type does."""

        def load(self) -> int:
            """The value, without taking the lock."""

        def store(self, value: int, /) -> None:
            """Set the value in one step, without taking the lock; OverflowError if it does not fit."""

        def exchange(self, value: int, /) -> int:
            """Set the value in one step, and return the one before."""

        def compare_exchange(self, expected: int, desired: int, /) -> int:
            """Set the value if it is `expected`, in one step, and return the one before."""
    else:
        value = _members["value"]
        add = _members["add"]
        load = _members["load"]
        store = _members["store"]
        exchange = _members["exchange"]
        compare_exchange = _members["compare_exchange"]


class SynchronizedArray(SynchronizedBase[T]):
    """An array and its lock."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, i: Any) -> Any:
        with self:
            return self._obj[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        with self:
            self._obj[i] = value

    def __getslice__(self, start: int, stop: int) -> Any:
        with self:
            return self._obj[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        with self:
            self._obj[start:stop] = values


class SynchronizedString(SynchronizedArray[bytes]):
    """An array of bytes and its lock."""

    value = make_property("value")
    raw = make_property("raw")


def _reduce_earlier(value: Any) -> Any:
    """For values of the standard library's classes that were made before these were replaced."""
    return synchronized, (value._obj, value._lock)


for _earlier in ("Synchronized", "SynchronizedArray", "SynchronizedString"):
    reduction.register(getattr(sharedctypes, _earlier), _reduce_earlier)

_patches.finish(__name__)
