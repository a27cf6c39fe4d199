"""Coroutines and processes for Python, one runtime, written in Rust.

`weft.greenlet` is the greenlet package on weft's coroutines. `install` makes `import greenlet`
mean it, in this process and its children; `python -m weft` does so for an unchanged program.
"""

from __future__ import annotations

from os import environ

from weft import _support

_support.check_interpreter()
_support.check_settings(environ)
try:
    from weft import _native
except ImportError as _error:
    raise _support.explain(_error) from _error

from weft._install import InstallError, install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft import greenlet

__all__ = ["InstallError", "__version__", "greenlet", "install"]

__version__: str = _native.__version__


def __getattr__(name: str) -> object:
    if name == "greenlet":
        from importlib import import_module

        return import_module("weft.greenlet")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
