"""Which module here stands for which of the standard library's."""

from __future__ import annotations

MAPPING = {
    "gevent.contextvars": "contextvars",
    "gevent.local": "_threading_local",
    "gevent.os": "os",
    "gevent.queue": "queue",
    "gevent.select": "select",
    "gevent.selectors": "selectors",
    "gevent.signal": "signal",
    "gevent.socket": "socket",
    "gevent.ssl": "ssl",
    "gevent.thread": "_thread",
    "gevent.threading": "threading",
    "gevent.time": "time",
}
