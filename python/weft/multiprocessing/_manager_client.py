"""The ways from a process to a manager's server: lanes in shared memory on the same machine, connections otherwise.

A *route* belongs to one thread and has `call(ident, method, args, kwds, otherwise)` and `close()`. The first thread of a process
that wants a lane asks for it over the server's socket, by the standard library's protocol and with its
authentication; the server names its desk, and hands over the shared memory if this process does not have it. All
further lanes are claimed at the desk. A server that knows nothing of lanes, or is reached over TCP, is spoken to as the
standard library does.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from multiprocessing import context, process, reduction, util
from multiprocessing import managers as _managers
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from weft import _native
from weft._unpicklable import UnpicklableError
from weft.multiprocessing import _manager_ends as ends
from weft.multiprocessing._manager_unpicklable import unsendable

if TYPE_CHECKING:
    from collections.abc import Iterator

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["LaneUnusable", "Route", "open_route", "request", "speaks_pickle"]

# What a manager's server answers itself has no object.
SERVER = ""


class LaneUnusable(Exception):
    """The lane is in use by the code that a signal handler interrupted, belongs to a parent, or is closed."""


def _send(connection: Any, ident: str | None, method: str, args: Any, kwds: Any) -> None:
    """Send a call. UnpicklableError for what the pickler refuses: then nothing was sent, and the connection is as it was."""
    try:
        connection.send((ident, method, args, kwds))
    except OSError:
        raise
    except Exception as error:
        raise unsendable(error, ident or SERVER, method, args, kwds) from error


class _Socket:
    """A route over a connection, by the standard library's protocol."""

    is_lane = False

    def __init__(self, connection: Any, address: Any) -> None:
        self._connection = connection
        self._address = address
        self._busy = False
        # Not every kind of connection can tell.
        self.closed = False

    def introduce(self) -> bool:
        """Tell the server who this is, and learn who that is. False if it is one of the standard library's."""
        self._connection.send((SERVER, "hello", (ends.identity(),), {}))
        kind, result = self._connection.recv()
        if kind != "#RETURN":
            return False
        ends.learn(self._address, result)
        return True

    def call(self, ident: str, method: str, args: Any, kwds: Any, otherwise: Any) -> Any:
        if self._busy or self.closed:
            raise LaneUnusable
        self._busy = True
        try:
            with ends.naming(self._address):
                _send(self._connection, ident, method, args, kwds)
                kind, result = self._connection.recv()
        except UnpicklableError:
            raise
        except BaseException:
            # Whoever calls next would receive the answer to this call.
            self.close()
            raise
        finally:
            self._busy = False
        if kind == "#RETURN":
            return result
        return otherwise(kind, result)

    @property
    def usable(self) -> bool:
        return not self._busy and not self.closed

    def close(self) -> None:
        self.closed = True
        self._connection.close()

    def __getattr__(self, name: str) -> Any:
        # Programs that reach into a proxy's `_tls` find a connection there.
        return getattr(self._connection, name)


class _Inside:
    """The route of the server itself to its own objects: what it is given and gives back is copied as by any other."""

    is_lane = False
    usable = True

    def __init__(self, server: Any) -> None:
        self._server = server

    def call(self, ident: str, method: str, args: Any, kwds: Any, otherwise: Any) -> Any:
        args, kwds = _copied((tuple(args), dict(kwds)))
        kind, result = self._server.carry_out(None, ident, method, args, kwds)
        if kind == "#RETURN":
            return _copied(result)
        return otherwise(kind, result)

    def close(self) -> None:
        """Nothing is held."""


def _copied(value: Any) -> Any:
    return reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(value))


Route = Any
Lane = _native.ManagerLane


class Local(util.ForkAwareLocal):
    """What each thread, and each greenlet of a thread with a hub, has of its own: `connection`, the route that it calls through.

    Not one for all greenlets of a thread: they call at the same time, and a lock in the server belongs to a route.
    """

    @property
    def connection(self) -> Route:
        caller = _native._hub.own_greenlet()
        try:
            if caller is None:
                return self.__dict__["connection"]
            return self.__dict__["_greenlets"][caller]
        except KeyError:
            raise AttributeError("connection") from None

    @connection.setter
    def connection(self, route: Route) -> None:
        caller = _native._hub.own_greenlet()
        if caller is None:
            self.__dict__["connection"] = route
        else:
            self.__dict__.setdefault("_greenlets", WeakKeyDictionary())[caller] = route

    @connection.deleter
    def connection(self) -> None:
        caller = _native._hub.own_greenlet()
        if caller is None:
            del self.__dict__["connection"]
        else:
            del self.__dict__["_greenlets"][caller]


# Servers that know a process by a connection, by that process and their addresses, and how they are reached.
_introduced: dict[tuple[int, Any], tuple[bytes, Any]] = {}


class _Desk:
    """What this process knows of a server on this machine."""

    def __init__(self, desk: Any, pid: int) -> None:
        self.desk = desk
        self.pid = pid

    def claim(self) -> Route | None:
        return self.desk.claim(self.pid)


# By address: the server's desk, or None if it has none for this process. A forked child knows what its parent knew.
_desks: dict[Any, _Desk | None] = {}
# A thread may need it in its own midst: finalizers of proxies run wherever the interpreter collects garbage.
_lock = threading.RLock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


def speaks_pickle(client: Any) -> bool:
    """Whether what is said arrives as it was. XML-RPC has no tuples, and only small numbers."""
    return client is _stock.listener_client["pickle"][1]


