"""Objects whose attributes are each greenlet's own. As gevent.local.

A dictionary for each greenlet that used the object lies in the object's *store*, by the greenlet's identity, and is dropped
when the greenlet ends, when it is freed, or with the object. Attributes are looked up by the interpreter's own functions, which
are told the dictionary of the greenlet that asks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from weft.greenlet import getcurrent

from . import _hub

__all__ = ["local"]

_getattr_in, _setattr_in, _delattr_in = _hub.getattr_in, _hub.setattr_in, _hub.delattr_in


class _Store:
    """The dictionaries of one local, and what it was made with."""

    __slots__ = ("__weakref__", "args", "dicts", "kind", "kwargs", "number", "watched")

    def __init__(self, owner: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.kind = type(owner)
        self.number = id(owner)
        self.args = args
        self.kwargs = kwargs
        self.dicts: dict[int, dict[str, Any]] = {}
        # Weak references to those greenlets, which tell when one is freed.
        self.watched: dict[int, tuple[weakref.ref[Any], _Forget]] = {}

    def enter(self, greenlet: Any) -> dict[str, Any]:
        """A dictionary for a greenlet that has none."""
        number = id(greenlet)
        forget = _Forget(weakref.ref(self), number)
        attributes = self.dicts[number] = {}
        self.watched[number] = (weakref.ref(greenlet, forget), forget)
        # A greenlet that has ended, but is still referred to, is as good as freed.
        link = getattr(greenlet, "rawlink", None)
        if link is not None:
            link(forget)
        return attributes

    def __del__(self) -> None:
        # No greenlet keeps a link to what is gone.
        for watched, forget in self.watched.values():
            unlink = getattr(watched(), "unlink", None)
            if unlink is not None:
                unlink(forget)


class _Forget:
    """Drops one greenlet's dictionary; called with the greenlet or a dead reference to it."""

    __slots__ = ("number", "store")

    def __init__(self, store: weakref.ref[_Store], number: int) -> None:
        self.store = store
        self.number = number

    def __call__(self, _ended: object) -> None:
        store = self.store()
        # The number may be another greenlet's by now.
        if store is not None:
            known = store.watched.get(self.number)
            if known is not None and known[1] is self:
                del store.watched[self.number]
                store.dicts.pop(self.number, None)


_stores: weakref.WeakSet[_Store] = weakref.WeakSet()


def _attributes(owner: local) -> dict[str, Any]:
    """The dictionary of the current greenlet, which is made, and filled by `__init__`, at its first use."""
    store = _store_of(owner)
    greenlet = getcurrent()
    found = store.dicts.get(id(greenlet))
    if found is None:
        found = store.enter(greenlet)
        # As each greenlet is to find what the maker of the object found.
        type(owner).__init__(owner, *store.args, **store.kwargs)
    return found


class local:
    """An object whose attributes are each greenlet's own.

    A subclass may have an `__init__`, which is called, with the arguments the object was made with, in every greenlet that
    uses it; what its `__slots__` name is shared.
    """

    __slots__ = ("_local__store",)
    _local__store: _Store

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError("Initialization arguments are not supported", args, kwargs)
        made = super().__new__(cls)
        store = _Store(made, args, kwargs)
        object.__setattr__(made, "_local__store", store)
        _stores.add(store)
        # `__init__` is called for this greenlet by whoever makes the object.
        store.enter(getcurrent())
        return made

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            # Asked for by `isinstance`, also of those who look through all objects: that is no use of it.
            return type(self)
        attributes = _attributes(self)
        return attributes if name == "__dict__" else _getattr_in(self, name, attributes)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        _setattr_in(self, name, value, _attributes(self))

    def __delattr__(self, name: str) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        _delattr_in(self, name, _attributes(self))

    def __copy__(self) -> Any:
        store = _store_of(self)
        made = type(self)(*store.args, **store.kwargs)
        own = _attributes(made)
        own.clear()
        own.update(_attributes(self))
        return made


_store_of: Callable[[local], _Store] = local.__dict__["_local__store"].__get__


def all_local_dicts_for_greenlet(greenlet: Any) -> list[tuple[tuple[type, int], dict[str, Any]]]:
    """What is local to a greenlet: type and identity of each object, and its attributes."""
    number = id(greenlet)
    return [
        ((store.kind, store.number), store.dicts[number]) for store in list(_stores) if number in store.dicts
    ]
