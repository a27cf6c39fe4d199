"""`weft.SharedDict`: a dictionary that lies in shared memory itself."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from multiprocessing import context
from typing import Any

from weft import _native
from weft.multiprocessing.queues import _passed_on

__all__ = ["SharedDict"]

_KEYS, _VALUES, _ITEMS = range(3)


class _Keys(KeysView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return self._mapping._each(_KEYS)  # type: ignore[attr-defined, no-any-return]


class _Values(ValuesView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return self._mapping._each(_VALUES)  # type: ignore[attr-defined, no-any-return]

    def __contains__(self, value: object) -> bool:
        return any(value is found or value == found for found in self)


class _Items(ItemsView[Any, Any]):
    def __iter__(self) -> Iterator[Any]:
        return self._mapping._each(_ITEMS)  # type: ignore[attr-defined, no-any-return]


class SharedDict(_native.SharedDictBase, MutableMapping[Any, Any]):
    """A dictionary in shared memory, which processes use without a server: a `get` takes a fraction of a microsecond.

    It is made like a `dict`, from a mapping or pairs, and keywords. It reaches other processes when they are started, as an argument
    of a process or among the `initargs` of a pool, or is inherited by a fork; a queue, a connection or a pool's task
    does not take it. It lives as long as a process has it.

    What it holds are copies. A value is encoded or pickled when it is set, and made anew at every `get`: changing a
    list that was got changes nothing here, and nothing is the same object. Keys are None, bools, integers of 64 bits,
    floats, strings, bytes, and tuples of these (up to 128 items and 6 levels), and equal as in a `dict`. Anything else is a TypeError, also for `in`; so is an
    instance of a subclass (of an IntEnum, say, or numpy's float64), because it would not come back as what it was. There is no order.

    An entry has its old value or its new one, whoever is killed at whatever moment. `d[key] += 1` is two operations, between
    which others may come, whose change is then lost: `add` and `update_with` are one. Iterating never fails, whatever others do
    meanwhile: what is there all the time comes once, what comes or goes meanwhile comes at most once. `len` is a
    sum over parts that may be changing.

    Whoever has it can write to its memory, and is trusted like the sender of a pickle. Raises MemoryError if there is
    no shared memory.
    """

    __module__ = "weft"

    def __init__(self, other: Mapping[Any, Any] | Iterable[Any] = (), /, **items: Any) -> None:
        self._create()
        self.update(other, **items)

    def update(self, other: Any = (), /, **items: Any) -> None:
        """Set the keys of a mapping, or of pairs, and those of the keywords, one after the other."""
        if type(other) is dict:
            self._update(other)
        else:
            MutableMapping.update(self, other)
        if items:
            self._update(items)

    def _each(self, what: int) -> Iterator[Any]:
        for part in range(self._PARTS):
            yield from self._part(part, what)

    def __iter__(self) -> Iterator[Any]:
        return self._each(_KEYS)

    def keys(self) -> KeysView[Any]:
        """The keys."""
        return _Keys(self)

    def values(self) -> ValuesView[Any]:
        """The values."""
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        """The pairs of key and value, each as it was at one moment."""
        return _Items(self)

    def popitem(self) -> tuple[Any, Any]:
        """Remove some entry, and return its key and value; KeyError if there is none."""
        nothing = object()
        for part in range(self._PARTS):
            while (found := self._any_key(part)) is not None:
                value = self.pop(found[0], nothing)
                if value is not nothing:
                    return found[0], value
        raise KeyError("popitem(): dictionary is empty")

    def copy(self) -> dict[Any, Any]:
        """A `dict` of its own with the same entries."""
        return dict(self.items())

    def __repr__(self) -> str:
        return f"<weft.SharedDict with {len(self)} entries>"

    def _extra(self) -> None:
        """Nothing else has to reach another process."""

    def __reduce__(self) -> Any:
        context.assert_spawning(self)
        place, memory, _ = _passed_on(self)
        return _attached, (type(self), place, memory)


def _attached(cls: type[SharedDict], place: tuple[int, int, int], memory: Any) -> SharedDict:
    shared: SharedDict = cls.__new__(cls)
    _native.attach_arena(place[0], memory.detach)
    shared._attach(*place)
    return shared
