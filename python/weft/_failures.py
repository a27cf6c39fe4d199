"""How a task's failure gets from the worker that had it to whoever waits for the result.

An exception travels as its pickle and the text of its traceback. What cannot be pickled there, or unpickled here, is replaced
by an exception that says what it was.
"""

from __future__ import annotations

import concurrent.futures.process
import re
import reprlib
import signal
import traceback
from concurrent.futures.process import BrokenProcessPool

from weft._unpicklable import BY_NAME, INSTALL, culprit, explained, is_local, kind_of, refusal
from weft.multiprocessing._stock import context, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["PoolTerminated", "RemoteError", "TaskTimeout", "WorkerDied"]


class WorkerDied(BrokenProcessPool):
    """The worker process ended while it did this task.

    `task` describes the task, `pid` is the worker's process id, `exitcode` how it ended: its exit code, or minus the
    signal; `signal` is the signal that ended it, or None; `reason` says in words what is known of the cause. `attempts` is how
    often the task was begun, each time by another worker, and this one the last of them. `task` is empty, and `attempts` 0, if no worker
    came to be ready for one.
    """

    __module__ = "weft"

    def __init__(
        self, task: str, pid: int | None, exitcode: int | None, reason: str = "", attempts: int = 1
    ) -> None:
        super().__init__(task, pid, exitcode, reason, attempts)
        self.task = task
        self.attempts = attempts
        self.pid = pid
        self.exitcode = exitcode
        self.reason = reason or how_it_ended(exitcode)

    @property
    def signal(self) -> int | None:
        """The signal that ended the worker."""
        return -self.exitcode if self.exitcode is not None and self.exitcode < 0 else None

    def __str__(self) -> str:
        if not self.task:
            return f"worker process {self.pid} ended before it was ready for a task: {self.reason}"
        last = "" if self.attempts < 2 else f", the last of {self.attempts} attempts"
        return f"worker process {self.pid} died while it did {self.task}{last}: {self.reason}"


class PoolTerminated(RuntimeError):
    """The pool was terminated before the task was done."""

    __module__ = "weft"


class TaskTimeout(TimeoutError):
    """The task ran longer than it may, and was stopped."""

    __module__ = "weft"


