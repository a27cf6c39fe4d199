"""Proxies: what a client has of a shared object.

They have the standard library's attributes and methods (`_callmethod`, `_getvalue`, `_token`, `_tls` ...), which programs
reach into. What is new: `update_with`, `add` and `batch` on those of containers, iteration in batches, and that every call goes
through a lane if the server is on the same machine (`_manager_client`).
"""

from __future__ import annotations

import threading
import time
import types
from multiprocessing import managers as _managers
from multiprocessing import process, util
from typing import TYPE_CHECKING, Any

from weft import _native
from weft.multiprocessing import _manager_client as client
from weft.multiprocessing import _manager_ends as ends
from weft.multiprocessing import _manager_server as server
from weft.multiprocessing._manager_batch import Compound
from weft.multiprocessing._manager_unpicklable import portable
from weft.multiprocessing.context import get_spawning_popen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

_StockProxy: Any = _stock.BaseProxy
State: Any = _stock.State

# What the standard library calls them, for readers without weft.
_STOCK_NAMES = "multiprocessing.managers"


class BaseProxy(_native.ProxyBase, _StockProxy):  # type: ignore[misc]
    """The base of all proxies."""

    _address_to_local: dict[Any, Any] = {}
    _mutex: Any = util.ForkAwareThreadLock()

    def __init__(
        self,
        token: Any,
        serializer: str,
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Any = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        self._tls, self._idset = _locals_of(token.address)
        self._token = token
        self._id = token.id
        self._bind(token.id)
        self._manager = manager
        self._serializer = serializer
        self._Client = _stock.listener_client[serializer][1]
        # A proxy inside the server keeps no reference: the server would never let go of the object.
        self._owned_by_manager = manager_owned
        if authkey is not None:
            self._authkey = process.AuthenticationString(authkey)  # type: ignore[attr-defined]
        elif self._manager is not None:
            self._authkey = self._manager._authkey
        else:
            self._authkey = process.current_process().authkey
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    def _connect(self) -> client.Route:
        util.debug("making connection to manager")
        route = client.open_route(self._token.address, self._authkey, self._Client, client.thread_name())
        before = getattr(self._tls, "connection", None)
        # One that is in use by the code below this on the stack stays the thread's.
        if before is None or before.usable is False:
            self._tls.connection = route
        return route

    def _call_slowly(self, methodname: str, args: Any, kwds: Any) -> Any:
        """As `_callmethod`, which calls this if the thread did not call through this proxy, or has no lane."""
        try:
            route = self._tls.connection
        except AttributeError:
            route = self._connect()
        try:
            result = route.call(self._id, methodname, args, kwds, self._otherwise)
        except client.LaneUnusable:
            return self._call_anew(methodname, args, kwds)
        if isinstance(route, client.Lane):
            self._remember(route)
        return result

    def _call_anew(self, methodname: str, args: Any, kwds: Any) -> Any:
        """Call through another route: the thread's is in use by code that this one interrupted, or is closed."""
        before = self._tls.connection
        route = client.open_route(self._token.address, self._authkey, self._Client, client.thread_name())
        if before.usable or before.closed:
            self._tls.connection = route
            return route.call(self._id, methodname, args, kwds, self._otherwise)
        try:
            return route.call(self._id, methodname, args, kwds, self._otherwise)
        finally:
            route.close()

    def _otherwise(self, kind: str, result: Any) -> Any:
        if kind != "#PROXY":
            try:
                raise _stock.convert_to_error(kind, result)
            finally:
                del result  # or the exception would keep itself and this proxy
        exposed, token = result
        if self._manager is not None:
            proxytype = self._manager._registry[token.typeid][-1]
        else:
            # In a process that got this proxy from another one.
            proxytype = IteratorProxy if token.typeid == "Iterator" else AutoProxy
        token.address = self._token.address
        proxy = proxytype(
            token, self._serializer, manager=self._manager, authkey=self._authkey, exposed=exposed
        )
        self._request("decref", token.id)
        return proxy

    def _request(self, function: str, *args: Any) -> Any:
        return client.request(self._token.address, self._authkey, self._Client, self._tls, function, *args)

    def _incref(self) -> None:
        if self._owned_by_manager:
            util.debug("owned_by_manager skipped INCREF of %r", self._token.id)
            return
        self._request("incref", self._id)
        util.debug("INCREF %r", self._token.id)
        self._idset.add(self._id)
        state = self._manager and self._manager._state
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(self._token, self._authkey, state, self._tls, self._idset, self._Client),
            exitpriority=10,
        )

    @staticmethod
    def _decref(token: Any, authkey: bytes, state: Any, tls: Any, idset: Any, _Client: Any) -> None:
        idset.discard(token.id)
        if state is None or state.value == State.STARTED:
            try:
                util.debug("DECREF %r", token.id)
                client.request(token.address, authkey, _Client, tls, "decref", token.id)
            except Exception as error:
                util.debug("... decref failed %s", error)
        else:
            util.debug("DECREF %r -- manager already shutdown", token.id)
        if not idset and hasattr(tls, "connection"):
            util.debug("thread %r has no more proxies so closing conn", threading.current_thread().name)
            tls.connection.close()
            del tls.connection

    def __reduce__(self) -> Any:
        keywords: dict[str, Any] = {}
        if get_spawning_popen() is not None:
            keywords["authkey"] = self._authkey
        if getattr(self, "_isauto", False):
            keywords["exposed"] = self._exposed_
            cls: Any = AutoProxy
        else:
            cls = type(self)
        rebuild: Any = RebuildProxy
        if server.is_for_anybody() and cls.__module__ == __name__:
            # The standard library's names are known to all.
            cls, rebuild = getattr(_stock, cls.__name__, cls), _stock.RebuildProxy
        known = ends.find(self._token.address)
        if known is not None and _is_for_us():
            # So that whoever comes after the server's end can say whose that was.
            introduction = ends.Introduction(known, get_spawning_popen())
            return _rebuild_known, (cls, self._token, self._serializer, keywords, introduction)
        return rebuild, (cls, self._token, self._serializer, keywords)


