"""A resolver that asks by c-ares. As gevent.resolver.ares."""

from __future__ import annotations

import warnings
from _socket import EAI_AGAIN, EAI_FAIL, EAI_NODATA, EAI_NONAME, gaierror
from typing import Any

from .._config import config
from ..hub import get_hub
from ._asking import Answer, AskingResolver, Failure
from ._channel import Channel, errors

__all__ = ["Resolver"]

_CODES = {
    errors.ARES_ENOTFOUND: EAI_NONAME,
    errors.ARES_EBADNAME: EAI_NONAME,
    errors.ARES_ENODATA: EAI_NODATA,
    errors.ARES_ETIMEOUT: EAI_AGAIN,
    errors.ARES_ESERVFAIL: EAI_AGAIN,
    errors.ARES_EREFUSED: EAI_AGAIN,
    errors.ARES_ECONNREFUSED: EAI_AGAIN,
}

# The settings that are options of a resolver, and their names there.
_SETTINGS = {
    "ares_flags": "flags",
    "ares_timeout": "timeout",
    "ares_tries": "tries",
    "ares_ndots": "ndots",
    "ares_udp_port": "udp_port",
    "ares_tcp_port": "tcp_port",
    "ares_servers": "servers",
    "resolver_nameservers": "servers",
    "resolver_timeout": "timeout",
}
_CONVERSIONS: dict[str, type] = {
    "flags": int,
    "timeout": float,
    "tries": int,
    "ndots": int,
    "udp_port": int,
    "tcp_port": int,
}


class Resolver(AskingResolver):
    """Asks the servers of /etc/resolv.conf, or those that are given. Names of /etc/hosts come first.

    `hub` is the hub whose loop it waits in, by default the calling thread's; greenlets of that thread may use it. The other
    arguments are the options of `pycares.Channel`: `servers` (a list of addresses, or a text with commas in between), `timeout`
    (seconds, of the first try), `tries`, `ndots`, `udp_port`, `tcp_port`, `flags` and so on. What is not given is taken from the
    settings (`ares_servers` and so on), unless `use_environ` is false, and then from the system's.

    A question that is over because its greenlet was killed goes on in c-ares, and its answer is dropped. `gethostbyname` and
    `gethostbyname_ex` raise `socket.herror` where a server fails, or none answers, as gevent's do.
    """

    def __init__(self, hub: Any = None, use_environ: bool = True, **kwargs: Any) -> None:
        self._channel: Channel | None = None
        super().__init__()
        self.hub = get_hub() if hub is None else hub
        if use_environ:
            for setting, name in _SETTINGS.items():
                value = getattr(config, setting)
                if value is not None:
                    kwargs.setdefault(name, value)
        for name, convert in _CONVERSIONS.items():
            if kwargs.get(name) is not None:
                kwargs[name] = convert(kwargs[name])
        servers = kwargs.get("servers")
        if isinstance(servers, str):
            kwargs["servers"] = [server.strip() for server in servers.split(",")]
        self.params = kwargs
        self._channel = Channel(self.hub, kwargs)

    @property
    def cares(self) -> Any:
        """c-ares' channel, a `pycares.Channel`; None once it is closed."""
        return None if self._channel is None else self._channel.cares

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__} at {id(self):#x} ares={self.cares!r}>"

    def _on_fork(self) -> None:
        if self._channel is not None:
            self._channel.after_fork()

    def close(self) -> None:
        """End all questions; those that wait for an answer raise."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def __del__(self) -> None:
        if self._channel is not None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        if self._channel is None:
            raise RuntimeError("the resolver was closed")
        result, status = self._channel.ask(method, *arguments, **options)
        if status is not None:
            detail = f"{errors.errorcode.get(status, status)}: {_text(errors.strerror(status))}"
            code = _CODES.get(status, EAI_FAIL)
            raise Failure(code, detail if code in (EAI_AGAIN, EAI_FAIL) else "")
        return result

    def _ask_addresses(self, name: str, family: int) -> Answer:
        found = self._ask("getaddrinfo", name.encode("ascii", "surrogateescape"), None, family=family)
        addresses = list(dict.fromkeys(_text(node.addr[0]) for node in found.nodes))
        if not addresses:
            raise Failure(EAI_NODATA)
        if not found.cnames:
            return Answer(name.lower().removesuffix("."), [], addresses)
        return Answer(_text(found.cnames[-1].name), [_text(each.alias) for each in found.cnames], addresses)

    def _ask_names(self, address: str) -> Answer:
        found = self._ask("gethostbyaddr", address.partition("%")[0])
        name = _text(found.name)
        # c-ares has it among its other names as well.
        aliases = [alias for alias in map(_text, found.aliases) if alias != name]
        return Answer(name, aliases, [address])

    def _host_failure(self, failure: Failure) -> OSError:
        if failure.code in (EAI_AGAIN, EAI_FAIL):
            return failure.as_herror()
        error: gaierror = failure.as_gaierror()
        return error


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("ascii", "backslashreplace")
