"""The module `signal`, whose handlers for SIGCHLD run in a greenlet of their own. As gevent.signal.

The loop does not use SIGCHLD: it learns of the end of children by descriptors. So handlers, and the descriptor of
`set_wakeup_fd`, work as they do in the standard library; but programs expect a handler for SIGCHLD to be able to wait.
"""

from __future__ import annotations

import signal as _signal
from typing import Any

from ._util import reexport

_set_handler = _signal.signal
_get_handler = _signal.getsignal

__implements__ = ["getsignal", "signal"]

# What the program had called for SIGCHLD, while our own function is the handler.
_child_handler: Any = None


def _on_child(number: int, frame: Any) -> None:
    from .greenlet import Greenlet
    from .hub import get_hub_if_exists

    handler = _child_handler
    if get_hub_if_exists() is None:
        handler(number, frame)
    else:
        Greenlet.spawn(handler, number, None)


def getsignal(signalnum: int) -> Any:
    """What handles the signal, as the program has set it."""
    handler = _get_handler(signalnum)
    return _child_handler if handler is _on_child else handler


def signal(signalnum: int, handler: Any) -> Any:
    """Set what handles the signal; what handled it before. A function for SIGCHLD is called in a new greenlet."""
    global _child_handler
    before = getsignal(signalnum)
    if signalnum == _signal.SIGCHLD and callable(handler):
        _child_handler = handler
        handler = _on_child
    _set_handler(signalnum, handler)
    return before


__imports__ = reexport(_signal, globals(), without=__implements__)
__all__ = [*__implements__]
