"""Greenlets that switch by themselves where they wait: what will take the place of gevent.

What is here is complete in itself and works; a module of gevent's that is not here yet is named
by the error that importing it raises. `python -m weft` does not replace gevent before all of it is.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any

from weft import _native
from weft.greenlet import GreenletExit, getcurrent

# The native half is a module of its own; nothing on the path would lead to it.
_native._hub.__spec__ = ModuleSpec(f"{__name__}._hub", None, origin=_native.__file__)
_native._hub.__file__ = _native.__file__
sys.modules[f"{__name__}._hub"] = _hub = _native._hub

from .greenlet import Greenlet, iwait, joinall, killall, wait
from .hub import Hub, get_hub, idle, kill, reinit, sleep, spawn_raw
from .hub import signal as signal_handler
from .timeout import Timeout, with_timeout

__all__ = [
    "Greenlet",
    "GreenletExit",
    "Hub",
    "Timeout",
    "get_hub",
    "getcurrent",
    "idle",
    "iwait",
    "joinall",
    "kill",
    "killall",
    "reinit",
    "signal_handler",
    "sleep",
    "spawn",
    "spawn_later",
    "spawn_raw",
    "wait",
    "with_timeout",
]

spawn = Greenlet.spawn
spawn_later = Greenlet.spawn_later

_HERE = ("core", "event", "exceptions", "greenlet", "hub", "lock", "pool", "queue", "timeout")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"weft.gevent has no {name!r} yet; its modules are {', '.join(_HERE)}. "
        "Programs that need more run on gevent itself, whose greenlets weft takes the place of."
    )
