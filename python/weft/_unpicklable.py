"""What cannot be pickled, and where in an object it is."""

from __future__ import annotations

import pickle
import types
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from typing import Any

DEEPEST = 20  # levels of an object that are searched for what cannot be pickled
NAME = "obj"  # what the argument of `put` is called
_MOST_MADE = 64  # classes of errors that are kept

INSTALL = "pip install cloudpickle"
_THE_PICKLERS = (TypeError, AttributeError, RuntimeError, pickle.PicklingError)
# What to do about code whose name leads nowhere.
BY_NAME = (
    "; only functions and classes at the top of a module can be sent, which the receiver finds by their names"
)


class UnpicklableError(pickle.PicklingError, TypeError):
    """An object that was to be sent to another process cannot be pickled.

    `path` says which part of the arguments it is, as an expression: in `obj` of a queue's `put`; in `func`, `args` and `kwds` of
    a call for a pool; in the `iterable` of a map, as `iterable[17]` (`item` of an executor's, or, from the first of a
    chunk on, `items`); in `args` and `kwds` of a method of a manager's proxy, or the names that `update_with` and `add` have for
    theirs; in `target`, `args`, `kwargs` and `self` of a process, in the `value` of a dictionary, and in the `result` of a task.
    `part` is that part; None in another process than where it was found. The cause is what the pickler raised; the error is of the
    cause's class too.
    """

    __module__ = "weft"

    def __init__(self, message: str, path: str = NAME, part: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.part = part

    def __reduce__(self) -> Any:
        # Without the part, which cannot be pickled.
        return _remade, (_kinds.get(type(self), UnpicklableError), str(self), self.path)


def _remade(kind: type[Exception], message: str, path: str) -> UnpicklableError:
    return refusal(kind, message, path, None)


def explained(
    error: Exception,
    obj: object,
    sending: str,
    name: str = NAME,
    remedy: str = BY_NAME,
    takes: Callable[[object], bool] | None = None,
) -> UnpicklableError:
    """The error for an object, called `name`, that was to be sent: `sending` has a {} for its innermost bad part.

    `remedy` is said of code whose name leads nowhere; `takes` says what can be pickled, if that is more than usual.
    """
    path, part, more = name, obj, ""
    try:
        path, part = culprit(obj, name, takes)
        more = str(error) + (remedy if is_local(part) else "")
    except Exception as worse:  # of somebody's `__repr__`, say; the reason itself must not be lost over it
        more = more or f"{type(error).__qualname__} ({worse!r} when looking for the reason)"
    made = refusal(type(error), f"{sending.format(f'{path}, a {kind_of(part)}')}: {more}", path, part)
    made.__cause__ = error
    if isinstance(made, OSError):
        made.errno = getattr(error, "errno", None)
    return made


def refused(error: Exception, obj: object, sending: str, name: str) -> Exception:
    """As `explained`, where the standard library's interface is kept: what others than the pickler raise goes on as it is."""
    return explained(error, obj, sending, name) if type(error) in _THE_PICKLERS else error


def of_process(process: Any, takes: Callable[[object], bool] | None = None) -> tuple[str, object]:
    """Which part of a process object cannot be pickled, as it is called, and that part; itself if it is none of them."""
    known = {"_target": "target", "_args": "args", "_kwargs": "kwargs"}
    own = vars(process)
    for name in [*known, *(other for other in own if other not in known)]:
        if name in own and not (takes or can_be_pickled)(own[name]):
            return known.get(name, f"self.{name}"), own[name]
    return "self", process


# The pickler's classes that errors made by `refusal` are of as well.
_kinds: dict[type[UnpicklableError], type[Exception]] = {}
_made: dict[type[Exception], type[UnpicklableError]] = {}


def refusal(kind: type[Exception], message: str, path: str, part: object) -> UnpicklableError:
    """The error, which is a `kind` too: programs catch what the pickler raises."""
    try:
        made: UnpicklableError = _class_of(kind)(message, path, part)
    except Exception:
        # A class of the program's that cannot be a base, or be made of this: the cause is of it.
        made = UnpicklableError(message, path, part)
    return made


def _class_of(kind: type[Exception]) -> Any:
    if issubclass(UnpicklableError, kind):
        return UnpicklableError
    if issubclass(kind, UnpicklableError):
        kind = _kinds.get(kind, UnpicklableError)
    cls = _made.get(kind)
    if cls is None:
        if len(_made) >= _MOST_MADE:  # of classes that a program makes without end
            _made.clear()
            _kinds.clear()
        made: Any = type("UnpicklableError", (UnpicklableError, kind), {"__module__": "weft"})
        cls = _made[kind] = made
        _kinds[made] = kind
    return cls


def is_local(part: object) -> bool:
    """Whether it is code whose name leads nowhere, or an object of such a class."""
    cls = part if isinstance(part, type) else type(part)
    return is_nameless(part) or "<" in cls.__qualname__


def is_nameless(part: object) -> bool:
    """Whether it is a function whose name leads nowhere: a lambda, a closure, or one of a class within a function."""
    return isinstance(part, types.FunctionType) and "<" in part.__qualname__


def kind_of(part: object) -> str:
    """The class of an object, in a message."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def culprit(
    obj: object, name: str = NAME, takes: Callable[[object], bool] | None = None
) -> tuple[str, object]:
    """The innermost part of `obj` that cannot be pickled, and the way to it."""
    takes = takes or can_be_pickled
    path, seen = name, {id(obj)}
    for _ in range(DEEPEST):
        for step, part in parts(obj):
            if id(part) not in seen and not takes(part):
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
