"""Functions whose names lead nowhere in a worker: they travel as their code, by the package cloudpickle."""

from __future__ import annotations

import ast
import sys
import types
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _ByValue:
    """A function that travels as its code."""

    def __init__(self, function: Callable[..., Any], pickled: bytes) -> None:
        self.func = function  # as a partial's: what gives the task its name
        self._pickled = pickled
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", "")

    def __reduce__(self) -> Any:
        return _from_value, (self._pickled,)


_made: dict[bytes, Any] = {}
_MOST_MADE = 64


def _from_value(pickled: bytes) -> Any:
    """In a worker: the function. It is unpickled once."""
    import pickle

    function = _made.get(pickled)
    if function is None:
        if len(_made) >= _MOST_MADE:
            _made.clear()
        function = _made[pickled] = pickle.loads(pickled)
    return function


def of(method: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """What is to be sent of a function to workers that are started so."""
    # A forked worker has what the main module has, by its name.
    return _of_forked if method == "fork" else portable


def portable(function: Callable[..., T]) -> Callable[..., T]:
    """The function, or what takes its place in a message if its name leads nowhere in a process that was not forked."""
    return _by_value(function) if _is_nameless(function) or _is_guarded(function) else function


def _of_forked(function: Callable[..., T]) -> Callable[..., T]:
    return _by_value(function) if _is_nameless(function) else function


def _by_value(function: Callable[..., T]) -> Callable[..., T]:
    try:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return function  # the pickler says what is wrong
    # Each time: what it refers to may have changed.
    value: Any = _ByValue(function, cloudpickle.dumps(function))
    made: Callable[..., T] = value
    return made


def _is_function(what: Any) -> bool:
    """Whether it is one of Python's own, and no other callable."""
    return type(what) is types.FunctionType


def _is_nameless(function: Any) -> bool:
    """Whether it is a lambda or a closure, or of a main module that cannot be imported."""
    if not _is_function(function):
        return False
    if "<" in function.__qualname__:
        return True
    if function.__module__ != "__main__":
        return False
    from weft.multiprocessing import _payload

    return not _payload.main_can_be_imported()


def _is_guarded(function: Any) -> bool:
    """Whether it is defined where the main module looks whether it is that: a worker's import of the module passes it by."""
    if not _is_function(function) or function.__module__ != "__main__":
        return False
    code = function.__code__
    if code.co_filename != getattr(sys.modules["__main__"], "__file__", None):
        return False
    guarded = _guarded.get(code.co_filename)
    if guarded is None:
        guarded = _guarded[code.co_filename] = _guarded_lines(code.co_filename)
    return any(code.co_firstlineno in lines for lines in guarded)


_guarded: dict[str, tuple[range, ...]] = {}


def _guarded_lines(path: str) -> tuple[range, ...]:
    """The lines below `if __name__ == "__main__":` in a file of source code."""
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):
        return ()  # it is gone, or no source code: the name is tried
    return tuple(
        range(part.body[0].lineno, (part.body[-1].end_lineno or 0) + 1)
        for part in body
        if isinstance(part, ast.If) and _asks_for_main(part.test)
    )


def _asks_for_main(test: ast.expr) -> bool:
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq) or len(test.ops) > 1:
        return False
    sides = [ast.unparse(side) for side in (test.left, *test.comparators)]
    return sorted(sides) == ["'__main__'", "__name__"]
