"""Something that happens once, and what it brought. As gevent.event."""

from __future__ import annotations

from typing import Any

from ._links import Linkable
from .timeout import Timeout

__all__ = ["AsyncResult", "Event"]


class Event(Linkable):
    """A flag that greenlets wait for, as threading.Event is for threads."""

    __slots__ = ("_flag",)

    def __init__(self) -> None:
        super().__init__()
        self._flag = False

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self._flag

    isSet = is_set
    ready = is_set

    def set(self) -> None:
        """Set the flag: whoever waits goes on."""
        self._flag = True
        self._notify()

    def clear(self) -> None:
        """Take the flag down."""
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if it was not in `timeout` seconds."""
        if self._flag:
            return True
        return self._park(timeout)

    def _call_links(self, links: list[Any]) -> None:
        # Who waited when it was set goes on, also if it was cleared since.
        self._notifier = None
        for link in links:
            if link in self._links:
                self._links.remove(link)
                self._call_link(link)
        if self._links and self._flag:
            self._notify()

    def __repr__(self) -> str:
        state = "set" if self._flag else "clear"
        return f"<{type(self).__name__} at {id(self):#x} {state} _links[{len(self._links)}]>"


_NOT_SET: Any = object()


class AsyncResult(Linkable):
    """A value, or an exception, that is set once or more, and waited for."""

    __slots__ = ("_error", "_value")

    def __init__(self) -> None:
        super().__init__()
        self._value: Any = _NOT_SET
        self._error: BaseException | None = None

    def ready(self) -> bool:
        """Whether a value or an exception was set."""
        return self._value is not _NOT_SET or self._error is not None

    def successful(self) -> bool:
        """Whether a value was set."""
        return self._error is None and self._value is not _NOT_SET

    @property
    def value(self) -> Any:
        """The value; None if there is none."""
        return None if self._value is _NOT_SET else self._value

    @property
    def exception(self) -> BaseException | None:
        """The exception; None if there is none."""
        return self._error

    @property
    def exc_info(self) -> Any:
        """Type, exception and traceback; an empty tuple if there is none."""
        if self._error is None:
            return ()
        return (type(self._error), self._error, self._error.__traceback__)

    def set(self, value: Any = None) -> None:
        """Set the value, and wake who waits."""
        self._value, self._error = value, None
        self._notify()

    set_result = set

    def set_exception(self, exception: BaseException, exc_info: Any = None) -> None:
        """Set the exception, which is raised in who waits."""
        if exc_info is not None and len(exc_info) > 2 and exc_info[2] is not None:
            exception = exception.with_traceback(exc_info[2])
        self._value, self._error = _NOT_SET, exception
        self._notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the value or raise the exception, waiting for it; Timeout if it did not come."""
        if not self.ready() and (not block or not self._park(timeout)):
            raise Timeout(timeout if block else None)
        if self._error is not None:
            raise self._error
        return self._value

    def result(self, timeout: float | None = None) -> Any:
        """The same."""
        return self.get(timeout=timeout)

    def get_nowait(self) -> Any:
        """The same, without waiting."""
        return self.get(block=False)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until something is set; return the value, or None."""
        if not self.ready():
            self._park(timeout)
        return self.value

    def cancel(self) -> bool:
        """Never possible."""
        return False

    cancelled = cancel

    def done(self) -> bool:
        """The same as `ready()`."""
        return self.ready()

    def __call__(self, source: Any) -> None:
        """As a link: take over the result of a greenlet or another one of these."""
        if source.successful():
            self.set(source.value)
        else:
            self.set_exception(source.exception, getattr(source, "exc_info", None))

    def __repr__(self) -> str:
        result = ""
        if self._error is not None:
            result = f" exception={self._error!r}"
        elif self._value is not _NOT_SET:
            result = f" value={self._value!r}"
        return f"<{type(self).__name__} at {id(self):#x}{result} _links[{len(self._links)}]>"
