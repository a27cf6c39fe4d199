"""Greenlets that switch by themselves where they wait: what will take the place of gevent.

What is here is complete in itself and works; a module of gevent's that is not here yet says so when it is imported.
Before all of it is here, `python -m weft` replaces gevent only if asked to: `--only gevent`.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any, NamedTuple

from weft import _native
from weft.greenlet import GreenletExit, getcurrent

# The native half is a module of its own; nothing on the path would lead to it.
_native._hub.__spec__ = ModuleSpec(f"{__name__}._hub", None, origin=_native.__file__)
_native._hub.__file__ = _native.__file__
sys.modules[f"{__name__}._hub"] = _hub = _native._hub

from ._config import config
from .greenlet import Greenlet, iwait, joinall, killall, wait
from .hub import get_hub, idle, kill, reinit, sleep, spawn_raw
from .hub import signal as signal_handler
from .os import fork
from .timeout import Timeout, with_timeout

__all__ = [
    "Greenlet",
    "GreenletExit",
    "Timeout",
    "config",
    "fork",
    "get_hub",
    "getcurrent",
    "getswitchinterval",
    "idle",
    "iwait",
    "joinall",
    "kill",
    "killall",
    "reinit",
    "setswitchinterval",
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

getswitchinterval = sys.getswitchinterval
setswitchinterval = sys.setswitchinterval

# The gevent whose interface this is.
__version__ = "26.9.0"


class _VersionInfo(NamedTuple):
    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: int


version_info = _VersionInfo(26, 9, 0, "final", 0)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"{__name__} has no {name!r}, or it is a module that was not imported. WSGI, subprocess and fileobject are not "
        "there yet: programs that need them run on gevent itself, whose greenlets weft takes the place of."
    )