class RemoteError(Exception):
    """A task failed with an exception that could not be unpickled here, or its result could not.

    `kind` is the name of the exception's class, `text` what it said. The cause has the traceback.
    """

    __module__ = "weft"

    def __init__(self, message: str, kind: str = "", text: str = "") -> None:
        super().__init__(message, kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return str(self.args[0])


def how_it_ended(exitcode: int | None) -> str:
    """An exit code in words."""
    if exitcode is None:
        return "how it ended is not known"
    if exitcode >= 0:
        return f"it ended by itself with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"it was killed by {name}"


def named(function: object) -> str:
    """A task in a message."""
    try:
        return _named(function)
    except Exception:  # of the program's own attributes; nobody's error may be lost over a name
        return f"a call of {type(function).__qualname__}"


def _named(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    if name is None:
        inner = getattr(function, "func", None)  # a partial
        name = type(function).__qualname__ if inner is None else f"partial of {_named(inner)}"
        return f"a call of {name}" if inner is None else str(name)
    module = getattr(function, "__module__", None)
    return f"{module}.{name}()" if module else f"{name}()"


class _Brief(reprlib.Repr):
    """Plain arguments, in few characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 40
        self.maxtuple = 6


_brief = _Brief()


def described(function: object, arguments: object, items: tuple[int, int] | None) -> str:
    """A task in a message, with what is known of its arguments: themselves, if they are plain and few, or which items of a
    map they are, the first one and how many."""
    name = named(function)
    if isinstance(arguments, tuple) and name.endswith("()"):
        name = f"{name[:-1]}{', '.join(map(_brief.repr, arguments))})"
    if items is None:
        return name
    first, count = items
    return f"{name}, item {first}" if count == 1 else f"{name}, items {first} to {first + count - 1}"


# --- in the worker ------------------------------------------------------------------------------------------------


def describe(error: BaseException) -> tuple[bytes, str, str, str]:
    """What travels of an exception: its pickle, its class and what it says, and its traceback."""
    text = "".join(traceback.format_exception(error))
    try:
        pickled = bytes(reduction.ForkingPickler.dumps(error))
    except Exception as failure:
        return (*undeliverable(failure, error)[:3], text)
    return pickled, type(error).__qualname__, _said(error), text


def undeliverable(failure: BaseException, value: object) -> tuple[bytes, str, str, str]:
    """What travels instead of a value that cannot be sent."""
    from weft.multiprocessing.pool import UnpicklableResult

    name = "exception" if isinstance(value, BaseException) else "result"
    try:
        path, part = culprit(value, name)
        what = f"{path}, a {kind_of(part)}"
    except Exception as worse:  # of somebody's `__repr__`, say
        path = name
        what = f"{name}, a {kind_of(value)} ({type(worse).__qualname__} when looking for the reason)"
    error = UnpicklableResult(_shown(failure), _shown(value), path, what)
    return bytes(reduction.ForkingPickler.dumps(error)), type(error).__qualname__, str(error), ""


def undelivered(failure: Exception, value: object) -> tuple[bytes, str, str, str]:
    """The same, as executors have it: an error of the pickler's class."""
    return describe(explained(failure, value, "cannot send back {}", "result"))


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as worse:
        return f"<{type(value).__qualname__} whose repr raises {type(worse).__qualname__}>"


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as worse:
        return f"<its __str__ raises {type(worse).__qualname__}>"


# --- in the process that has the pool --------------------------------------------------------------------------------


def revive(described: tuple[bytes, str, str, str]) -> BaseException:
    """The exception that was described, with its traceback as the cause."""
    error = _revived(described)
    if described[3]:
        from weft.multiprocessing.pool import RemoteTraceback

        error.__cause__ = RemoteTraceback(f'\n"""\n{described[3]}"""')
    return error


def revive_for_future(described: tuple[bytes, str, str, str]) -> BaseException:
    """As `revive`, as executors have it."""
    error = _revived(described)
    if described[3]:
        error.__cause__ = remote_cause(described[3])
    return error


def remote_cause(text: str) -> BaseException:
    """What executors show the traceback of another process with."""
    stock: Any = concurrent.futures.process
    cause: BaseException = stock._RemoteTraceback(f'\n"""\n{text}"""')
    return cause


def _revived(described: tuple[bytes, str, str, str]) -> BaseException:
    pickled, kind, said, _ = described
    error: BaseException
    try:
        error = reduction.ForkingPickler.loads(pickled)
        if not isinstance(error, BaseException):
            raise TypeError(f"its pickle gives a {type(error).__qualname__}")
    except Exception as failure:
        error = RemoteError(
            f"{kind}: {said} (the exception cannot be unpickled here: {failure!r})", kind, said
        )
    return error


def unreadable(failure: BaseException) -> BaseException:
    """The failure of a task whose result cannot be unpickled."""
    error = RemoteError(
        f"the result cannot be unpickled here: {failure!r}", type(failure).__qualname__, _said(failure)
    )
    error.__cause__ = failure
    return error


_REMEDY = f"; lambdas and closures reach a worker if the package cloudpickle is there ({INSTALL})"
_OTHER_REMEDY = (
    f"; weft.Pool and weft.Executor take lambdas and closures if the package cloudpickle is there ({INSTALL})"
)

# What the parts of a message are called in the calls that make it, by the number of `weft_pool::Call`.
_ARGUMENTS = ("args", "args, kwds", "item", "items", "items")
_WITH_MANY_ITEMS = (3, 4)


def _renamed(path: str, call: int, items: tuple[int, int] | None) -> str:
    """The way to a part of a task, by the names that the arguments of the pool's method have."""
    named_so = _ARGUMENTS[call]
    if items is not None:
        named_so = f"iterable[{items[0]}]"
        if call in _WITH_MANY_ITEMS and (found := re.match(r"task\[1\]\[(\d+)\]", path)):
            return f"iterable[{items[0] + int(found[1])}]{path[found.end() :]}"
    elif named_so == "args, kwds":
        path = path.replace("task[1][0]", "args", 1).replace("task[1][1]", "kwds", 1)
    return path.replace("task[0]", "func", 1).replace("task[1]", named_so, 1)


def unpicklable(
    error: Exception,
    function: object,
    arguments: object,
    call: int,
    items: tuple[int, int] | None,
    refuses: bool,
) -> Exception:
    """The failure of a task that could not be sent: what the pickler raised, and which part it was about.

    `items` says which items of an iterable it is of, if it is: the first one, and how many. With `refuses` it is a `weft.UnpicklableError`, which is of the pickler's class too; otherwise what the pickler raised, with
    a note.
    """
    try:
        path, part = culprit((function, arguments), "task")
        path = _renamed(path, call, items)
        what = f"{path}, a {kind_of(part)}, cannot be sent to a worker, for {named(function)}"
        hint = ""
        if is_local(part):
            # As arguments they have to be found by name, cloudpickle or not.
            hint = BY_NAME if path != "func" else _REMEDY if refuses else _OTHER_REMEDY
    except Exception as worse:
        path, part, hint = "task", None, ""
        what = (
            f"a task, {named(function)}, cannot be sent to a worker ({worse!r} when looking for the reason)"
        )
    failure = error
    if refuses:
        failure = refusal(type(error), f"{what}: {_said(error)}{hint}", path, part)
        failure.__cause__ = error
    else:
        error.add_note(f"{what}{hint}")
    return failure


def timed_out() -> Exception:
    """What a wait for a result raises when its time is over."""
    made: Callable[[], Any] = context.TimeoutError
    error: Exception = made()
    return error