class _Stock:
    """The standard library's classes and functions, whatever its module has in their places now."""

    def __init__(self) -> None:
        self.__dict__.update(
            (name, value)
            for name, value in vars(_stock).items()
            if getattr(value, "__module__", None) == _STOCK_NAMES
        )
        self.BaseProxy_reduce = _StockProxy.__reduce__


_STOCK: Any = _Stock()


def _locals_of(address: Any) -> Any:
    """What this process keeps for all proxies of a server: a route for each thread, and the objects it has references to."""
    with BaseProxy._mutex:
        known = BaseProxy._address_to_local.get(address)
        if known is None:
            known = client.Local(), _stock.ProcessLocalSet()
            BaseProxy._address_to_local[address] = known
    return known


def RebuildProxy(func: Any, token: Any, serializer: str, kwds: Any) -> Any:
    """The proxy that was pickled, in another process or in the server."""
    own: Any = getattr(process.current_process(), "_manager_server", None)
    if own and own.address == token.address:
        util.debug("Rebuild a proxy owned by manager, token=%r", token)
        kwds["manager_owned"] = True
        if token.id not in own.id_to_local_proxy_obj:
            own.id_to_local_proxy_obj[token.id] = own.id_to_obj[token.id]
    incref = kwds.pop("incref", True) and not getattr(process.current_process(), "_inheriting", False)
    return func(token, serializer, incref=incref, **kwds)


def _rebuild_known(func: Any, token: Any, serializer: str, kwds: Any, introduction: ends.Introduction) -> Any:
    """As `RebuildProxy`, from a process that knew the server."""
    introduction.make(token.address)
    return RebuildProxy(func, token, serializer, kwds)


def _is_for_us() -> bool:
    """Whether whoever reads what this thread pickles has weft: our own children, and readers of what has our names in it."""
    if get_spawning_popen() is not None:
        return True
    return RebuildProxy.__module__ == __name__ and not server.is_for_anybody()


_made: dict[tuple[str, tuple[str, ...]], type[BaseProxy]] = {}


def _method(name: str) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = method.__qualname__ = name
    return method


def MakeProxyType(name: str, exposed: Any, _cache: Any = _made) -> Any:
    """A class of proxies with the methods that `exposed` names. The same arguments give the same class."""
    exposed = tuple(exposed)
    try:
        return _cache[(name, exposed)]
    except KeyError:
        pass
    made = type(name, (BaseProxy,), {"_exposed_": exposed})
    for method in exposed:
        setattr(made, method, _native.proxy_method(made, method) or _method(method))
    _cache[(name, exposed)] = made
    return made


