"""What cannot be pickled, and where in an object it is."""

from __future__ import annotations

import pickle
import types
from collections import deque
from collections.abc import Iterator
from multiprocessing import reduction
from typing import Any

DEEPEST = 20  # levels of an object that are searched for what cannot be pickled
NAME = "obj"  # what the argument of `put` is called


class UnpicklableError(pickle.PicklingError, TypeError):
    """An object that was to be sent to another process cannot be pickled.

    `path` says which part of the arguments it is, as an expression: in `obj` of a queue's `put`; in `func`, `args` and `kwds` of
    a call for a pool; in the `iterable` of a map, as `iterable[17]` (`item` of an executor's, or, from the first of a
    chunk on, `items`); in `args` and `kwds` of a method of a manager's proxy, or the names that `update_with` and `add` have for
    theirs. `part` is that part. The cause is what the pickler raised; of a pool's task and of a proxy's call the error is of the
    cause's class too.
    """

    __module__ = "weft"

    def __init__(self, message: str, path: str = NAME, part: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.part = part


def explained(error: BaseException, obj: object, sending: str, name: str = NAME) -> UnpicklableError:
    """The error for an object, called `name`, that was to be sent: `sending` has a {} for its innermost bad part."""
    path, part = culprit(obj, name)
    what = f"{path}, a {kind_of(part)}"
    return UnpicklableError(f"{sending.format(what)}: {error}", path, part)


def refusal(kind: type[Exception], message: str, path: str, part: object) -> UnpicklableError:
    """The error, which is a `kind` too: programs catch what the pickler raises."""
    cls: Any = UnpicklableError
    try:
        if not issubclass(UnpicklableError, kind):
            cls = type("UnpicklableError", (UnpicklableError, kind), {"__module__": "weft"})
        made: UnpicklableError = cls(message, path, part)
    except Exception:
        # A class of the program's that cannot be a base, or be made of this: the cause is of it.
        made = UnpicklableError(message, path, part)
    return made


def is_nameless(part: object) -> bool:
    """Whether it is a function whose name leads nowhere: a lambda, a closure, or one of a class within a function."""
    return isinstance(part, types.FunctionType) and "<" in part.__qualname__


def kind_of(part: object) -> str:
    """The class of an object, in a message."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def culprit(obj: object, name: str = NAME) -> tuple[str, object]:
    """The innermost part of `obj` that cannot be pickled, and the way to it."""
    path, seen = name, {id(obj)}
    for _ in range(DEEPEST):
        for step, part in parts(obj):
            if id(part) not in seen and not can_be_pickled(part):
                path, obj = path + step, part
                seen.add(id(part))
                break
        else:
            break
    return path, obj


def can_be_pickled(obj: object) -> bool:
    """Whether the pickler takes it."""
    try:
        reduction.ForkingPickler.dumps(obj)
    except Exception:
        return False
    return True


def parts(obj: Any) -> Iterator[tuple[str, object]]:
    """What `obj` consists of for the pickler, each with the expression that leads there.

    Other collections are pickled by their attributes; to go through them could fail, or have no end.
    """
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"[{key!r}]", value
            yield f" (the key {key!r})", key
    elif isinstance(obj, (list, tuple, deque)):
        for position, value in enumerate(obj):
            yield f"[{position}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield " (a member)", value
    if is_pickled_by_attributes(type(obj)):
        for name, value in getattr(obj, "__dict__", {}).items():
            yield f".{name}", value


def is_pickled_by_attributes(cls: Any) -> bool:
    """Whether objects of a class are pickled as classes that say nothing about it are."""
    return (
        cls.__getstate__ is object.__getstate__
        and cls.__reduce__ is object.__reduce__
        and cls.__reduce_ex__ is object.__reduce_ex__
    )
