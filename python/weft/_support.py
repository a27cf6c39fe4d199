"""Which interpreters weft runs on, and what to say on the others.

Everything here must parse and run on interpreters that are refused.
"""

from __future__ import annotations

import os
import sys

OLDEST = (3, 11)
NEWEST = (3, 13)


def refusal(implementation: str, version: tuple[int, int], abiflags: str) -> str | None:
    """Why such an interpreter is not supported, or None.

    `implementation` is as in `sys.implementation.name`, `abiflags` as in `sys.abiflags`.
    """
    supported = "CPython {}.{} to {}.{}".format(*OLDEST, *NEWEST)
    if implementation != "cpython":
        return f"weft needs {supported}; this interpreter is {implementation}"
    found = "CPython {}.{}".format(*version)
    if not OLDEST <= version <= NEWEST:
        return f"weft needs {supported}; this interpreter is {found}"
    if "t" in abiflags:
        return f"weft does not support free-threaded builds yet; this interpreter is {found}{abiflags}"
    return None


def check_interpreter() -> None:
    """Raise ImportError if the running interpreter is not supported."""
    flags = getattr(sys, "abiflags", "")
    reason = refusal(sys.implementation.name, sys.version_info[:2], flags)
    if reason is not None:
        raise ImportError(reason, name="weft")


def explain(error: ImportError) -> ImportError:
    """The error to raise instead of `error`, which came from importing `weft._native`."""
    if _in_subinterpreter():
        reason = "weft works in the main interpreter only; sub-interpreters are not supported yet"
    elif isinstance(error, ModuleNotFoundError) or error.name == "weft":
        reason = _missing(os.path.dirname(__file__))
    else:
        reason = f"weft's native module cannot be loaded: {error}"
    return ImportError(reason, name="weft._native", path=error.path)


def _missing(folder: str) -> str:
    wanted = f"{sys.implementation.cache_tag} on {sys.platform}"
    present = sorted(entry for entry in os.listdir(folder) if entry.startswith("_native."))
    modules = [entry for entry in present if not entry.endswith(".pyi")]
    return (
        f"weft is installed without a native module for this interpreter ({wanted}); "
        f"{folder} has {', '.join(modules) or 'none at all'}. "
        f"Reinstall it with this interpreter: {sys.executable} -m pip install --force-reinstall weft"
    )


def _in_subinterpreter() -> bool:
    try:
        if sys.version_info >= (3, 13):
            import _interpreters

            return bool(_interpreters.get_current()[0] != _interpreters.get_main()[0])
        import _xxsubinterpreters  # type: ignore[import-not-found]

        return bool(_xxsubinterpreters.get_current() != _xxsubinterpreters.get_main())
    except ImportError:
        return False