def AutoProxy(
    token: Any,
    serializer: str,
    manager: Any = None,
    authkey: bytes | None = None,
    exposed: Any = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> Any:
    """A proxy with the public methods of the shared object."""
    if authkey is None and manager is not None:
        authkey = manager._authkey
    if authkey is None:
        authkey = process.current_process().authkey
    if exposed is None:
        tls, _ = _locals_of(token.address)
        connect = _stock.listener_client[serializer][1]
        exposed = client.request(token.address, authkey, connect, tls, "get_methods", token)
    made = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = made(
        token, serializer, manager=manager, authkey=authkey, incref=incref, manager_owned=manager_owned
    )
    proxy._isauto = True
    return proxy


# -- Proxies of what `SyncManager` has


class IteratorProxy(BaseProxy):
    """A proxy of an iterator. Of those that cannot block it fetches several items at a time, ever more."""

    _exposed_ = ("__next__", "send", "throw", "close")
    _MOST = 2048

    def __iter__(self) -> IteratorProxy:
        return self

    def __next__(self, *args: Any) -> Any:
        state = self.__dict__
        items = state.get("_items")
        if items:
            return items.pop()
        if args or not self._fetches():
            return self._callmethod("__next__", args)
        count = state["_count"] = min(state.get("_count", 0) * 2 or 1, self._MOST)
        items = self._callmethod("#NEXT", (count,))
        items.reverse()
        state["_items"] = items
        return items.pop()

    def _fetches(self) -> bool:
        route = getattr(self._tls, "connection", None) or self._connect()
        return isinstance(route, client.Lane)

    def send(self, *args: Any) -> Any:
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        return self._callmethod("close", args)


class AcquirerProxy(BaseProxy):
    """A proxy of a lock or semaphore."""

    _exposed_: tuple[str, ...] = ("acquire", "release")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        args = (blocking,) if timeout is None else (blocking, timeout)
        return self._callmethod("acquire", args)

    def release(self) -> Any:
        return self._callmethod("release")

    def __enter__(self) -> Any:
        return self._callmethod("acquire")

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        return self._callmethod("release")


class ConditionProxy(AcquirerProxy):
    """A proxy of a condition variable."""

    _exposed_ = ("acquire", "release", "wait", "notify", "notify_all")

    def wait(self, timeout: float | None = None) -> Any:
        return self._callmethod("wait", (timeout,))

    def notify(self, n: int = 1) -> Any:
        return self._callmethod("notify", (n,))

    def notify_all(self) -> Any:
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        end = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class EventProxy(BaseProxy):
    """A proxy of an event."""

    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self) -> Any:
        return self._callmethod("is_set")

    def set(self) -> Any:
        return self._callmethod("set")

    def clear(self) -> Any:
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> Any:
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy):
    """A proxy of a barrier."""

    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> Any:
        return self._callmethod("wait", (timeout,))

    def abort(self) -> Any:
        return self._callmethod("abort")

    def reset(self) -> Any:
        return self._callmethod("reset")

    @property
    def parties(self) -> Any:
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> Any:
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> Any:
        return self._callmethod("__getattribute__", ("broken",))


