"""A resolver that asks by dnspython. As gevent.resolver.dnspython.

dnspython can be given what it waits with. Here that is a socket of this package, so that a question parks its greenlet and no more;
`dns` itself is as the program has it, no copy, and may be patched or not.
"""

from __future__ import annotations

import errno
import os
import time
from _socket import (
    AF_INET,
    AF_UNSPEC,
    EAI_AGAIN,
    EAI_FAIL,
    EAI_NODATA,
    EAI_NONAME,
    SO_ERROR,
    SOCK_DGRAM,
    SOL_SOCKET,
)
from collections.abc import Callable, Coroutine
from typing import Any

try:
    import dns.asyncbackend
    import dns.asyncresolver
    import dns.exception
    import dns.name
    import dns.rdatatype
    import dns.resolver
    import dns.reversename
except ImportError as _missing:
    raise ImportError(
        "the resolver 'dnspython' needs the package of that name, 2.7 or newer: pip install dnspython",
        name=_missing.name,
    ) from _missing


from .._config import config
from .._socketcommon import wait_read, wait_write
from ..greenlet import Greenlet
from ..hub import sleep
from ..socket import socket
from ..timeout import Timeout
from ._asking import Answer, AskingResolver, Failure, in_order_of_reach

__all__ = ["Resolver"]

_A, _AAAA, _PTR = dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.PTR


class Resolver(AskingResolver):
    """Asks the servers of /etc/resolv.conf, or of the setting `resolver_nameservers`, by UDP and, where an answer is too
    long for that, by TCP. Names of /etc/hosts come first. What `Timeout` and `kill` raise ends a question.

    `hub` is not used: questions are asked from the calling greenlet.
    """

    def __init__(self, hub: Any = None) -> None:
        super().__init__()
        try:
            made = dns.asyncresolver.Resolver()
        except dns.resolver.NoResolverConfiguration:
            made = dns.asyncresolver.Resolver(configure=False)
            made.nameservers = ["127.0.0.1"]
        made.cache = dns.resolver.LRUCache()
        if config.resolver_nameservers:
            made.nameservers = list(config.resolver_nameservers)
        if config.resolver_timeout:
            made.lifetime = config.resolver_timeout
        self._resolver = made

    @property
    def resolver(self) -> dns.asyncresolver.Resolver:
        """dnspython's resolver: its `nameservers`, how long, in seconds, a question may take (`lifetime`), its `cache`."""
        return self._resolver

    # --- addresses of a name --------------------------------------------------------------------------------------

    def _ask_addresses(self, name: str, family: int) -> Answer:
        if family != AF_UNSPEC:
            return self._addresses_of(name, _A if family == AF_INET else _AAAA)
        other = Greenlet.spawn(self._outcome_of, name, _AAAA)
        try:
            found = [self._outcome_of(name, _A), other.get()]
        finally:
            other.kill()
        answers = [each for each in found if isinstance(each, Answer)]
        if not answers:
            failures = [each for each in found if isinstance(each, Failure)]
            # What may come out otherwise another time says more than that there is nothing.
            raise max(failures, key=lambda each: each.code in (EAI_AGAIN, EAI_FAIL))
        addresses = [address for each in answers for address in each.addresses]
        return Answer(answers[0].name, answers[0].aliases, in_order_of_reach(addresses))

    def _outcome_of(self, name: str, kind: dns.rdatatype.RdataType) -> Answer | Failure:
        try:
            return self._addresses_of(name, kind)
        except Failure as failure:
            return failure

    def _addresses_of(self, name: str, kind: dns.rdatatype.RdataType) -> Answer:
        try:
            asked = dns.name.from_text(name, None)
        except dns.exception.DNSException as error:
            raise Failure(EAI_NONAME, str(error)) from None
        found = self._ask(asked, kind)
        aliases = [_text(each.name) for each in found.chaining_result.cnames]
        return Answer(_text(found.canonical_name), aliases, [each.address for each in found])

    # --- names of an address ----------------------------------------------------------------------------------------

    def _ask_names(self, address: str) -> Answer:
        found = self._ask(dns.reversename.from_address(address.partition("%")[0]), _PTR)
        first, *others = [_text(each.target) for each in found]
        return Answer(first, others, [address])

    # --- questions ----------------------------------------------------------------------------------------------------

    def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        try:
            return _run(self._resolver.resolve(name, kind, search=True, backend=_BACKEND))
        except dns.resolver.NXDOMAIN:
            raise Failure(EAI_NONAME) from None
        except dns.resolver.NoAnswer:
            raise Failure(EAI_NODATA) from None
        except (dns.resolver.NoNameservers, dns.exception.Timeout) as error:
            raise Failure(EAI_AGAIN, str(error)) from None
        except dns.exception.DNSException as error:
            raise Failure(EAI_FAIL, f"{type(error).__name__}: {error}") from None


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


