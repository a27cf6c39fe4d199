"""What depends on the interpreter, under the names that gevent's own tests import."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from os import fsdecode, fsencode, fspath
from time import get_clock_info, monotonic, perf_counter
from typing import Any, NoReturn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

PY311 = sys.version_info[:2] >= (3, 11)
PY312 = sys.version_info[:2] >= (3, 12)
PY313 = sys.version_info[:2] >= (3, 13)
PY314 = sys.version_info[:2] >= (3, 14)
PYPY = False
WIN = False
LINUX = sys.platform.startswith("linux")
OSX = MAC = sys.platform == "darwin"
# The native half is always there.
PURE_PYTHON = False

string_types = (str,)
integer_types = (int,)
text_type = str
hostname_types = (str, bytes, bytearray)
native_path_types = (str, bytes)
thread_mod_name = "_thread"

_fspath = fspath
NativeStrIO = io.StringIO


def reraise(_kind: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> NoReturn:
    """Raise the exception with that traceback."""
    raise value.with_traceback(tb)


def get_this_psutil_process() -> Any:
    """This process as psutil sees it; None if psutil is not installed, or may not look."""
    try:
        psutil = import_module("psutil")
    except ImportError:
        return None
    try:
        process = psutil.Process(os.getpid())
        process.memory_full_info()
    except psutil.AccessDenied:
        return None
    return process


__all__ = [
    "LINUX",
    "MAC",
    "OSX",
    "PURE_PYTHON",
    "PY311",
    "PY312",
    "PY313",
    "PY314",
    "PYPY",
    "WIN",
    "NativeStrIO",
    "fsdecode",
    "fsencode",
    "fspath",
    "get_clock_info",
    "get_this_psutil_process",
    "hostname_types",
    "integer_types",
    "monotonic",
    "native_path_types",
    "perf_counter",
    "reraise",
    "string_types",
    "text_type",
    "thread_mod_name",
]
