"""What resolvers have in common that ask name servers by themselves.

They know how to look up the addresses of a name, and the names of an address. All the rest is the system's own: which names are
numbers, what services there are, which kinds of sockets an answer is given for, what is a wrong argument. The system's functions are
asked for that with numbers in the place of names, so that they ask nobody in turn, and answers look as theirs do.
"""

from __future__ import annotations

import _socket
import errno
from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    AI_ADDRCONFIG,
    AI_ALL,
    AI_CANONNAME,
    AI_NUMERICHOST,
    AI_V4MAPPED,
    EAI_AGAIN,
    EAI_FAIL,
    EAI_NODATA,
    EAI_NONAME,
    NI_NAMEREQD,
    NI_NOFQDN,
    NI_NUMERICHOST,
    SOCK_DGRAM,
    gaierror,
    herror,
)
from typing import Any, NamedTuple

from . import AbstractResolver
from ._hostsfile import HostsFile

__all__ = ["Answer", "AskingResolver", "Failure", "in_order_of_reach"]

# What every system knows of itself, by whatever means.
_LOCAL = (b"localhost", b"ip6-localhost", b"::1", b"127.0.0.1")
_BROADCAST = (b"255.255.255.255", b"<broadcast>")

_WHY = {
    EAI_NONAME: "Name or service not known",
    EAI_NODATA: "No address associated with hostname",
    EAI_AGAIN: "Temporary failure in name resolution",
    EAI_FAIL: "Non-recoverable failure in name resolution",
}
# The same for `herror`: its number, and what the system says.
_WHY_HOST = {
    EAI_NONAME: (1, "Unknown host"),
    EAI_AGAIN: (2, "Host name lookup failure"),
    EAI_FAIL: (3, "Unknown server error"),
    EAI_NODATA: (4, "No address associated with name"),
}


class Answer(NamedTuple):
    """A canonical name, other names of the same, and addresses as text."""

    name: str
    aliases: list[str]
    addresses: list[str]


