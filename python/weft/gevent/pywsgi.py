"""The place of gevent.pywsgi, which is not there yet."""

raise ImportError(
    "weft.gevent does not have a WSGI server yet (gevent.pywsgi). It has sockets, TLS, servers, select, threads, signals, os and "
    "monkey; programs that need more run on gevent itself, whose greenlets weft takes the place of.",
    name=__name__,
)
