"""The standard library's multiprocessing on weft's processes: same names, same meanings, same classes underneath.

Processes are `multiprocessing.process.BaseProcess`es, and the start method, the current process and its children are
those of the standard library: a program may use both side by side. What differs:

* `forkserver` starts children from a *template process* that has imported the main module and the named
  preloads once.
* Whatever the start method, no started process outlives the program that the first one was started from, however
  that one ends.
* No descriptor is held for a process unless its `sentinel` is asked for.
* Queues are weft's (`weft.multiprocessing.queues`), and locks (`weft.multiprocessing.synchronize`).

Submodules that weft does not have are the standard library's: `weft.multiprocessing.connection` is
`multiprocessing.connection`. Linux only; the reference is https://docs.python.org/3/library/multiprocessing.html.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

from weft import _native

# The native half is modules of its own; nothing on the path would lead to them.
for _name, _module in (("_pool", _native._pool), ("_process", _native._process), ("_sync", _native._sync)):
    _module.__spec__ = ModuleSpec(f"{__name__}.{_name}", None, origin=_native.__file__)
    _module.__file__ = _native.__file__
    sys.modules[f"{__name__}.{_name}"] = _module

from weft.multiprocessing import _borrowed, context

SUBDEBUG = 5
SUBWARNING = 25

_default = context._default_context

# As in the standard library, the package's functions are the default context's methods.
__all__ = [name for name in dir(_default) if not name.startswith("_")]
globals().update((name, getattr(_default, name)) for name in __all__)

if "__main__" in sys.modules:
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])

_borrowed.install()


def __getattr__(name: str) -> object:
    return _borrowed.submodule(name)
