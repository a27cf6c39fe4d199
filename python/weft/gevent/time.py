"""The module `time` with a `sleep` that lets other greenlets run. As gevent.time."""

from __future__ import annotations

import time as _time

from ._util import reexport
from .hub import sleep  # noqa: F401  what this module is for

__implements__ = ["sleep"]
__imports__ = reexport(_time, globals(), without=__implements__)
__all__ = [*__implements__, *__imports__]
