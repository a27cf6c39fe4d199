"""Which interpreters weft runs on, and what to say on the others.

Everything here must parse and run on interpreters that are refused.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping

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


# What each setting of the environment is, and its least and greatest value.
SETTINGS = {
    "WEFT_STACK_SIZE": ("bytes of C stack of a greenlet", 64 << 10, 1 << 40),
    "WEFT_STACK_SLOTS": ("stack slots a thread may reserve", 1, 4096),
}


def check_settings(environment: Mapping[str, str]) -> None:
    """Raise ImportError if a setting in the environment is no number, or not a possible one."""
    for name, (meaning, least, most) in SETTINGS.items():
        text = environment.get(name, "").strip()
        if text and not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ImportError(
                f"{name}={text!r} is no number of {meaning} from {least} to {most}; correct it or unset it",
                name="weft",
            )


def warn_of_another_engine() -> None:
    """Warn if the greenlet package is loaded beside weft's greenlets: the two cannot switch in one thread."""
    other = sys.modules.get("greenlet")
    if other is not None and getattr(other, "greenlet", None) is not None:
        warnings.warn(
            "the greenlet package is loaded already, and weft.greenlet is another implementation beside it: "
            "greenlets of the one that switch inside greenlets of the other (as gevent's do) crash the process. "
            "Call weft.install() first thing, or start the program with `python -m weft`.",
            RuntimeWarning,
            stacklevel=3,
        )


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
        f"Install it with this interpreter, from weft's source: {sys.executable} -m pip install ."
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
