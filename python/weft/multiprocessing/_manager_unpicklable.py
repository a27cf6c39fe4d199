"""What cannot be sent to a manager's server, and which part of a call's arguments it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft import _portability
from weft._unpicklable import can_be_pickled, culprit, is_nameless, kind_of, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["portable", "unsendable"]

# How the arguments of a proxy's own operations are called there.
_OWN = {
    "#UPDATE_WITH": (("key", "function", "args", "default"), "update_with"),
    "#ADD": (("key", "amount", "default"), "add"),
}

_REMEDY = (
    "; lambdas, closures and functions of a class reach the server if the package cloudpickle is there "
    "(pip install cloudpickle), others as functions at the top of a module"
)


def portable(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is to be sent of the function of an operation, if its name leads nowhere in the server."""
    try:
        return _portability.portable(function)
    except Exception as error:
        if not is_nameless(function):
            return function  # the server may know it by its name, if it was forked off this process
        raise unsendable(error, "", "#UPDATE_WITH", (None, function, (), ()), {}) from error


def unsendable(error: Exception, ident: str, method: str, args: Any, kwds: Any) -> Exception:
    """The error for a call that the pickler refused: a `weft.UnpicklableError` that is of the pickler's class as well.

    `ident` is the object's; nothing for the server itself."""
    try:
        path, part, call = _described(ident, method, args, kwds)
        what = f"{path}, a {kind_of(part)}, cannot be sent to the manager's server, for {call}"
    except Exception as worse:  # of somebody's `__repr__`, say; the reason itself must not be lost over it
        path, part = "args", None
        what = f"a call of {method}() cannot be sent to the manager's server ({worse!r} when looking for the reason)"
    remedy = _REMEDY if path == "function" and is_nameless(part) else ""
    made = refusal(type(error), f"{what}: {error}{remedy}", path, part)
    made.__cause__ = error
    return made


def _described(ident: str, method: str, args: Any, kwds: Any) -> tuple[str, object, str]:
    """The way to what cannot be pickled, that itself, and the call."""
    if method == "#BATCH":
        for number, (of_batch, its_args, its_kwds) in enumerate(args[0]):
            if not can_be_pickled((its_args, its_kwds)):
                path, part, call = _described(ident, of_batch, its_args, its_kwds)
                return path, part, f"{call}, call {number} of a batch"
    if not ident and method == "create":
        method, args = args[0], args[1:]
    names, called = _OWN.get(method, ((), method))
    for name, value in _parts(names, args, kwds):
        if not can_be_pickled(value):
            path, part = culprit(value, name)
            break
    else:
        path, part = "args", args
    return path, part, f"{called}()"


def _parts(names: tuple[str, ...], args: Any, kwds: Any) -> Iterator[tuple[str, object]]:
    if names:
        yield from zip(names, args, strict=True)
    else:
        yield "args", tuple(args)
        yield "kwds", dict(kwds or {})
