"""The server of a manager: its objects, who has references to them, and how calls reach them.

Calls come in by two front ends. *Lanes* in shared memory are served by one thread, which calls what does not block and runs
nobody's code by itself (`_manager_objects`), and gives everything else to a thread of the caller's own. *Connections* have a thread
each and speak the standard library's protocol (`_manager_gate`). Both end in `carry_out`.

References of a process that calls through lanes are counted for that process. The *keeper*, a thread, watches such
processes, and lets go of what one had when it has ended: its references, its lanes, and its waits. What it held locked becomes free if it
was killed; the next one that acquires it is told by `OwnerDied`. A message that it took out of a queue and never got goes back.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import Counter
from multiprocessing import managers as _managers
from multiprocessing import process, reduction, util
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from weft import _native
from weft.multiprocessing import _manager_ends as ends
from weft.multiprocessing import _manager_locks as locks
from weft.multiprocessing import _manager_objects as objects
from weft.multiprocessing._manager_callers import LaneCaller
from weft.multiprocessing._manager_compound import Compound
from weft.multiprocessing._manager_gate import Gate, peer_of
from weft.multiprocessing._manager_gate import is_for_anybody as is_for_anybody
from weft.multiprocessing._manager_waits import Caller, CallerGone, waiting
from weft.multiprocessing.errors import OwnerDied

if TYPE_CHECKING:
    from weft.multiprocessing._manager_waits import Owner

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["Server", "SharedMemoryServer"]

_Lock: Any = type(threading.Lock())


class Server(Compound, Gate):
    """Serves shared objects until it is told to shut down. Made by a manager, in the process that is to serve."""

    public = [*Gate.public, "open_lanes", "who_serves", "hello", "goodbye"]

    # Functions that the serving thread calls itself.
    _quick = frozenset({"incref", "decref", "get_methods", "number_of_objects", "dummy", "goodbye"})

    def __init__(self, registry: Any, address: Any, authkey: bytes, serializer: str) -> None:
        super().__init__(registry, address, authkey, serializer)
        self.desk = _native.ManagerDesk()
        self.desk.create()
        self.id_to_obj: dict[str, Any] = {"0": (None, (), None)}
        self._make_gate()
        self._callers: dict[int, LaneCaller] = {}
        # How many references each process has to each object, of those that call through lanes.
        self._owned: dict[Owner, Counter[str]] = {}
        # Processes that said that they end normally, and those that would not say so.
        self._ends_normally: set[Owner] = set()
        self._mute: set[Owner] = set()
        # Those that there was no descriptor for to watch them by.
        self._unwatched: set[Owner] = set()
        # Which process has a lock, and which one was killed with it, and how.
        self._held: dict[str, Owner] = {}
        self._orphaned: dict[str, tuple[int, int | None]] = {}
        self._watched: dict[int, Owner] = {}
        self._owned_lock = threading.Lock()
        self._compound = threading.RLock()
        # Containers that the serving thread leaves to the callers' threads, in whole or in part.
        self._foreign: set[str] = set()

    # -- Serving

    def serve_forever(self) -> None:
        """Run the server until it is told to shut down; then exit this process."""
        self.stop_event = threading.Event()
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        ends.learn(self.address, self.who_serves(None))
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

    # -- Lanes

    def open_lanes(self, c: Any) -> None:
        """Name the desk to a client on the same machine, and give it the shared memory if it has not got it."""
        peer = peer_of(c)
        place = self.desk.handle()
        if peer is None:
            c.send(("#RETURN", None))
            return
        c.send(("#RETURN", (place, os.getpid())))
        if c.recv_bytes(16) == b"need":
            reduction.send_handle(c, _native.arena_descriptor(place[0]), peer)

    def _serve_lanes(self, is_open: threading.Event) -> None:
        try:
            self.desk.serve(self._dispatch, self._arrived, objects.WOULD_BLOCK, is_open.set)
        finally:
            # If it could not begin: nobody gets a lane then, and there are the connections.
            is_open.set()

    def _arrived(self, lane: int, owner: Owner | None) -> None:
        """A process has claimed the lane, and calls through it for the first time."""
        before = self._callers.pop(lane, None)
        if before is not None:
            before.retire()
        if owner is None:
            return
        self.watch_process(owner, is_mute=False)
        self._callers[lane] = LaneCaller(self, lane, owner)

    def _served(self) -> Caller:
        """For whom the serving thread works."""
        return self._callers[self.desk.lane]

    def _dispatch(self, lane: int, ident: str, method: str, args: Any, kwds: Any) -> tuple[str, Any] | None:
        """A call that is not to be called directly: its answer, or None if the caller's thread will answer it."""
        caller = self._callers[lane]
        if isinstance(args, _native.ManagerParcel):
            # Unpickling may run anybody's code.
            caller.give(ident, method, args, kwds)
            return None
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
            elif (
                entry is not None
                and type(entry[0]) in objects.CONTAINERS
                and method in _INLINE
                and ident not in self._foreign
            ):
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
        direct = objects.direct_methods(obj, exposed, method_to_typeid, self._served)
        foreign = objects.foreign_in(obj, "", ())
        if foreign is None or foreign:
            direct = {name: direct[name] for name in direct if foreign and name not in foreign}
        with self.mutex:
            ident: str = self.desk.enter(direct, obj, objects.sort_of(obj))
            if foreign is None or foreign:
                self._foreign.add(ident)
            util.debug("%r callable returned object with id %r", typeid, ident)
            self.id_to_obj[ident] = (obj, set(exposed), method_to_typeid)
            self.id_to_refcount[ident] = 0
        self.incref(c, ident)
        return ident, tuple(exposed)

    def incref(self, c: Any, ident: str) -> None:
        """One more reference to an object."""
        super().incref(c, ident)
        if isinstance(c, LaneCaller) and c.owner in self._owned:
            self._owned[c.owner][ident] += 1

    def decref(self, c: Any, ident: str) -> None:
        """One reference less; without any the object goes."""
        if isinstance(c, LaneCaller) and c.owner in self._owned:
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
            self._foreign.discard(ident)

    def who_serves(self, c: Any) -> ends.Identity:
        """Which process this is, and where its desk is."""
        return ends.identity(self.desk.handle())

    def goodbye(self, c: Any, other: ends.Identity | None = None) -> None:
        """The process that calls, or `other`, of this machine, is about to end normally."""
        if other is None:
            self._ends_normally.add(c.owner)
        elif ends.is_near(other) and (other[0], other[1]) in self._owned:
            self._ends_normally.add((other[0], other[1]))

    def shutdown(self, c: Any) -> None:
        """Shut this process down."""
        if isinstance(c, Caller):
            self.stop_event.set()
        else:
            super().shutdown(c)

    # -- Calls

    def carry_out(
        self, caller: Caller | None, ident: str, method: str, args: Any, kwds: Any
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
            return self.fall_back(ident, obj, method, args, kwds)
        except Exception:
            return "#TRACEBACK", format_exc()
        try:
            if type(obj) is _Lock:
                # The second: a condition under a lock of the server's calls it for somebody.
                result = self._call_lock(caller or waiting.caller, ident, obj, method, args, kwds)
            elif type(obj) in objects.CONTAINERS:
                # Not in the middle of a compound operation.
                with self._compound:
                    self._leave_alone(ident, obj, method, args)
                    result = function(*args, **kwds)
            else:
                result = function(*args, **kwds)
        except CallerGone:
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

    def _leave_alone(self, ident: str, obj: Any, method: str, args: Any) -> None:
        """Let the serving thread call no more of a container than what runs nobody's code after this call."""
        if ident not in self._foreign:
            foreign = objects.foreign_in(obj, method, args)
            if foreign is None or foreign:
                self._foreign.add(ident)
                self.desk.restrict(ident, None if foreign is None else list(foreign))

    # -- Locks, which know who has them

    def _quick_lock(
        self, caller: LaneCaller, ident: str, entry: Any, method: str, args: Any, kwds: Any
    ) -> Any:
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
        self, caller: Caller | None, ident: str, lock: Any, method: str, args: Any, kwds: Any
    ) -> Any:
        if method == "release":
            self._held.pop(ident, None)
            return lock.release(*args, **kwds)
        result = getattr(lock, method)(*args, **kwds)
        if method == "acquire" and result:
            return self._acquired(caller, ident, lock)
        return result

    def _acquired(self, caller: Caller | None, ident: str, lock: Any) -> bool:
        if caller is not None and caller.gone:
            lock.release()
            raise CallerGone
        dead = self._orphaned.pop(ident, None)
        if dead is not None:
            lock.release()
            raise OwnerDied(dead[0], exitcode=dead[1])
        if caller is not None:
            self._held[ident] = caller.owner
        return True

    # -- Processes that end

    def watch_process(self, owner: Owner, is_mute: bool) -> None:
        """Let go of what this process has when it ends. One that is mute does not say so if it ends normally."""
        with self._owned_lock:
            if is_mute:
                if owner not in self._owned:
                    self._mute.add(owner)
            else:
                self._mute.discard(owner)
            if owner in self._owned and owner not in self._unwatched:
                return
            self._owned.setdefault(owner, Counter())
            self._unwatched.discard(owner)
        try:
            descriptor = self.with_descriptors(lambda: os.pidfd_open(owner[0]))
        except OSError as error:
            if error.errno in ends.NO_DESCRIPTORS:
                # It lives, for all that is known, and keeps what it has. When it is met again, so is the attempt.
                with self._owned_lock:
                    self._unwatched.add(owner)
                util.info("no descriptor left to watch client %s by", owner[0])
                return
            util.debug("cannot watch client %s: %s", owner[0], error)
            self._process_ended(owner, None)
            return
        self._watched[descriptor] = owner
        self._watch.register(descriptor, select.EPOLLIN)

    def _keep(self) -> None:
        while True:
            left = self._turn_out_overdue()
            for descriptor, _events in self._watch.poll(left):
                if descriptor == self._nudge:
                    os.eventfd_read(descriptor)
                    continue
                owner = self._watched.pop(descriptor, None)
                if owner is None:
                    self._connection_ended(descriptor)
                    continue
                self._watch.unregister(descriptor)
                code = self._code_of_ended(descriptor, owner)
                os.close(descriptor)
                try:
                    self._process_ended(owner, code)
                except Exception:
                    util.info("cannot let go of what client %s had: %s", owner[0], format_exc())

    def _code_of_ended(self, descriptor: int, owner: Owner) -> int | None:
        """How a process ended that was watched, if that is known."""
        try:
            return self.with_descriptors(lambda: ends.code_of_ended(descriptor, *owner))
        except OSError as error:
            util.info("cannot look how client %s ended: %s", owner[0], error)
            return None

    def _process_ended(self, owner: Owner, code: int | None) -> None:
        """Let go of everything that a process had. `code` is how it ended, if that is known."""
        killed = owner not in self._ends_normally
        if owner in self._mute:
            # One whose end nobody knows is taken for one that ended normally.
            killed = (code or 0) < 0
        util.debug("client %s ended %s", owner[0], "by force" if killed else "normally")
        for caller in list(self._callers.values()):
            if caller.owner == owner:
                caller.retire()
        self._end_remote_waits(owner)
        self.desk.sweep(owner)
        with self._owned_lock:
            references = self._owned.pop(owner, Counter())
            self._unwatched.discard(owner)
        for ident, count in references.items():
            try:
                self._let_go(ident, count)
            except (KeyError, AssertionError) as error:
                util.debug("client %s had no reference to %s: %r", owner[0], ident, error)
        self.owner_ended(owner, killed, code)
        self._ends_normally.discard(owner)
        self._mute.discard(owner)

    def owner_ended(self, owner: Owner, killed: bool, code: int | None = None) -> None:
        """Nobody of a process will release what it has locked."""
        for ident, holder in list(self._held.items()):
            if holder == owner and self._held.pop(ident, None) == owner and killed:
                self._orphaned[ident] = owner[0], code
                self.id_to_obj[ident][0].release()
        locks.owner_ended(owner, killed, code)


# Of a container, beside its own methods: these do not block either.
_INLINE = frozenset({"__iter__", "__reversed__", "#GETVALUE", "#BATCH", "#ADD"})

_QUICKLY_MADE = frozenset(
    {dict, list, set, _stock.Namespace, _stock.Value, _stock.Array, objects.Queue}
    | {threading.Lock, locks.RLock, locks.Semaphore, locks.BoundedSemaphore}
    | {locks.Event, locks.Condition, locks.Barrier}
)


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