class _Thrown(BaseException):
    """Carries what another greenlet threw in, past dnspython, which takes each exception for an answer of a server."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _run(question: Coroutine[Any, Any, dns.resolver.Answer]) -> dns.resolver.Answer:
    """What a question comes to. It never yields: what it waits for parks the greenlet."""
    try:
        question.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    except _Thrown as thrown:
        raise thrown.error from None
    finally:
        question.close()
    raise RuntimeError("dnspython waited for something else than the sockets and the sleep that it was given")


def _park(wait: Callable[..., None], *arguments: Any, seconds: float | None) -> None:
    """Wait for at most so long. Whatever else comes out of it was thrown in."""
    limit = Timeout(seconds)
    try:
        with limit:
            wait(*arguments)
    except Timeout as error:
        if error is not limit:
            raise
        raise dns.exception.Timeout(timeout=seconds) from None  # type: ignore[no-untyped-call]
    except Exception as error:
        raise _Thrown(error) from None


class _Socket:
    """A socket that never blocks, and parks its greenlet where it would. Its errors are the kernel's."""

    _socket: socket

    def _try(
        self, wait: Callable[..., None], timeout: float | None, act: Callable[..., Any], *args: Any
    ) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return act(*args)
            except BlockingIOError:
                left = None if until is None else max(0.0, until - time.monotonic())
                _park(wait, self._socket.fileno(), seconds=left)

    async def close(self) -> None:
        self._socket.close()

    async def getpeername(self) -> Any:
        return self._socket.getpeername()

    async def getsockname(self) -> Any:
        return self._socket.getsockname()


class _Datagrams(_Socket, dns.asyncbackend.DatagramSocket):  # type: ignore[name-defined, misc]
    def __init__(self, made: socket) -> None:
        super().__init__(made.family, made.type)
        self._socket = made

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> Any:
        return self._try(wait_write, timeout, self._socket.sendto, what, destination)

    async def recvfrom(self, size: int, timeout: float | None) -> Any:
        return self._try(wait_read, timeout, self._socket.recvfrom, size)


class _Stream(_Socket, dns.asyncbackend.StreamSocket):  # type: ignore[name-defined, misc]
    def __init__(self, made: socket) -> None:
        super().__init__(made.family, made.type)
        self._socket = made

    def connect(self, destination: Any, timeout: float | None) -> None:
        error = self._socket.connect_ex(destination)
        if error == errno.EINPROGRESS:
            _park(wait_write, self._socket.fileno(), seconds=timeout)
            error = self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        left = memoryview(what)
        while left:
            rest = None if until is None else max(0.0, until - time.monotonic())
            left = left[self._try(wait_write, rest, self._socket.send, left) :]

    async def recv(self, size: int, timeout: float | None) -> Any:
        return self._try(wait_read, timeout, self._socket.recv, size)


class _Backend(dns.asyncbackend.Backend):  # type: ignore[name-defined, misc]
    """What dnspython waits with."""

    def name(self) -> str:
        return "weft"

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        if ssl_context is not None:
            raise NotImplementedError("name servers are asked by UDP and TCP, not by TLS")
        made = socket(af, socktype, proto)
        try:
            made.setblocking(False)
            if source is not None:
                made.bind(source)
            if socktype == SOCK_DGRAM:
                return _Datagrams(made)
            stream = _Stream(made)
            stream.connect(destination, timeout)
        except BaseException:
            made.close()
            raise
        return stream

    async def sleep(self, interval: float) -> None:
        _park(sleep, interval, seconds=None)


_BACKEND = _Backend()