class Failure(Exception):
    """There is no answer: EAI_NONAME, EAI_NODATA, EAI_AGAIN or EAI_FAIL, and what more is known."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = f" ({detail})" if detail else ""

    def as_gaierror(self) -> gaierror:
        """As `getaddrinfo` raises it."""
        return gaierror(self.code, _WHY[self.code] + self.detail)

    def as_herror(self) -> herror:
        """As `gethostbyaddr` raises it."""
        number, text = _WHY_HOST[self.code]
        return herror(number, text + self.detail)


class AskingResolver(AbstractResolver):
    """A resolver that asks name servers by itself, for what is not in the file of hosts."""

    def __init__(self) -> None:
        self._hosts = HostsFile()

    def _ask_addresses(self, name: str, family: int) -> Answer:
        """The addresses of a name, of AF_INET, AF_INET6 or, for AF_UNSPEC, both. Raises Failure."""
        raise NotImplementedError

    def _ask_names(self, address: str) -> Answer:
        """The names of an address. Raises Failure."""
        raise NotImplementedError

    def _host_failure(self, failure: Failure) -> OSError:
        """What `gethostbyname` and `gethostbyname_ex` raise."""
        return failure.as_gaierror()

    # --- what is looked up --------------------------------------------------------------------------------------

    def _forward(self, name: str, family: int) -> Answer:
        self._hosts.load()
        versions = {AF_INET: (4,), AF_INET6: (6,)}.get(family, (4, 6))
        addresses = self._hosts.addresses(name, versions)
        if not addresses:
            return self._ask_addresses(name, family)
        first, *others = self._hosts.names(addresses[0], name)
        return Answer(first, others, addresses)

    def _reverse(self, address: str) -> Answer:
        self._hosts.load()
        names = self._hosts.names(address)
        return Answer(names[0], names[1:], [address]) if names else self._ask_names(address)

    def _addresses(self, name: str, family: int, flags: int) -> Answer:
        """What `getaddrinfo` gives, by its flags."""
        mapped = family == AF_INET6 and flags & AI_V4MAPPED
        if flags & AI_ADDRCONFIG and not mapped:
            usable = [
                each for each in (AF_INET, AF_INET6) if family in (AF_UNSPEC, each) and _has_route(each)
            ]
            family = usable[0] if len(usable) == 1 else family
        if not mapped:
            return self._forward(name, family)
        answer = Answer(name, [], [])
        failure = None
        for each in (AF_INET6, AF_INET):
            if each == AF_INET and answer.addresses and not flags & AI_ALL:
                break
            try:
                found = self._forward(name, each)
            except Failure as error:
                failure = failure or error
                continue
            prefix = "::ffff:" if each == AF_INET else ""
            addresses = [*answer.addresses, *(prefix + address for address in found.addresses)]
            answer = Answer(found.name, found.aliases, addresses)
        if not answer.addresses and failure is not None:
            raise failure
        return answer

    def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, socktype: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        """As socket.getaddrinfo."""
        name = _encoded(host)
        if not name or name in _LOCAL or flags & AI_NUMERICHOST:
            return _socket.getaddrinfo(host, port, family, socktype, proto, flags)
        try:
            # Also finds fault with whatever else is wrong.
            return _socket.getaddrinfo(name, port, family, socktype, proto, flags | AI_NUMERICHOST)
        except gaierror as error:
            if error.errno != EAI_NONAME or b"\0" in name:
                raise
        try:
            answer = self._addresses(name.decode("ascii", "surrogateescape"), family, flags)
        except Failure as failure:
            raise failure.as_gaierror() from None
        numeric = flags & ~(AI_CANONNAME | AI_V4MAPPED | AI_ALL | AI_ADDRCONFIG) | AI_NUMERICHOST
        result: list[Any] = []
        for address in answer.addresses:
            kind = AF_INET6 if ":" in address else AF_INET
            result += _socket.getaddrinfo(address, port, kind, socktype, proto, numeric)
        if flags & AI_CANONNAME and result:
            result[0] = (*result[0][:3], answer.name, result[0][4])
        return result

    def _numeric(self, name: bytes, family: int) -> str | None:
        """The address that a name is; None if it is none."""
        try:
            found = _socket.getaddrinfo(name, None, family, SOCK_DGRAM, 0, AI_NUMERICHOST)
        except gaierror as error:
            if error.errno != EAI_NONAME or b"\0" in name:
                raise
            return None
        return str(found[0][4][0])

    def gethostbyname(self, hostname: Any, family: int = AF_INET) -> str:
        """As socket.gethostbyname."""
        name = _encoded(hostname)
        if not name or name in _LOCAL + _BROADCAST:
            return _socket.gethostbyname(hostname)
        return self._numeric(name, family) or self._known(name, family).addresses[0]

    def gethostbyname_ex(self, hostname: Any, family: int = AF_INET) -> tuple[str, list[str], list[str]]:
        """As socket.gethostbyname_ex."""
        name = _encoded(hostname)
        if not name or name in _LOCAL + _BROADCAST or self._numeric(name, family):
            return _socket.gethostbyname_ex(hostname)
        answer = self._known(name, family)
        return answer.name, answer.aliases, answer.addresses

    def _known(self, name: bytes, family: int) -> Answer:
        try:
            return self._forward(name.decode("ascii", "surrogateescape"), family)
        except Failure as failure:
            raise self._host_failure(failure) from None

    def gethostbyaddr(self, ip_address: Any) -> tuple[str, list[str], list[str]]:
        """As socket.gethostbyaddr."""
        name = _encoded(ip_address)
        if not name or name in _LOCAL + _BROADCAST:
            return _socket.gethostbyaddr(ip_address)
        address = self._numeric(name, AF_UNSPEC) or self._known(name, AF_UNSPEC).addresses[0]
        try:
            answer = self._reverse(address)
        except Failure as failure:
            raise failure.as_herror() from None
        return answer.name, answer.aliases, answer.addresses

    def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """As socket.getnameinfo."""
        if isinstance(sockaddr, tuple) and sockaddr and sockaddr[0] in ("127.0.0.1", "::1"):
            return _socket.getnameinfo(sockaddr, flags)
        host, service = _socket.getnameinfo(sockaddr, flags | NI_NUMERICHOST)
        if flags & NI_NUMERICHOST:
            return host, service
        try:
            name = self._reverse(host).name
        except Failure as failure:
            if flags & NI_NAMEREQD:
                code = EAI_NONAME if failure.code == EAI_NODATA else failure.code
                raise Failure(code, failure.detail.strip(" ()")).as_gaierror() from None
            return host, service
        if flags & NI_NOFQDN:
            domain = _socket.gethostname().partition(".")[2]
            name = name.removesuffix(f".{domain}") if domain else name
        return name, service


def _encoded(host: Any) -> bytes | None:
    """A name as it is asked for; None for what is none, which the system's functions find fault with."""
    if isinstance(host, str):
        return host.encode("idna")
    return bytes(host) if isinstance(host, (bytes, bytearray)) else None


def in_order_of_reach(addresses: list[str]) -> list[str]:
    """Those first that there is a way to: of two families there may be one."""
    known: dict[int, bool] = {}

    def is_out_of_reach(address: str) -> bool:
        family = AF_INET6 if ":" in address else AF_INET
        if family not in known:
            known[family] = _reaches(family, address)
        return not known[family]

    if len({":" in address for address in addresses}) < 2:
        return addresses
    return sorted(addresses, key=is_out_of_reach)


def _has_route(family: int) -> bool:
    """Whether there is a way to the outer world: to an address that is nobody's."""
    return _reaches(family, "192.0.2.1" if family == AF_INET else "2001:db8::1")


def _reaches(family: int, address: str) -> bool:
    # Nothing is sent: the kernel looks for a route.
    try:
        probe = _socket.socket(family, SOCK_DGRAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise
    try:
        probe.connect((address, 53))
    except OSError:
        return False
    finally:
        probe.close()
    return True
