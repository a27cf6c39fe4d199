"""What servers have in common: a listener that the loop watches, and handlers in greenlets. As gevent.baseserver."""

from __future__ import annotations

import errno
import sys
from _socket import AF_INET, AF_INET6
from collections.abc import Callable
from typing import Any

from .event import Event
from .greenlet import Greenlet
from .hub import get_hub, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["BaseServer"]


class BaseServer:
    """A server at `listener`: an address, or a socket that is bound. Each `do_read` that brings something has `handle`
    called with it in a greenlet.

    `spawn` says how: "default" is a greenlet each; a pool, or the size of one, limits how many there are at once; None calls it
    in the hub, where it must not wait; any other function is called with the handler and its arguments.
    """

    # After an error nothing is accepted for so long; twice as long each time that it comes again at once.
    min_delay = 0.01
    max_delay = 1
    # How many to accept before others run.
    max_accept = 100
    # How long `stop` waits for handlers before it ends them.
    stop_timeout: float = 1
    fatal_errors = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)

    _spawn: Any = Greenlet.spawn
    _watcher: Any = None
    _timer: Any = None
    _handle: Any = None
    pool: Any = None
    socket: Any
    handle: Any

    def __init__(
        self, listener: Any, handle: Callable[..., Any] | None = None, spawn: Any = "default"
    ) -> None:
        self._stop_event = Event()
        self._stop_event.set()
        self.delay = self.min_delay
        try:
            self.set_listener(listener)
            self.set_spawn(spawn)
            self.set_handle(handle)
            self.loop = get_hub().loop
            if self.max_accept < 1:
                raise ValueError(f"max_accept must be positive int: {self.max_accept!r}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- what it is made of -----------------------------------------------------------------------------------

    def set_listener(self, listener: Any) -> None:
        """Take a socket, or note an address for `start`."""
        if not hasattr(listener, "accept"):
            self.family, self.address = parse_address(listener)
            return
        if hasattr(listener, "do_handshake"):
            raise TypeError(f"Expected a regular socket, not SSLSocket: {listener!r}")
        self.family = listener.family
        self.address = listener.getsockname()
        self.socket = listener

    def set_spawn(self, spawn: Any) -> None:
        """Say how handlers are run."""
        self.pool = None
        if isinstance(spawn, int) and not isinstance(spawn, bool):
            from .pool import Pool

            spawn = Pool(spawn)
        if hasattr(spawn, "spawn"):
            self.pool = spawn
            self._spawn = spawn.spawn
        elif not isinstance(spawn, str) or spawn != "default":
            self._spawn = spawn

    def set_handle(self, handle: Callable[..., Any] | None) -> None:
        """Say what is called for each connection."""
        if handle is not None:
            self.handle = handle
        if not hasattr(self, "handle"):
            raise TypeError("'handle' must be provided")
        self._handle = self.handle

    def init_socket(self) -> None:
        """Called by `start`: make the socket, if there is only an address."""

    def do_read(self) -> Any:
        """Called when there is something to read: the arguments for the handler, or None if there is nothing after all."""
        raise NotImplementedError

    def do_close(self, *args: Any) -> None:
        """Called with the arguments of a handler that has returned."""

    # --- accepting ----------------------------------------------------------------------------------------------

    def full(self) -> bool:
        """Whether there is no room for another handler."""
        return self.pool is not None and hasattr(self.pool, "full") and bool(self.pool.full())

    def start_accepting(self) -> None:
        """Watch the listener."""
        if self._watcher is None:
            self._watcher = self.loop.io(self.socket.fileno(), 1)
            self._watcher.start(self._do_read)

    def stop_accepting(self) -> None:
        """Let connections wait in the kernel."""
        for name in ("_watcher", "_timer"):
            watcher = getattr(self, name)
            if watcher is not None:
                watcher.close()
                setattr(self, name, None)

    def _start_accepting_if_started(self, _event: Any = None) -> None:
        if self.started:
            self.start_accepting()

    def _pause(self) -> None:
        """After an error."""
        if self.delay >= 0:
            self.stop_accepting()
            self._timer = self.loop.timer(self.delay)
            self._timer.start(self._start_accepting_if_started)
            self.delay = min(self.max_delay, self.delay * 2)

    def _wait_for_room(self) -> None:
        self.stop_accepting()
        Greenlet.spawn(self._accept_when_there_is_room)

    def _accept_when_there_is_room(self) -> None:
        while self.full() and self.started:
            self.pool.wait_available()
            if self.full():
                # By a `full()` of somebody's own, which the pool knows nothing of.
                sleep(self.min_delay)
        self._start_accepting_if_started()

    def _do_read(self) -> None:
        """In the hub."""
        for _ in range(self.max_accept):
            if self.full():
                self._wait_for_room()
                return
            try:
                args = self.do_read()
            except BaseException as error:
                self.loop.handle_error(self, *sys.exc_info())
                if self.is_fatal_error(error):
                    self.close()
                    sys.stderr.write(f"ERROR: {self} failed with {error!s}\n")
                else:
                    self._pause()
                return
            self.delay = self.min_delay
            if not args:
                return
            try:
                self.do_handle(*args)
            except BaseException:
                self.loop.handle_error((args[1:], self), *sys.exc_info())
                self._pause()
                return

    def do_handle(self, *args: Any) -> None:
        """Have the handler called with that."""
        spawn, handle, close = self._spawn, self._handle, self.do_close
        try:
            if spawn is None:
                _handle_and_close(handle, close, args)
            else:
                spawn(_handle_and_close, handle, close, args)
        except BaseException:
            close(*args)
            raise

    def is_fatal_error(self, error: BaseException) -> bool:
        """Whether nothing can ever be accepted again."""
        return isinstance(error, OSError) and error.args[:1] != () and error.args[0] in self.fatal_errors

    # --- start and end ----------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether it accepts, or would if there was room."""
        return not self._stop_event.is_set()

    @property
    def closed(self) -> bool:
        """Whether it has no socket."""
        return not hasattr(self, "socket")

    @property
    def server_host(self) -> Any:
        """The host of its address; None if that has none."""
        return self.address[0] if isinstance(self.address, tuple) else None

    @property
    def server_port(self) -> Any:
        """The port of its address; None if that has none."""
        return self.address[1] if isinstance(self.address, tuple) else None

    def start(self) -> None:
        """Begin to accept; handlers run from now on, while others wait."""
        self.init_socket()
        self._stop_event.clear()
        try:
            self.start_accepting()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket and let go of the handler; what is being handled goes on."""
        self._stop_event.set()
        try:
            self.stop_accepting()
        finally:
            listener = self.__dict__.pop("socket", None)
            for name in ("handle", "_handle", "_spawn"):
                self.__dict__.pop(name, None)
            if listener is not None:
                try:
                    listener.close()
                except OSError:
                    pass  # somebody else has closed its descriptor: it is closed

    def stop(self, timeout: float | None = None) -> None:
        """Close the socket, wait for the handlers in the pool, if there is one, for `timeout` or `stop_timeout` seconds, and
        end those that are left."""
        self.close()
        if self.pool:
            self.pool.join(timeout=self.stop_timeout if timeout is None else timeout)
            self.pool.kill(block=True, timeout=1)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Start, if it is not, and wait until it is stopped."""
        if not self.started:
            self.start()
        try:
            self._stop_event.wait()
        finally:
            # An exception that came here is not to keep it from being stopped.
            Greenlet.spawn(self.stop, timeout=stop_timeout).join()

    # --- how it looks -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self._formatinfo()}>"

    def __str__(self) -> str:
        return f"<{type(self).__name__} {self._formatinfo()}>"

    def _formatinfo(self) -> str:
        parts = []
        if hasattr(self, "socket"):
            parts.append(f"fileno={self.socket.fileno()}")
        address = getattr(self, "address", "<error>")
        if isinstance(address, tuple) and len(address) == 2:
            parts.append(f"address={address[0]}:{address[1]}")
        else:
            parts.append(f"address={address}")
        handle = self.__dict__.get("handle")
        if handle is not None:
            if getattr(handle, "__self__", None) is self:
                shown = f"<bound method {type(self).__name__}.{handle.__name__} of self>"
            else:
                shown = repr(handle)
            parts.append(f"handle={shown}")
        return " ".join(parts)


def _handle_and_close(handle: Callable[..., Any], close: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return handle(*args)
    finally:
        close(*args)


def parse_address(address: Any) -> tuple[int, Any]:
    """Family and address of what a listener was given as: `(host, port)`, a port, "host:port", "[host]:port"; no host, or
    "*", is any of either family."""
    try:
        return _parse(address)
    except ValueError as error:
        raise ValueError(f"Failed to parse address {address!r}: {error}") from error


def _parse(address: Any) -> tuple[int, Any]:
    if isinstance(address, tuple):
        return (AF_INET6 if not address[0] or ":" in address[0] else AF_INET), address
    if isinstance(address, int) or (isinstance(address, str) and ":" not in address):
        return AF_INET6, ("", int(address))
    if not isinstance(address, str):
        raise TypeError(f"Expected tuple or string, got {type(address)}")
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return AF_INET6, (host[1:-1], int(port))
    return AF_INET, ("" if host == "*" else host, int(port))