class NamespaceProxy(BaseProxy):
    """A proxy of a namespace: its attributes are the shared object's, but for those that begin with `_`."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any: ...

    def __setattr__(self, key: str, value: Any) -> Any:
        if key[0] == "_":
            return object.__setattr__(self, key, value)
        return object.__getattribute__(self, "_callmethod")("__setattr__", (key, value))

    def __delattr__(self, key: str) -> Any:
        if key[0] == "_":
            return object.__delattr__(self, key)
        return object.__getattribute__(self, "_callmethod")("__delattr__", (key,))


NamespaceProxy.__getattr__ = _native.proxy_method(NamespaceProxy, "__getattr__")  # type: ignore[method-assign]
_native.quicken_namespace(NamespaceProxy)


class ValueProxy(BaseProxy):
    """A proxy of a value. `v.value += 1` is two calls, between which others may come: use `add` or `update_with`."""

    _exposed_ = ("get", "set")

    if TYPE_CHECKING:

        def get(self, /, *args: Any, **kwds: Any) -> Any: ...

        def set(self, /, *args: Any, **kwds: Any) -> Any: ...

        value = property(get, set)

    def update_with(self, function: Callable[..., Any], *args: Any) -> Any:
        """Replace the value by `function(value, *args)`, in the server, and return it. No other call comes in between."""
        return self._callmethod("#UPDATE_WITH", (None, portable(function), args, ()))

    def add(self, amount: Any = 1) -> Any:
        """Add to the value, and return the sum, in one call."""
        return self._callmethod("#ADD", (None, amount, 0))

    __class_getitem__: Any = classmethod(types.GenericAlias)


for _name in ("get", "set"):
    setattr(ValueProxy, _name, _native.proxy_method(ValueProxy, _name))
ValueProxy.value = property(ValueProxy.get, ValueProxy.set)

_STOCK_LIST = _STOCK.ListProxy._exposed_
BaseListProxy: Any = MakeProxyType("BaseListProxy", _STOCK_LIST)


class ListProxy(Compound, BaseListProxy):  # type: ignore[misc]
    """A proxy of a list."""

    def __iadd__(self, value: Any) -> ListProxy:
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value: Any) -> ListProxy:
        self._callmethod("__imul__", (value,))
        return self

    def __iter__(self) -> Iterator[Any]:
        """The items, by index, fetched several at a time, ever more."""
        index, count = 0, 1
        while items := self[index : index + count]:
            yield from items
            index, count = index + len(items), min(count * 2, IteratorProxy._MOST)

    __class_getitem__: Any = classmethod(types.GenericAlias)


_STOCK_DICT = _STOCK.DictProxy._exposed_
_BaseDictProxy: Any = MakeProxyType("DictProxy", _STOCK_DICT)
_BaseDictProxy._method_to_typeid_ = {"__iter__": "Iterator"}


class DictProxy(Compound, _BaseDictProxy):  # type: ignore[misc]
    """A proxy of a dictionary."""

    __class_getitem__: Any = classmethod(types.GenericAlias)


BaseSetProxy: Any = MakeProxyType(
    "BaseSetProxy",
    (
        *("__and__", "__contains__", "__iter__", "__len__", "__or__", "__rand__", "__ror__", "__rsub__"),
        *("__rxor__", "__sub__", "__xor__", "__iand__", "__ior__", "__isub__", "__ixor__"),
        *("__eq__", "__ge__", "__gt__", "__le__", "__lt__", "__ne__"),
        *("add", "clear", "copy", "difference", "difference_update", "discard", "intersection"),
        *("intersection_update", "isdisjoint", "issubset", "issuperset", "pop", "remove"),
        *("symmetric_difference", "symmetric_difference_update", "union", "update"),
    ),
)
BaseSetProxy._method_to_typeid_ = {"__iter__": "Iterator"}


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        self._callmethod(name, (other,))
        return self

    method.__name__ = method.__qualname__ = name
    return method


class SetProxy(BaseSetProxy):  # type: ignore[misc]
    """A proxy of a set, as in 3.14."""

    __iand__ = _in_place("intersection_update")
    __ior__ = _in_place("update")
    __isub__ = _in_place("difference_update")
    __ixor__ = _in_place("symmetric_difference_update")
    __hash__ = object.__hash__
    __class_getitem__: Any = classmethod(types.GenericAlias)


ArrayProxy: Any = MakeProxyType("ArrayProxy", ("__len__", "__getitem__", "__setitem__"))

BasePoolProxy: Any = MakeProxyType("PoolProxy", _STOCK.BasePoolProxy._exposed_)
BasePoolProxy._method_to_typeid_ = dict(_STOCK.BasePoolProxy._method_to_typeid_)


class PoolProxy(BasePoolProxy):  # type: ignore[misc]
    """A proxy of a pool of processes, which are children of the server."""

    def __enter__(self) -> PoolProxy:
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self.terminate()


# Whoever unpickles it imports that module first, as it has to be: this one's own first import is of what that takes the place of.
_rebuild_known.__module__ = "weft.multiprocessing.managers"

# By these names they are found again when they are pickled.
for _proxy in (BaseListProxy, _BaseDictProxy, BaseSetProxy, ArrayProxy, BasePoolProxy):
    _proxy.__module__ = __name__
