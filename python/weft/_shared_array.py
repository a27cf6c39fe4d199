"""`weft.SharedArray`: an array that processes share, which is gone with the last of them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from weft import _native
from weft.multiprocessing import _regions

if TYPE_CHECKING:
    import numpy

# By kind and size, as in numpy's array interface: what the `struct` module and the buffer protocol call it.
_FORMATS = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "l",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "L",
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "c8": "Zf",
    "c16": "Zd",
}
_KINDS = {**{form: kind for kind, form in _FORMATS.items()}, "q": "i8", "Q": "u8"}
_PYTHON_TYPES: dict[object, str] = {bool: "b1", int: "i8", float: "f8", complex: "c16"}
_NAMES = {"bool": "b", "int": "i", "uint": "u", "float": "f", "complex": "c"}

_ORDER = "<" if sys.byteorder == "little" else ">"


def _kind_of(dtype: object) -> str:
    """The kind and size of an item, as `f8`; TypeError for what cannot be shared."""
    if isinstance(dtype, type) and dtype in _PYTHON_TYPES:
        return _PYTHON_TYPES[dtype]
    text = dtype
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and (isinstance(dtype, numpy.dtype) or isinstance(dtype, type)):
        text = numpy.dtype(dtype).str
    if isinstance(text, str):
        if text in _KINDS:
            return _KINDS[text]
        short = text.lstrip("=|" + _ORDER)
        if short in _FORMATS:
            return short
        named = re.fullmatch(r"([a-z]+?)(\d*)", text)
        if named is not None and named[1] in _NAMES:
            bits = int(named[2] or ("8" if named[1] == "bool" else "128" if named[1] == "complex" else "64"))
            if f"{_NAMES[named[1]]}{bits // 8}" in _FORMATS:
                return f"{_NAMES[named[1]]}{bits // 8}"
    raise TypeError(
        f"a shared array cannot have items of the type {dtype!r}: they are booleans, integers, floats and complex numbers "
        "of this machine's byte order, as 'f8', 'int32' or numpy.float32; share bytes ('u1') for others"
    )


class SharedArray(_native.SharedRegion):
    """An array of numbers that several processes use at once. It has no name; it is gone with the last user.

    `shape` is the number of items, or a sequence of lengths; `dtype` the type of an item: a Python type (the default is
    `float`), a numpy type, or a name like "f8", "int32" or "d". All items are zero at first. The memory is taken at once:
    MemoryError if it is not to be had. Raises TypeError for other types, ValueError for a negative length.

    It is passed by reference, to processes as an argument and through queues and pipes; who receives it, or inherits it by
    a fork, is a user of the memory until the object and all views of it (arrays, memoryviews) are gone, or the process
    has ended, also by SIGKILL. A reference on its way is a user too: in a weft queue until the queue is gone, in a
    pipe until the sender has ended, and one minute longer.

    It has the buffer protocol and numpy's array interface: `numpy.asarray(shared)`, or `shared.asarray()`, is an array on
    the same memory. Nothing orders the accesses of several processes: use a lock, or give each its part.
    """

    __module__ = "weft"

    _kind: str
    _shape: tuple[int, ...]

    def __init__(self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: object = float) -> None:
        kind = _kind_of(dtype)
        lengths = tuple(map(index, shape)) if isinstance(shape, Sequence) else (index(shape),)
        if any(length < 0 for length in lengths):
            raise ValueError(f"a length cannot be negative: {lengths}")
        nbytes = math.prod(lengths) * int(kind[1:])
        if nbytes > sys.maxsize:
            raise MemoryError(f"{nbytes} bytes are more than shared memory can hold in one piece")
        self._create(nbytes)
        self._restore(kind, lengths)

    def _restore(self, kind: str, shape: tuple[int, ...]) -> None:
        self._kind, self._shape = kind, shape
        self._describe(_FORMATS[kind], int(kind[1:]), shape)

    def _description(self) -> tuple[str, tuple[int, ...]]:
        return self._kind, self._shape

    @classmethod
    def copy_of(cls, source: Any) -> SharedArray:
        """A shared array with the items of `source`, an object with the buffer protocol, such as a numpy array.

        Raises TypeError if its items are none that a shared array can have.
        """
        view = memoryview(source)
        copy = cls(view.shape or (), _kind_of(view.format.lstrip("@=" + _ORDER)))
        if copy.nbytes:
            memoryview(copy).cast("B")[:] = view.cast("B") if view.c_contiguous else view.tobytes()
        return copy

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths in each dimension."""
        return self._shape

    @property
    def dtype(self) -> str:
        """The type of an item, as numpy's array interface has it: "<f8"."""
        return ("|" if self.itemsize == 1 else _ORDER) + self._kind

    @property
    def itemsize(self) -> int:
        """How many bytes an item has."""
        return int(self._kind[1:])

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """How many items there are."""
        return math.prod(self._shape)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": self._shape, "typestr": self.dtype, "data": (self._address(), False)}

    def asarray(self) -> numpy.ndarray[Any, Any]:
        """A numpy array on this memory. ImportError without numpy."""
        import numpy

        return numpy.asarray(self)

    def copy(self) -> SharedArray:
        """A new shared array with the same items."""
        return type(self).copy_of(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedArray:
        return self.copy()

    def tobytes(self) -> bytes:
        """A copy of the items as bytes."""
        return memoryview(self).tobytes()

    def tolist(self) -> Any:
        """A copy of the items as a list of lists, a number if there is no dimension."""
        return memoryview(self).tolist()

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("this array has no dimension, and so no length")
        return self._shape[0]

    def __getitem__(self, key: Any) -> Any:
        """As a memoryview has it: an item, or with one dimension a memoryview of a slice."""
        return memoryview(self)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        memoryview(self)[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(memoryview(self))

    def __repr__(self) -> str:
        return f"<weft.SharedArray of {self.dtype}, shape {self._shape}>"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _regions.register(cls)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a shared array is passed on by reference: as an argument of a process, through a queue or a pipe of "
            "multiprocessing; to keep its items elsewhere pickle a copy, as tobytes() or a numpy array"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        self.__reduce__()


_regions.register(SharedArray)
