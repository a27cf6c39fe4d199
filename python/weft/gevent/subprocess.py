"""The place of gevent.subprocess, which is not there yet."""

raise ImportError(
    "weft.gevent does not have child processes whose pipes are waited for yet (gevent.subprocess). It has sockets, TLS, servers, select, threads, signals, os and "
    "monkey; programs that need more run on gevent itself, whose greenlets weft takes the place of.",
    name=__name__,
)
