"""The front end of a manager's server for connections: who is let in, and what they call.

Every connection has a thread. A peer has `handshake_timeout` seconds to prove that it has the key and to send its request, and
`most_unproven` may be at it at a time: beyond these the one that has been at it for longest goes, so that those
who say nothing keep nobody out. Before the proofs a message is at most 256 bytes long, and nothing is unpickled; afterwards at
most `longest_message`.

A client with weft says who it is. If that is a process of this machine, its end is seen as that of one that calls through lanes. One
without weft is known by what the kernel says of a socket's other end; whether it was killed is known if it has not been waited for
yet. Of a process of another machine only the connection is known.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import managers as _managers
from multiprocessing import reduction, util
from traceback import format_exc, format_exception
from typing import TYPE_CHECKING, Any, TypeVar

from weft.multiprocessing import _manager_ends as ends
from weft.multiprocessing import connection
from weft.multiprocessing._manager_callers import RemoteCaller
from weft.multiprocessing._manager_waits import CallerGone, Owner, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# With its private parts, which its type stubs do not have.
_stock: Any = _managers
_StockServer: Any = _stock.Server
_connection: Any = connection

__all__ = ["Gate", "is_for_anybody", "peer_of"]


class Gate(_StockServer):  # type: ignore[misc]
    """What a server does with connections."""

    # A message from a client that has the key may be so long, in bytes.
    longest_message = 1 << 31
    # Within so many seconds a peer has to prove that it has the key, and say what it wants.
    handshake_timeout = 20.0
    # So many peers may be at that at a time.
    most_unproven = 512

    # What the rest of the server has.
    desk: Any
    call_function: Any
    answer_function: Any
    carry_out: Any
    way_back: Any
    watch_process: Any
    owner_ended: Any
    who_serves: Any

    def _make_gate(self) -> None:
        # Those that have proved nothing yet, and until when they have to; the first one came first.
        self._unproven: dict[int, tuple[float, Any]] = {}
        self._unproven_lock = threading.Lock()
        self._remote: dict[int, RemoteCaller] = {}
        self._remote_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._watch = select.epoll()
        # Wakes the keeper, who has to know when the first one's time is over.
        self._nudge = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch.register(self._nudge, select.EPOLLIN)

    # -- Those that have proved nothing yet

    def accepter(self) -> None:
        """Take connections, each into a thread of its own."""
        while True:
            try:
                connection = self.listener.accept()
                self._admit(connection)
            except (OSError, RuntimeError) as error:
                # No descriptor left, or no thread. Those who say nothing may have them all.
                util.debug("cannot take a connection: %r", error)
                if not self._turn_out_first():
                    self.stop_event.wait(0.05)

    def _admit(self, connection: Any) -> None:
        if len(self._unproven) >= self.most_unproven:
            self._turn_out_first()
        with self._unproven_lock:
            is_first = not self._unproven
            self._unproven[id(connection)] = time.monotonic() + self.handshake_timeout, connection
        if is_first:
            os.eventfd_write(self._nudge, 1)
        try:
            threading.Thread(target=self.handle_request, args=(connection,), daemon=True).start()
        except BaseException:
            self._proven(connection)
            connection.close()
            raise

    def _proven(self, connection: Any) -> bool:
        """It need not prove anything any more. False if it was turned out."""
        with self._unproven_lock:
            return self._unproven.pop(id(connection), None) is not None

    def _turn_out_first(self, overdue_at: float | None = None) -> bool:
        """End the connection that has proved nothing for longest, if it is overdue. False if there is none."""
        with self._unproven_lock:
            first = next(iter(self._unproven.items()), None)
            if first is None or (overdue_at is not None and first[1][0] > overdue_at):
                return False
            key, (_until, connection) = first
            del self._unproven[key]
            # With the lock held: it is closed by its own thread, which has to take the lock first.
            with suppress(OSError):
                channel = socket.socket(fileno=connection.fileno())
                try:
                    channel.shutdown(socket.SHUT_RDWR)
                finally:
                    channel.detach()
        util.info("a peer that did not prove that it has the key was turned out")
        return True

    def with_descriptors(self, work: Callable[[], T]) -> T:
        """Do what takes a descriptor. If there is none left, peers that have proved nothing go; OSError if that does not help."""
        while True:
            try:
                return work()
            except OSError as error:
                if error.errno not in ends.NO_DESCRIPTORS or not self._turn_out_first():
                    raise
            # Its own thread closes the connection, in a moment.
            self.stop_event.wait(0.05)

    def _turn_out_overdue(self) -> float | None:
        """End the connections whose time is over. Returns the number of seconds until that of the next one; None without one."""
        now = time.monotonic()
        while self._turn_out_first(now):
            continue
        with self._unproven_lock:
            first = next(iter(self._unproven.values()), None)
        return None if first is None else max(0.0, first[0] - now)

    def handle_request(self, conn: Any) -> None:
        """Let a peer prove that it has the key, and do what it asks for."""
        try:
            self._handle_request(conn)
        except SystemExit:
            util.debug("the client of this connection is gone")
        finally:
            self._proven(conn)
            conn.close()

    def _handle_request(self, c: Any) -> None:
        try:
            _connection.deliver_challenge(c, self.authkey)
            _connection.answer_challenge(c, self.authkey)
            data = c.recv_bytes(self.longest_message)
        except Exception as error:
            util.info("a peer did not prove that it has the key, or asked for nothing: %r", error)
            return
        if not self._proven(c):
            return
        request = None
        try:
            request = _loads(c, data)
            ignore, name, args, kwds = request
            if ignore is not None:
                raise ValueError("a request is for the server itself")
            message = "#RETURN", self.call_function(c, name, args, kwds)
        except Exception:
            message = "#TRACEBACK", format_exc()
        try:
            c.send(message)
        except Exception as error:
            util.info("cannot send %r, the answer to %r: %r", message, request, error)
            with suppress(OSError):
                c.send(("#TRACEBACK", format_exc()))

    # -- Those that call

    def accept_connection(self, c: Any, name: str) -> None:
        """Serve a thread of a client over this connection."""
        # If it would rather have had a lane, one may be left by a process that ended before it called.
        self.desk.sweep_dead()
        super().accept_connection(c, name)

    def serve_client(self, conn: Any) -> None:
        """Answer the calls of one thread of a client over a connection, until it closes it."""
        util.debug("starting server thread to service %r", threading.current_thread().name)
        caller = RemoteCaller(self._owner_of(conn), conn)
        waiting.caller = caller
        descriptor = conn.fileno()
        with self._remote_lock:
            self._remote[descriptor] = caller
            # Its end alone: a thread that waits for it has to know.
            self._watch.register(descriptor, select.EPOLLRDHUP)
        try:
            while not self.stop_event.is_set():
                self._serve_call(conn, caller)
        except CallerGone:
            util.debug("nobody waits for the answer of %r", threading.current_thread().name)
        finally:
            waiting.caller = None
            with self._remote_lock:
                if self._remote.pop(descriptor, None) is not None:
                    self._watch.unregister(descriptor)
            if not caller.owner[0]:
                self.owner_ended(caller.owner, killed=False)

    def _serve_call(self, conn: Any, caller: RemoteCaller) -> None:
        try:
            data = conn.recv_bytes(self.longest_message)
        except (EOFError, ConnectionError):
            util.debug("got EOF -- exiting thread serving %r", threading.current_thread().name)
            sys.exit(0)
        except OSError as error:
            # Where the next message begins is not known.
            util.info("a message to %r is no good: %r", threading.current_thread().name, error)
            sys.exit(1)
        if caller.gone:
            # What was not begun is not done: somebody may have been told that its sender died.
            raise CallerGone
        back = None
        try:
            ident, method, args, kwds = _loads(conn, data)
            del data
            if ident == "":
                message = self.answer_function(caller, method, args, kwds)
            else:
                back = self.way_back(ident, method)
                message = self.carry_out(caller, ident, method, args, kwds)
        except CallerGone:
            raise
        except Exception:
            message = ("#TRACEBACK", format_exc())
        ident = method = args = kwds = None
        if message[0] == "#ERROR" and not caller.has_weft and type(message[1]).__module__ == "weft":
            # Nobody could unpickle it there.
            message = "#TRACEBACK", "".join(format_exception(message[1]))
        if back is not None and message[0] != "#RETURN":
            back = None
        try:
            if back is not None and self._has_hung_up(conn):
                raise BrokenPipeError("the client is gone")
            with _understood_by_anybody():
                try:
                    conn.send(message)
                except OSError:
                    raise
                except Exception:
                    conn.send(("#UNSERIALIZABLE", format_exc()))
        except Exception as error:
            if back is not None:
                back(message[1])
            util.info("exception in thread serving %r", threading.current_thread().name)
            util.info(" ... message was %r", message)
            util.info(" ... exception was %r", error)
            conn.close()
            sys.exit(1)

    def hello(self, caller: RemoteCaller, other: ends.Identity) -> ends.Identity:
        """A client with weft says who it is; returns who this is. It says goodbye before it ends normally."""
        if isinstance(caller, RemoteCaller) and not caller.has_weft:
            caller.has_weft = True
            if self.with_descriptors(lambda: ends.is_near(other)):
                caller.owner = other[0], other[1]
                self.watch_process(caller.owner, is_mute=False)
        who: ends.Identity = self.who_serves(caller)
        return who

    def _owner_of(self, conn: Any) -> Owner:
        """Whose thread this is, until it says so itself."""
        pid = peer_of(conn)
        if pid is None:
            return 0, next(self._numbers)
        owner = pid, self.with_descriptors(lambda: ends.start_of(pid))
        self.watch_process(owner, is_mute=True)
        return owner

    def _has_hung_up(self, conn: Any) -> bool:
        poll = select.poll()
        poll.register(conn.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _connection_ended(self, descriptor: int) -> None:
        """The keeper was told that a connection's other end is gone: nobody waits for its answer."""
        with self._remote_lock:
            caller = self._remote.get(descriptor)
            # Meanwhile it may be another one's descriptor.
            if caller is None or not self._has_hung_up(caller.connection):
                return
            del self._remote[descriptor]
            self._watch.unregister(descriptor)
        caller.end_wait()

    def _end_remote_waits(self, owner: Owner) -> None:
        with self._remote_lock:
            callers = [caller for caller in self._remote.values() if caller.owner == owner]
        for caller in callers:
            caller.end_wait()


def _loads(connection: Any, data: Any) -> Any:
    return getattr(connection, "_loads", reduction.ForkingPickler.loads)(data)


_for_anybody = threading.local()


@contextmanager
def _understood_by_anybody() -> Iterator[None]:
    """What this thread pickles meanwhile may be read by a process that has no weft."""
    _for_anybody.on = True
    try:
        yield
    finally:
        _for_anybody.on = False


def is_for_anybody() -> bool:
    """Whether what this thread pickles may be read by a process that has no weft."""
    return getattr(_for_anybody, "on", False)


def peer_of(connection: Any) -> int | None:
    """The process at the other end of a connection on this machine, if this one can see it."""
    channel = socket.socket(fileno=connection.fileno())
    try:
        if channel.family != socket.AF_UNIX:
            return None
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    finally:
        channel.detach()
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None
