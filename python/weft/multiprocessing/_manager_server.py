"""The server of a manager: its objects, who has references to them, and how calls reach them.

Calls come in by two front ends. *Lanes* in shared memory are served by one thread, which calls what does not block by itself
(`_manager_objects`) and gives everything else to a thread of the caller's own. *Connections* have a thread each and
speak the standard library's protocol. Both end in `carry_out`.

References of a process that calls through lanes are counted for that process. The *keeper*, a thread, watches such
processes, and lets go of what one had when it has ended: its references, its lanes, and its waits. What it held locked becomes free if it
was killed; the next one that acquires it is told by `OwnerDied`.
"""

from __future__ import annotations

import operator
import os
import select
import socket
import struct
import sys
import threading
from collections import Counter, deque
from contextlib import contextmanager
from multiprocessing import managers as _managers
from multiprocessing import process, reduction, util
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from weft import _native
from weft.multiprocessing import _manager_objects as objects
from weft.multiprocessing.errors import OwnerDied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["Server", "SharedMemoryServer"]

# A message from a connection may be so long, in bytes.
LONGEST_MESSAGE = 1 << 31

_Owner = tuple[int, int]
_StockServer: Any = _stock.Server
_Lock: Any = type(threading.Lock())


class _Caller:
    """One thread of a client that calls through a lane, and the thread of the server that works for it."""

    def __init__(self, server: Server, lane: int, owner: _Owner) -> None:
        self.lane = lane
        self.owner = owner
        self.gone = False
        # The condition that the thread waits for.
        self.waits_for: threading.Condition | None = None
        self._server = server
        self._work: deque[tuple[str, str, Any, Any]] = deque()
        self._bell = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def give(self, ident: str, method: str, args: Any, kwds: Any) -> None:
        """Let the caller's own thread carry out a call, and answer it."""
        if self._thread is None:
            name = f"lane {self.lane} of process {self.owner[0]}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._work.append((ident, method, args, kwds))
        self._bell.release()

    def retire(self) -> None:
        """Nobody will call through this lane any more: end the thread, and what it waits for."""
        self.gone = True
        condition = self.waits_for
        if condition is not None:
            with condition:
                condition.notify_all()
        self._bell.release()

    def _run(self) -> None:
        objects.waiting.caller = self
        while True:
            self._bell.acquire()
            if not self._work:
                return
            ident, method, args, kwds = self._work.popleft()
            try:
                if ident:
                    answer = self._server.carry_out(self, ident, method, args, kwds)
                else:
                    answer = self._server.answer_function(self, method, args, kwds)
            except objects.CallerGone:
                answer = ("#RETURN", None)  # to nobody
            del args, kwds
            self._server.desk.answer(self.lane, *answer)
            del answer