def _may_have_lanes(address: Any, client: Any) -> bool:
    return isinstance(address, (str, bytes)) and speaks_pickle(client)


def open_route(address: Any, authkey: bytes, client: Any, name: str) -> Route:
    """A route to the server at `address` for the calling thread, whose name is `name`.

    Raises what connecting raises, and `ManagerDied` if there is no server any more.
    """
    server = getattr(process.current_process(), "_manager_server", None)
    if server is not None and server.address == address:
        return _Inside(server)
    desk = _find_desk(address, authkey, client)
    if desk is not None:
        lane = desk.claim()
        if lane is not None:
            _say_goodbye_at_the_end()
            return lane
    with ends.naming(address):
        connection = client(address, authkey=authkey)
        try:
            _stock.dispatch(connection, None, "accept_connection", (name,))
            route = _Socket(connection, address)
            if speaks_pickle(client) and route.introduce():
                _introduced[os.getpid(), address] = authkey, client
                _say_goodbye_at_the_end()
        except BaseException:
            connection.close()
            raise
    return route


def _find_desk(address: Any, authkey: bytes, client: Any) -> _Desk | None:
    if not _may_have_lanes(address, client):
        return None
    with _lock:
        known = _desks.get(address)
        if address in _desks and (known is None or known.desk.alive):
            return known
    with ends.naming(address):
        found = _introduce(address, authkey, client)
    with _lock:
        _desks[address] = found
    return found


def _introduce(address: Any, authkey: bytes, client: Any) -> _Desk | None:
    """Ask the server for its desk. None if it has none for this process."""
    with client(address, authkey=authkey) as connection:
        connection.send((None, "open_lanes", (), {}))
        kind, result = connection.recv()
        if kind != "#RETURN" or result is None:
            return None
        place, pid = result
        had = True

        def fetch() -> int:
            nonlocal had
            had = False
            connection.send_bytes(b"need")
            return reduction.recv_handle(connection)

        _native.attach_arena(place[0], fetch)
        if had:
            connection.send_bytes(b"have")
        desk = _native.ManagerDesk()
        desk.attach(place)
        connection.recv()
    ends.learn(address, ends.identity_of(pid, place))
    return _Desk(desk, pid)


def forget(address: Any) -> None:
    """There is another server at `address` now, perhaps."""
    with _lock:
        _desks.pop(address, None)


def connect(address: Any, authkey: bytes, client: Any) -> None:
    """Make sure that there is a server at `address`, and learn who it is. Raises `ManagerDied` if there is none."""
    forget(address)
    with ends.naming(address):
        connection = client(address, authkey=authkey)
        try:
            who = _stock.dispatch(connection, None, "who_serves" if speaks_pickle(client) else "dummy")
        except _stock.RemoteError:
            who = None  # the standard library's
        finally:
            connection.close()
    ends.forget_ended(address)
    if who is not None:
        ends.learn(address, who)


def request(address: Any, authkey: bytes, client: Any, tls: Any, name: str, *args: Any, **kwds: Any) -> Any:
    """Call a function of the server itself, through the route that the thread has, or is given a lane for."""
    server = getattr(process.current_process(), "_manager_server", None)
    if server is not None and server.address == address:
        return server.call_function(None, name, args, kwds)
    route = getattr(tls, "connection", None)
    if isinstance(route, Lane) and not route.alive:
        del tls.connection
        route = None
    if route is None and _find_desk(address, authkey, client) is not None:
        route = open_route(address, authkey, client, thread_name())
        tls.connection = route
    if isinstance(route, Lane):
        try:
            return route.call(SERVER, name, args, kwds, _failed)
        except LaneUnusable:
            util.debug("the lane is in use further down the stack of this thread: asking over a connection")
    with ends.naming(address):
        connection = client(address, authkey=authkey)
        try:
            _send(connection, None, name, args, kwds)
            kind, result = connection.recv()
        finally:
            connection.close()
    return result if kind == "#RETURN" else _failed(kind, result)


def _failed(kind: str, result: Any) -> Any:
    raise _stock.convert_to_error(kind, result)


def thread_name() -> str:
    """What the server calls the thread that serves the calling one."""
    name = process.current_process().name
    thread = threading.current_thread().name
    return name if thread == "MainThread" else f"{name}|{thread}"


# -- The end of this process

_goodbye_for: int | None = None


def _say_goodbye_at_the_end() -> None:
    global _goodbye_for
    if _goodbye_for != os.getpid():
        _goodbye_for = os.getpid()
        util.Finalize(None, _say_goodbye, exitpriority=-10)


def _say_goodbye() -> None:
    """Let the servers know that this process ends normally: what it leaves locked is left so on purpose."""
    with _lock:
        desks = {address: known for address, known in _desks.items() if known and known.desk.alive}
    for address, known in desks.items():
        lane = known.claim()
        if lane is not None:
            with _unheard_by(address):
                lane.call(SERVER, "goodbye", (), {}, _failed)
    for (pid, address), (authkey, client) in list(_introduced.items()):
        if pid == os.getpid() and address not in desks:
            with _unheard_by(address), client(address, authkey=authkey) as connection:
                _stock.dispatch(connection, None, "goodbye", (ends.identity(),))


@contextmanager
def _unheard_by(address: Any) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, context.AuthenticationError, _stock.RemoteError) as error:
        util.debug("no goodbye to the manager at %r: %s", address, error)
