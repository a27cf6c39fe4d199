"""The greenlet package on weft's coroutines.

The same names, signatures and errors as greenlet 3.5.6, and its C API: the capsule `_C_API`, and
a header in `get_include()`. After `weft.install()` or under `python -m weft` this module is what
`import greenlet` gives, one object under both names.

Reference: https://greenlet.readthedocs.io/en/stable/api.html
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec

from weft import _native, _support

if __name__ != "greenlet":
    _support.warn_of_another_engine()

# The native half is a module of its own, as in greenlet; nothing on the path would lead to it.
_native._greenlet.__spec__ = ModuleSpec("greenlet._greenlet", None, origin=_native.__file__)
_native._greenlet.__file__ = _native.__file__
sys.modules[f"{__name__}._greenlet"] = _native._greenlet

from . import _greenlet
from ._greenlet import (
    _C_API,
    CLOCKS_PER_SEC,
    GREENLET_USE_CONTEXT_VARS,
    GREENLET_USE_GC,
    GREENLET_USE_TRACING,
    GreenletExit,
    enable_optional_cleanup,
    error,
    get_clocks_used_doing_optional_cleanup,
    getcurrent,
    gettrace,
    greenlet,
    settrace,
)

# What greenlet 3.5.6 exports; the other names can be reached, as there.
__all__ = [
    "GreenletExit",
    "_C_API",
    "__version__",
    "error",
    "getcurrent",
    "gettrace",
    "greenlet",
    "settrace",
]

__version__ = "3.5.6"  # of the greenlet whose behaviour this is


def get_include() -> str:
    """The directory to give to a C compiler for `#include <greenlet/greenlet.h>`.

    Extensions compiled against greenlet's own header of any 1.x to 3.x version work unchanged. They look for
    the name `greenlet`, so `weft.install()` or `python -m weft` must have made it weft's.
    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