class Server(_StockServer):  # type: ignore[misc]
    """Serves shared objects until it is told to shut down. Made by a manager, in the process that is to serve."""

    public = [*_StockServer.public, "open_lanes", "goodbye"]

    # Functions that the serving thread calls itself.
    _quick = frozenset({"incref", "decref", "get_methods", "number_of_objects", "dummy", "goodbye"})

    def __init__(self, registry: Any, address: Any, authkey: bytes, serializer: str) -> None:
        super().__init__(registry, address, authkey, serializer)
        self.desk = _native.ManagerDesk()
        self.desk.create()
        self.id_to_obj: dict[str, Any] = {"0": (None, (), None)}
        self._callers: dict[int, _Caller] = {}
        # How many references each process has to each object, of those that call through lanes.
        self._owned: dict[_Owner, Counter[str]] = {}
        self._ends_normally: set[_Owner] = set()
        # Which process has a lock, and which one was killed with it.
        self._held: dict[str, _Owner] = {}
        self._orphaned: dict[str, int] = {}
        self._watched: dict[int, _Owner] = {}
        self._watch = select.epoll()
        self._compound = threading.RLock()

    # -- Serving

    def serve_forever(self) -> None:
        """Run the server until it is told to shut down; then exit this process."""
        self.stop_event = threading.Event()
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        try:
            is_open = threading.Event()
            threading.Thread(target=self._serve_lanes, args=(is_open,), name="lanes", daemon=True).start()
            is_open.wait()
            threading.Thread(target=self._keep, name="keeper", daemon=True).start()
            threading.Thread(target=self.accepter, name="accepter", daemon=True).start()
            try:
                self.stop_event.wait()
            except (KeyboardInterrupt, SystemExit):
                util.debug("manager was interrupted")
        finally:
            self.desk.close()
            if sys.stdout != sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
            sys.exit(0)

    def accepter(self) -> None:
        """Take connections, each into a thread of its own."""
        while True:
            try:
                connection = self.listener.accept()
            except OSError:
                continue
            threading.Thread(target=self.handle_request, args=(connection,), daemon=True).start()

    def accept_connection(self, c: Any, name: str) -> None:
        """Serve a thread of a client over this connection."""
        # If it would rather have had a lane, one may be left by a process that ended before it called.
        self.desk.sweep_dead()
        super().accept_connection(c, name)

    def serve_client(self, conn: Any) -> None:
        """Answer the calls of one thread of a client over a connection, until it closes it."""
        util.debug("starting server thread to service %r", threading.current_thread().name)
        loads = getattr(conn, "_loads", reduction.ForkingPickler.loads)
        while not self.stop_event.is_set():
            try:
                data = conn.recv_bytes(LONGEST_MESSAGE)
            except (EOFError, ConnectionError):
                util.debug("got EOF -- exiting thread serving %r", threading.current_thread().name)
                sys.exit(0)
            try:
                ident, method, args, kwds = loads(data)
                del data
                message = self.carry_out(None, ident, method, args, kwds)
            except Exception:
                message = ("#TRACEBACK", format_exc())
            ident = method = args = kwds = None
            try:
                _for_anybody.on = True
                try:
                    conn.send(message)
                except OSError:
                    raise
                except Exception:
                    conn.send(("#UNSERIALIZABLE", format_exc()))
                finally:
                    _for_anybody.on = False
            except Exception as error:
                util.info("exception in thread serving %r", threading.current_thread().name)
                util.info(" ... message was %r", message)
                util.info(" ... exception was %r", error)
                conn.close()
                sys.exit(1)
            del message

    # -- Lanes

    def open_lanes(self, c: Any) -> None:
        """Name the desk to a client on the same machine, and give it the shared memory if it has not got it."""
        peer = _peer(c)
        place = self.desk.handle()
        if peer is None:
            c.send(("#RETURN", None))
            return
        c.send(("#RETURN", (place, os.getpid())))
        if c.recv_bytes(16) == b"need":
            reduction.send_handle(c, _native.arena_descriptor(place[0]), peer)

    def _serve_lanes(self, is_open: threading.Event) -> None:
        self.desk.serve(self._dispatch, self._arrived, objects.WOULD_BLOCK, is_open.set)

    def _arrived(self, lane: int, owner: _Owner | None) -> None:
        """A process has claimed the lane, and calls through it for the first time."""
        before = self._callers.pop(lane, None)
        if before is not None:
            before.retire()
        if owner is None:
            return
        if owner not in self._owned:
            self._owned[owner] = Counter()
            self._watch_process(owner)
        self._callers[lane] = _Caller(self, lane, owner)

    def _dispatch(self, lane: int, ident: str, method: str, args: Any, kwds: Any) -> tuple[str, Any] | None:
        """A call that is not to be called directly: its answer, or None if the caller's thread will answer it."""
        caller = self._callers[lane]
        kwds = kwds or {}
        if not ident:
            if method in self._quick or (method == "create" and self._makes_quickly(args)):
                return self.answer_function(caller, method, args, kwds)
        else:
            entry = self.id_to_obj.get(ident)
            if entry is not None and type(entry[0]) is _Lock:
                quick: tuple[str, Any] | None = self._quick_lock(caller, ident, entry, method, args, kwds)
                if quick is not None:
                    return quick
            elif entry is not None and type(entry[0]) in objects.CONTAINERS and method in _INLINE:
                if self._compound.acquire(blocking=False):
                    try:
                        return self.carry_out(caller, ident, method, args, kwds)
                    finally:
                        self._compound.release()
        caller.give(ident, method, args, kwds)
        return None

    def _makes_quickly(self, args: Any) -> bool:
        entry = self.registry.get(args[0]) if args else None
        return entry is not None and entry[0] in _QUICKLY_MADE

    # -- The functions of the server

    def call_function(self, caller: Any, name: str, args: Any, kwds: Any) -> Any:
        """Call a function of the server itself."""
        assert name in self.public, f"{name!r} unrecognized"
        return getattr(self, name)(caller, *args, **kwds)

    def answer_function(self, caller: Any, name: str, args: Any, kwds: Any) -> tuple[str, Any]:
        """As `call_function`, as an answer."""
        try:
            return "#RETURN", self.call_function(caller, name, args, kwds)
        except Exception:
            return "#TRACEBACK", format_exc()

    def create(self, c: Any, typeid: str, /, *args: Any, **kwds: Any) -> tuple[str, tuple[str, ...]]:
        """Create a new shared object; return its identity, and the names of the methods that may be called."""
        make, exposed, method_to_typeid, _proxytype = self.registry[typeid]
        if make is None:
            if kwds or len(args) != 1:
                raise ValueError("Without callable, must have one non-keyword argument")
            obj = args[0]
        else:
            obj = make(*args, **kwds)
        if exposed is None:
            exposed = _stock.public_methods(obj)
        if method_to_typeid is not None:
            if not isinstance(method_to_typeid, dict):
                raise TypeError(
                    f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)}, not dict"
                )
            exposed = list(exposed) + list(method_to_typeid)
        direct = objects.direct_methods(obj, exposed, method_to_typeid)
        with self.mutex:
            ident: str = self.desk.enter(direct, obj, objects.sort_of(obj))
            util.debug("%r callable returned object with id %r", typeid, ident)
            self.id_to_obj[ident] = (obj, set(exposed), method_to_typeid)
            self.id_to_refcount[ident] = 0
        self.incref(c, ident)
        return ident, tuple(exposed)

    def incref(self, c: Any, ident: str) -> None:
        """One more reference to an object."""
        super().incref(c, ident)
        if isinstance(c, _Caller) and c.owner in self._owned:
            self._owned[c.owner][ident] += 1

    def decref(self, c: Any, ident: str) -> None:
        """One reference less; without any the object goes."""
        if isinstance(c, _Caller) and c.owner in self._owned:
            count = self._owned[c.owner]
            count[ident] -= 1
            if count[ident] <= 0:
                del count[ident]
        self._let_go(ident, 1)

    def _let_go(self, ident: str, count: int) -> None:
        for _ in range(count):
            super().decref(None, ident)
        if ident not in self.id_to_refcount and ident not in self.id_to_local_proxy_obj:
            self.desk.leave(ident)
            self._held.pop(ident, None)
            self._orphaned.pop(ident, None)

    def goodbye(self, c: Any) -> None:
        """The process that calls is about to end normally."""
        self._ends_normally.add(c.owner)

    def shutdown(self, c: Any) -> None:
        """Shut this process down."""
        if isinstance(c, _Caller):
            self.stop_event.set()
        else:
            super().shutdown(c)

    # -- Calls

    def carry_out(
        self, caller: _Caller | None, ident: str, method: str, args: Any, kwds: Any
    ) -> tuple[str, Any]:
        """Call the method of an object, wherever the call comes from, and return the kind of answer and the answer."""
        obj = None
        try:
            try:
                obj, exposed, gettypeid = self.id_to_obj[ident]
            except KeyError as error:
                try:
                    obj, exposed, gettypeid = self.id_to_local_proxy_obj[ident]
                except KeyError:
                    raise error from None
            if method not in exposed:
                raise AttributeError(
                    f"method {method!r} of {type(obj)!r} object is not in exposed={exposed!r}"
                )
            function = getattr(obj, method)
        except AttributeError:
            return self._fall_back(ident, obj, method, args, kwds)
        except Exception:
            return "#TRACEBACK", format_exc()
        try:
            if type(obj) is _Lock:
                result = self._call_lock(caller, ident, obj, method, args, kwds)
            elif type(obj) in objects.CONTAINERS:
                # Not in the middle of a compound operation.
                with self._compound:
                    result = function(*args, **kwds)
            else:
                result = function(*args, **kwds)
        except objects.CallerGone:
            raise
        except Exception as error:
            return "#ERROR", error
        typeid = gettypeid and gettypeid.get(method, None)
        if not typeid:
            return "#RETURN", result
        try:
            new_ident, new_exposed = self.create(caller, typeid, result)
        except Exception:
            return "#TRACEBACK", format_exc()
        return "#PROXY", (new_exposed, _stock.Token(typeid, self.address, new_ident))

    def _fall_back(self, ident: str, obj: Any, method: str, args: Any, kwds: Any) -> tuple[str, Any]:
        own = _OPERATIONS.get(method)
        try:
            if own is not None:
                return own(self, ident, obj, *args, **kwds)
            function = self.fallback_mapping[method]
            return "#RETURN", function(self, None, ident, obj, *args, **kwds)
        except Exception:
            return "#TRACEBACK", format_exc()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this lasts, no container is changed by anybody else."""
        with self._compound:
            self.desk.set_exclusive(True)
            try:
                yield
            finally:
                self.desk.set_exclusive(False)

    def _update_with(
        self, ident: str, obj: Any, key: Any, function: Any, args: Any, missing: Any
    ) -> tuple[str, Any]:
        exposed = self.id_to_obj[ident][1]
        setters = {_stock.Value: "set", _stock.Namespace: "__setattr__"}
        if setters.get(type(obj), "__setitem__") not in exposed:
            raise AttributeError(f"{type(obj)!r} object has no value to be updated, or does not expose it")
        with self._alone():
            try:
                if isinstance(obj, _stock.Value):
                    obj.value = result = function(obj.value, *args)
                elif isinstance(obj, _stock.Namespace):
                    before = getattr(obj, key) if not missing else getattr(obj, key, missing[0])
                    result = function(before, *args)
                    setattr(obj, key, result)
                else:
                    before = obj[key] if not missing or key in obj else missing[0]
                    obj[key] = result = function(before, *args)
            except Exception as error:
                return "#ERROR", error
        return "#RETURN", result

    def _add(self, ident: str, obj: Any, key: Any, amount: Any, default: Any) -> tuple[str, Any]:
        return self._update_with(ident, obj, key, operator.add, (amount,), (default,))

    def _batch(self, ident: str, obj: Any, calls: list[tuple[str, Any, Any]]) -> tuple[str, Any]:
        results = []
        with self._alone():
            for method, args, kwds in calls:
                kind, result = self.carry_out(None, ident, method, args, kwds)
                if kind != "#RETURN":
                    return kind, result
                results.append(result)
        return "#RETURN", results

    def _next(self, ident: str, obj: Any, most: int) -> tuple[str, Any]:
        kind, result = self.carry_out(None, ident, "__next__", (), {})
        return (kind, [result]) if kind == "#RETURN" else (kind, result)

    # -- Locks, which know who has them

    def _quick_lock(self, caller: _Caller, ident: str, entry: Any, method: str, args: Any, kwds: Any) -> Any:
        """The answer to a call of a lock that need not wait; None if it has to."""
        lock, exposed, _ = entry
        if method not in exposed:
            return None
        try:
            if method == "release":
                return "#RETURN", self._call_lock(caller, ident, lock, method, args, kwds)
            if method == "acquire" and lock.acquire(False):
                return "#RETURN", self._acquired(caller, ident, lock)
        except Exception as error:
            return "#ERROR", error
        return None

    def _call_lock(
        self, caller: _Caller | None, ident: str, lock: Any, method: str, args: Any, kwds: Any
    ) -> Any:
        if method == "release":
            self._held.pop(ident, None)
            return lock.release(*args, **kwds)
        result = getattr(lock, method)(*args, **kwds)
        if method == "acquire" and result:
            return self._acquired(caller, ident, lock)
        return result

    def _acquired(self, caller: _Caller | None, ident: str, lock: Any) -> bool:
        if caller is not None and caller.gone:
            lock.release()
            raise objects.CallerGone
        dead = self._orphaned.pop(ident, None)
        if dead is not None:
            lock.release()
            raise OwnerDied(dead)
        if caller is not None:
            self._held[ident] = caller.owner
        return True

    # -- Processes that end

    def _watch_process(self, owner: _Owner) -> None:
        try:
            descriptor = os.pidfd_open(owner[0])
        except OSError as error:
            util.debug("cannot watch client %s: %s", owner[0], error)
            self._process_ended(owner)
            return
        self._watched[descriptor] = owner
        self._watch.register(descriptor, select.EPOLLIN)

    def _keep(self) -> None:
        while True:
            for descriptor, _events in self._watch.poll():
                owner = self._watched.pop(descriptor)
                self._watch.unregister(descriptor)
                os.close(descriptor)
                try:
                    self._process_ended(owner)
                except Exception:
                    util.info("cannot let go of what client %s had: %s", owner[0], format_exc())

    def _process_ended(self, owner: _Owner) -> None:
        """Let go of everything that a process had."""
        killed = owner not in self._ends_normally
        util.debug("client %s ended %s", owner[0], "by force" if killed else "normally")
        for caller in list(self._callers.values()):
            if caller.owner == owner:
                caller.retire()
        self.desk.sweep(owner)
        references = self._owned.pop(owner, Counter())
        for ident, count in references.items():
            try:
                self._let_go(ident, count)
            except (KeyError, AssertionError) as error:
                util.debug("client %s had no reference to %s: %r", owner[0], ident, error)
        for ident, holder in list(self._held.items()):
            if holder == owner and self._held.pop(ident, None) == owner and killed:
                self._orphaned[ident] = owner[0]
                self.id_to_obj[ident][0].release()
        self._ends_normally.discard(owner)


_OPERATIONS: dict[str, Callable[..., tuple[str, Any]]] = {
    "#UPDATE_WITH": Server._update_with,
    "#BATCH": Server._batch,
    "#ADD": Server._add,
    "#NEXT": Server._next,
}

# Of a container, beside its own methods: these do not block either.
_INLINE = frozenset({"__iter__", "__reversed__", "#GETVALUE", "#BATCH", "#ADD"})

_QUICKLY_MADE = frozenset(
    {dict, list, set, _stock.Namespace, _stock.Value, _stock.Array, objects.Queue}
    | {threading.Lock, threading.RLock, threading.Semaphore, threading.BoundedSemaphore}
    | {threading.Event, threading.Condition, threading.Barrier}
)

# Its `on` is true while what this thread pickles may be read by a process that has no weft.
_for_anybody = threading.local()


def is_for_anybody() -> bool:
    """Whether what this thread pickles may be read by a process that has no weft."""
    return getattr(_for_anybody, "on", False)


def _peer(connection: Any) -> int | None:
    """The process at the other end of a connection on this machine, if this one can see it."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        if channel.getsockname() is None or not isinstance(channel.getsockname(), (str, bytes)):
            return None
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None


class SharedMemoryServer(Server):
    """A server that knows the segments of shared memory that were made through its manager, and removes them."""

    public = [*Server.public, "track_segment", "release_segment", "list_segments"]

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        address = os.fsdecode(self.address) if isinstance(self.address, bytes) else self.address
        tracker: Any = _stock._SharedMemoryTracker
        self.shared_memory_context = tracker(f"shm_{address}_{os.getpid()}", [])
        util.debug("SharedMemoryServer started by pid %s", os.getpid())

    def create(self, c: Any, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        if hasattr(self.registry[typeid][-1], "_shared_memory_proxy"):
            kwds["shared_memory_context"] = self.shared_memory_context
        return super().create(c, typeid, *args, **kwds)

    def shutdown(self, c: Any) -> None:
        self.shared_memory_context.unlink()
        return super().shutdown(c)

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Know of a segment."""
        self.shared_memory_context.register_segment(segment_name)

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Remove a segment."""
        self.shared_memory_context.destroy_segment(segment_name)

    def list_segments(self, c: Any) -> list[str]:
        """The names of the segments."""
        names: list[str] = self.shared_memory_context.segment_names
        return names
