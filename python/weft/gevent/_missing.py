"""What the modules say that gevent has and this package has not yet."""

from __future__ import annotations

__all__ = ["missing"]


def missing(name: str, what: str) -> ModuleNotFoundError:
    """The error of importing the module `name`, which would have `what`."""
    return ModuleNotFoundError(
        f"weft.gevent does not have {what} yet ({name.replace('weft.', '', 1)}). It has sockets, TLS, servers, select, threads, "
        "signals, os and monkey; programs that need more run on gevent itself, whose greenlets weft takes the place of.",
        name=name,
    )
