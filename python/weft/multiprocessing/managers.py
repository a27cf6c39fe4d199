"""Managers, as `multiprocessing.managers` has them.

A manager's objects live in a server process, and are used through proxies. What differs from the standard library:

* a client on the server's machine calls through shared memory, without a connection, and without a thread of its own in the
  server unless it has to wait there;
* the server's death is `weft.ManagerDied` (an EOFError and a ConnectionResetError) for all who wait for it, at once;
* an identity never comes to mean another object, and what a killed client had references to is let go of;
* `update_with`, `add`, `batch`: compound operations that nothing comes in between; `set`.

Servers and clients understand those of the standard library, in both directions. Semantics:
https://docs.python.org/3/library/multiprocessing.html#managers
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from multiprocessing import managers as _managers
from multiprocessing import process, resource_tracker, util
from typing import TYPE_CHECKING, Any

from weft import _patches, _title
from weft.multiprocessing import _manager_client as client
from weft.multiprocessing import _manager_ends as ends
from weft.multiprocessing import _manager_farewell as farewell
from weft.multiprocessing import _manager_locks as locks
from weft.multiprocessing import _manager_objects as objects
from weft.multiprocessing import _manager_proxies as proxies
from weft.multiprocessing import connection, context
from weft.multiprocessing._manager_batch import Batch as Batch
from weft.multiprocessing._manager_batch import batch as batch
from weft.multiprocessing._manager_proxies import (
    AcquirerProxy as AcquirerProxy,
)
from weft.multiprocessing._manager_proxies import (
    ArrayProxy as ArrayProxy,
)
from weft.multiprocessing._manager_proxies import (
    AutoProxy as AutoProxy,
)
from weft.multiprocessing._manager_proxies import (
    BarrierProxy as BarrierProxy,
)
from weft.multiprocessing._manager_proxies import (
    BaseListProxy as BaseListProxy,
)
from weft.multiprocessing._manager_proxies import (
    BasePoolProxy as BasePoolProxy,
)
from weft.multiprocessing._manager_proxies import (
    BaseProxy as BaseProxy,
)
from weft.multiprocessing._manager_proxies import (
    ConditionProxy as ConditionProxy,
)
from weft.multiprocessing._manager_proxies import (
    DictProxy as DictProxy,
)
from weft.multiprocessing._manager_proxies import (
    EventProxy as EventProxy,
)
from weft.multiprocessing._manager_proxies import (
    IteratorProxy as IteratorProxy,
)
from weft.multiprocessing._manager_proxies import (
    ListProxy as ListProxy,
)
from weft.multiprocessing._manager_proxies import (
    MakeProxyType as MakeProxyType,
)
from weft.multiprocessing._manager_proxies import (
    NamespaceProxy as NamespaceProxy,
)
from weft.multiprocessing._manager_proxies import (
    PoolProxy as PoolProxy,
)
from weft.multiprocessing._manager_proxies import (
    RebuildProxy as RebuildProxy,
)
from weft.multiprocessing._manager_proxies import (
    SetProxy as SetProxy,
)
from weft.multiprocessing._manager_proxies import (
    ValueProxy as ValueProxy,
)
from weft.multiprocessing._manager_proxies import (
    _rebuild_known as _rebuild_known,
)
from weft.multiprocessing._manager_server import Server, SharedMemoryServer
from weft.multiprocessing.errors import ManagerDied as ManagerDied

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.multiprocessing._stock import AnyProcess

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["BaseManager", "BaseProxy", "SharedMemoryManager", "SyncManager", "Token"]

Token = _stock.Token
State: Any = _stock.State
RemoteError = _stock.RemoteError
Namespace = _stock.Namespace
Value = _stock.Value
dispatch = _stock.dispatch
_server_gone = ends.server_gone
_StockManager: Any = _stock.BaseManager


class BaseManager(_StockManager):  # type: ignore[misc]
    """A manager of shared objects in a server process; `register` says what kinds of objects.

    `address` is where the server can be reached: a path or a host and port, by default a new path; `authkey` what clients
    have to know, by default the process's key; `shutdown_timeout` how many seconds the server has for its end, before it gets
    SIGTERM, and as many before SIGKILL.
    """

    _registry: dict[str, Any] = {}
    _Server = Server

    # For connections; a subclass may set them. The size in bytes of the longest message from a client that has the key,
    # and how many seconds a peer has to prove that it has it.
    longest_message = Server.longest_message
    handshake_timeout = Server.handshake_timeout

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: Any = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None:
        super().__init__(
            address,
            authkey,
            serializer,
            ctx or context._default_context.get_context(),
            shutdown_timeout=shutdown_timeout,
        )
        self._process: AnyProcess | None = None
        self._address: Any = address

    def _check_initial(self) -> None:
        value = self._state.value
        if value == State.STARTED:
            raise context.ProcessError("Already started server")
        if value == State.SHUTDOWN:
            raise context.ProcessError("Manager has shut down")
        if value != State.INITIAL:
            raise context.ProcessError(f"Unknown state {value!r}")

    def get_server(self) -> Any:
        """A server with a `serve_forever` method and an `address`, to serve in this process."""
        self._check_initial()
        return self._make_server(self._registry, self._address, self._authkey, self._serializer)

    @classmethod
    def _make_server(cls, registry: Any, address: Any, authkey: bytes, serializer: str) -> Any:
        server = cls._Server(registry, address, authkey, serializer)
        server.longest_message, server.handshake_timeout = cls.longest_message, cls.handshake_timeout
        return server

    def connect(self) -> None:
        """Connect to a server that is running.

        Raises `weft.ManagerDied` if there is none, which is a ConnectionRefusedError or a FileNotFoundError as well.
        """
        client.connect(self._address, self._authkey, self._Client)
        self._state.value = State.STARTED

    def start(self, initializer: Callable[..., object] | None = None, initargs: Any = ()) -> None:
        """Start the server process, which calls `initializer(*initargs)` first."""
        self._check_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        reader, writer = connection.Pipe(duplex=False)
        server = self._ctx.Process(
            target=type(self)._run_server,
            args=(
                self._registry,
                self._address,
                self._authkey,
                self._serializer,
                writer,
                initializer,
                initargs,
            ),
        )
        self._process = server
        ident = ":".join(str(part) for part in server._identity)
        server.name = f"{type(self).__name__}-{ident}"
        server.start()
        writer.close()
        who = None
        try:
            self._address = reader.recv()
            if type(self)._run_server.__func__ is BaseManager._run_server.__func__:  # type: ignore[attr-defined]
                who = reader.recv()
        except EOFError as error:
            server.join()
            raise ManagerDied(server.pid, "manager", server.exitcode, self._address) from error
        finally:
            reader.close()
        client.forget(self._address)
        ends.started(self._address, server, who)
        self._state.value = State.STARTED
        self.shutdown = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(server, self._address, self._authkey, self._state, self._Client, self._shutdown_timeout),
            exitpriority=0,
        )

    @classmethod
    def _run_server(
        cls,
        registry: Any,
        address: Any,
        authkey: bytes,
        serializer: str,
        writer: Any,
        initializer: Callable[..., object] | None = None,
        initargs: Any = (),
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _title.call_manager()
        if initializer is not None:
            initializer(*initargs)
        server = cls._make_server(registry, address, authkey, serializer)
        writer.send(server.address)
        writer.send(server.who_serves(None))
        writer.close()
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    def _request(self, function: str, *args: Any, **kwds: Any) -> Any:
        tls, _ = proxies._locals_of(self._address)
        return client.request(self._address, self._authkey, self._Client, tls, function, *args, **kwds)

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        state = self._state.value
        # What the standard library raises; programs that are run with -O want to know, too.
        if state == State.SHUTDOWN:
            raise AssertionError(
                f"cannot make a shared {typeid!r}: the manager was shut down, and its objects are gone"
            )
        if state != State.STARTED:
            raise AssertionError(
                f"cannot make a shared {typeid!r}: server not yet started; call start() or connect()"
            )
        ident, exposed = self._request("create", typeid, *args, **kwds)
        return Token(typeid, self._address, ident), exposed

    def _debug_info(self) -> Any:
        return self._request("debug_info")

    def _number_of_objects(self) -> Any:
        return self._request("number_of_objects")

    @staticmethod
    def _finalize_manager(
        server: AnyProcess, address: Any, authkey: bytes, state: Any, _Client: Any, shutdown_timeout: float
    ) -> None:
        try:
            farewell.end_server(server, address, authkey, _Client, shutdown_timeout)
        finally:
            state.value = State.SHUTDOWN
            ends.ended(address)
            proxies.BaseProxy._address_to_local.pop(address, None)
            _remove_socket(address)

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Any = None,
        proxytype: Any = None,
        exposed: Any = None,
        method_to_typeid: Any = None,
        create_method: bool = True,
    ) -> None:
        """Let managers of this class make shared objects of the kind `typeid`.

        `callable(*args, **kwds)` makes one, in the server; `proxytype` is the class of its proxies, by default one with the methods
        `exposed`, by default all public ones. `method_to_typeid` names methods whose results are shared objects, and their kinds.
        With `create_method` the class gets a method of the name `typeid`.
        """
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(proxytype, "_method_to_typeid_", None)
        for key, value in list(method_to_typeid.items()) if method_to_typeid else ():
            assert type(key) is str, f"{key!r} is not a string"
            assert type(value) is str, f"{value!r} is not a string"
        cls._registry[typeid] = (callable, exposed, method_to_typeid, proxytype)
        if create_method:

            def make(self: Any, /, *args: Any, **kwds: Any) -> Any:
                util.debug("requesting creation of a shared %r object", typeid)
                token, exp = self._create(typeid, *args, **kwds)
                proxy = proxytype(token, self._serializer, manager=self, authkey=self._authkey, exposed=exp)
                self._request("decref", token.id)
                return proxy

            make.__name__ = typeid
            setattr(cls, typeid, make)


def _remove_socket(address: Any) -> None:
    """Remove the socket of a server that has ended, and its folder, if it made them itself: one that was killed could not."""
    if not isinstance(address, str):
        return
    folder, name = os.path.split(address)
    if name.startswith("listener-") and os.path.basename(folder).startswith("pymp-"):
        with contextlib.suppress(OSError):
            os.unlink(address)
        config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
        # A forked server puts it where this process has its own.
        if folder != config.get("tempdir"):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


class SyncManager(BaseManager):
    """A manager of dictionaries, lists, sets, namespaces, values, queues, locks and pools."""

    if TYPE_CHECKING:

        def Queue(self, /, *args: Any, **kwds: Any) -> Any: ...
        def JoinableQueue(self, /, *args: Any, **kwds: Any) -> Any: ...
        def Event(self, /, *args: Any, **kwds: Any) -> EventProxy: ...
        def Lock(self, /, *args: Any, **kwds: Any) -> AcquirerProxy: ...
        def RLock(self, /, *args: Any, **kwds: Any) -> AcquirerProxy: ...
        def Semaphore(self, /, *args: Any, **kwds: Any) -> AcquirerProxy: ...
        def BoundedSemaphore(self, /, *args: Any, **kwds: Any) -> AcquirerProxy: ...
        def Condition(self, /, *args: Any, **kwds: Any) -> ConditionProxy: ...
        def Barrier(self, /, *args: Any, **kwds: Any) -> BarrierProxy: ...
        def Pool(self, /, *args: Any, **kwds: Any) -> PoolProxy: ...
        def list(self, /, *args: Any, **kwds: Any) -> ListProxy: ...
        def dict(self, /, *args: Any, **kwds: Any) -> DictProxy: ...
        def set(self, /, *args: Any, **kwds: Any) -> SetProxy: ...
        def Value(self, /, *args: Any, **kwds: Any) -> ValueProxy: ...
        def Array(self, /, *args: Any, **kwds: Any) -> Any: ...
        def Namespace(self, /, *args: Any, **kwds: Any) -> NamespaceProxy: ...


def _pool(*args: Any, **kwds: Any) -> Any:
    from weft.multiprocessing import pool

    return pool.Pool(*args, **kwds)


SyncManager.register("Queue", objects.Queue)
SyncManager.register("JoinableQueue", objects.Queue)
SyncManager.register("Event", locks.Event, EventProxy)
SyncManager.register("Lock", threading.Lock, AcquirerProxy)
SyncManager.register("RLock", locks.RLock, AcquirerProxy)
SyncManager.register("Semaphore", locks.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", locks.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", locks.Condition, ConditionProxy)
SyncManager.register("Barrier", locks.Barrier, BarrierProxy)
SyncManager.register("Pool", _pool, PoolProxy)
SyncManager.register("list", list, ListProxy)
SyncManager.register("dict", dict, DictProxy)
SyncManager.register("set", set, SetProxy)
SyncManager.register("Value", Value, ValueProxy)
SyncManager.register("Array", _stock.Array, ArrayProxy)
SyncManager.register("Namespace", Namespace, NamespaceProxy)
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)


class SharedMemoryManager(BaseManager):
    """A manager of segments of shared memory, which are removed when it is shut down."""

    _Server = SharedMemoryServer

    def __init__(self, *args: Any, **kwds: Any) -> None:
        # The server and this process have to have one tracker.
        resource_tracker.ensure_running()  # type: ignore[attr-defined, unused-ignore]
        super().__init__(*args, **kwds)
        util.debug("%s created by pid %s", type(self).__name__, os.getpid())

    def __del__(self) -> None:
        util.debug("%s.__del__ by pid %s", type(self).__name__, os.getpid())

    def SharedMemory(self, size: int) -> Any:
        """A new segment of `size` bytes."""
        from multiprocessing.shared_memory import SharedMemory

        return self._tracked(SharedMemory(None, create=True, size=size), lambda segment: segment)

    def ShareableList(self, sequence: Any) -> Any:
        """A new list in a segment, with the items of `sequence`."""
        from multiprocessing.shared_memory import ShareableList

        return self._tracked(ShareableList(sequence), lambda made: made.shm)

    def _tracked(self, made: Any, segment_of: Callable[[Any], Any]) -> Any:
        try:
            self._request("track_segment", segment_of(made).name)
        except BaseException:
            segment_of(made).unlink()
            raise
        return made


def take_over(stock: Any) -> None:
    """Let the proxies go on that the standard library's managers made before they were replaced.

    Pickling finds their classes by name, which means ours from now on: so that is what they are pickled as. Ours are pickled by
    these names as well, which a process without weft knows, too.
    """
    before = stock.BaseProxy
    if issubclass(before, BaseProxy):
        return
    before.__reduce__ = _reduce_displaced
    for name in dir(proxies):
        ours = getattr(proxies, name)
        if getattr(ours, "__module__", None) == proxies.__name__ and not name.startswith("_"):
            ours.__module__ = stock.__name__


def _reduce_displaced(proxy: Any) -> Any:
    """How a standard library's proxy is pickled after its class was replaced."""
    rebuild, (cls, *rest) = proxies._STOCK.BaseProxy_reduce(proxy)
    if cls.__module__ == _stock.__name__:
        cls = globals().get(cls.__name__, cls)
    return RebuildProxy if rebuild is proxies._STOCK.RebuildProxy else rebuild, (cls, *rest)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_stock, name)


_patches.finish(__name__)
