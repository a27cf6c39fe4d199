"""Several operations on a shared object as one: what their callers have of that (`_manager_compound` is the server's part)."""

from __future__ import annotations

from multiprocessing import managers as _managers
from typing import TYPE_CHECKING, Any

from weft.multiprocessing._manager_unpicklable import portable

if TYPE_CHECKING:
    from collections.abc import Callable

# With its private parts, which its type stubs do not have.
_stock: Any = _managers
_StockProxy: Any = _stock.BaseProxy

__all__ = ["Batch", "Compound", "batch"]

_NO_ANSWER = "its calls return nothing before it is run; `results` has the answers afterwards"


class Batch:
    """Calls of one shared object that are made together, in one trip.

    Use its methods, items and attributes as the proxy's; they return nothing. `run()`, or the end of a `with` block that nothing was raised in, makes the
    calls and sets `results`, a list of what they returned. If one raises, those behind it are not made, those
    before it stay made and have their answers in `results`, and the exception is raised here.

    Of a dict, list, set, array, Namespace or Value no other call comes between them. Of other objects others may: these can have
    methods that wait, as a queue's `get`, and a batch waits in its turn as they do. A method that returns a shared object
    cannot be in a batch: TypeError, before anything is called.
    """

    results: list[Any]

    _proxy: Any
    _calls: list[tuple[str, Any, Any]]

    def __init__(self, proxy: Any) -> None:
        self.__dict__.update(_proxy=proxy, _calls=[])

    def call(self, method: str, *args: Any, **kwds: Any) -> None:
        """Note a call of the method of that name."""
        self._calls.append((method, args, kwds))

    def __getattr__(self, name: str) -> Any:
        if name in ("add", "update_with") and isinstance(self._proxy, Compound):
            raise AttributeError(f"{name} is one operation by itself, and cannot be put into a batch")
        exposed = self._proxy._exposed_
        if name.startswith("_"):
            raise AttributeError(f"{self._proxy!r} has no method {name!r} to be put into a batch")
        if name == "results":
            raise AttributeError("a batch has no results before it is run")
        if name == "value" and self._has_value():
            self.call("get")
            return None
        if name not in exposed:
            if "__getattribute__" in exposed:
                self.call("__getattribute__", name)
                return None
            raise AttributeError(f"{self._proxy!r} has no method {name!r} to be put into a batch")
        return lambda *args, **kwds: self.call(name, *args, **kwds)

    def __setattr__(self, name: str, value: Any) -> None:
        self._own(name)
        if "__setattr__" in self._proxy._exposed_:
            self.call("__setattr__", name, value)
        elif name == "value" and self._has_value():
            self.call("set", value)
        else:
            raise AttributeError(f"{self._proxy!r} has no attribute {name!r} to be set in a batch")

    def __delattr__(self, name: str) -> None:
        self._own(name)
        if "__delattr__" not in self._proxy._exposed_:
            raise AttributeError(f"{self._proxy!r} has no attribute {name!r} to be deleted in a batch")
        self.call("__delattr__", name)

    def _has_value(self) -> bool:
        """Whether it is a proxy with an attribute `value`, for `get` and `set`."""
        return isinstance(getattr(type(self._proxy), "value", None), property)

    def _own(self, name: str) -> None:
        if name.startswith("_") or hasattr(Batch, name) or name in Batch.__annotations__:
            raise AttributeError(
                f"{name} is the batch's own: call('__setattr__', {name!r}, ...) means the shared object's"
            )

    def __setitem__(self, key: Any, value: Any) -> None:
        self.call("__setitem__", key, value)

    def __getitem__(self, key: Any) -> None:
        self.call("__getitem__", key)

    def __delitem__(self, key: Any) -> None:
        self.call("__delitem__", key)

    def __iter__(self) -> Any:
        raise TypeError(f"a batch cannot be iterated over: {_NO_ANSWER}")

    def __contains__(self, key: Any) -> bool:
        raise TypeError(f"a batch cannot say what is in it: {_NO_ANSWER}")

    def run(self) -> list[Any]:
        """Make the calls, and return what they returned."""
        calls, self.__dict__["_calls"] = self._calls, []
        self.__dict__["results"], failure, _ = self._proxy._callmethod("#BATCH", (calls,))
        if failure is not None:
            self._proxy._otherwise(*failure)
        return self.results

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.run()


def batch(proxy: Any) -> Batch:
    """Calls of the shared object of `proxy` that are to be made together; see `Batch`.

    TypeError if it is no proxy of a manager's object."""
    if not isinstance(proxy, _StockProxy):
        raise TypeError(f"batch() takes a proxy of a manager's object, not {type(proxy).__qualname__}")
    return Batch(proxy)


class Compound:
    """Operations that read and write, and that nothing comes in between."""

    _callmethod: Callable[..., Any]

    def update_with(self, key: Any, function: Callable[..., Any], *args: Any, **missing: Any) -> Any:
        """Replace the value at `key` by `function(value, *args)`, and return it. No other call comes in between.

        `function` runs in the server, and should be short. It travels by its name; a lambda or a closure as its code, if the package
        cloudpickle is installed, and raises `weft.UnpicklableError` otherwise. A key that is not there is a KeyError
        (IndexError for lists), unless `default=value` says what to begin with.

        `d[key] += 1` is two calls, between which others may come, whose change is then lost.
        """
        default = _only_default(missing)
        return self._callmethod("#UPDATE_WITH", (key, portable(function), args, default))

    def add(self, key: Any, amount: Any = 1, default: Any = 0) -> Any:
        """Add `amount` to the value at `key`, or to `default` if there is none, and return the sum, in one call."""
        return self._callmethod("#ADD", (key, amount, default))


def _only_default(missing: dict[str, Any]) -> Any:
    default = (missing.pop("default"),) if "default" in missing else ()
    if missing:
        raise TypeError(f"update_with() got an unexpected keyword argument {next(iter(missing))!r}")
    return default
