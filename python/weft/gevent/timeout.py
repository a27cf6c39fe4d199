"""Exceptions that raise themselves in a greenlet after a while. As gevent.timeout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weft.greenlet import getcurrent

from .hub import get_hub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Timeout", "with_timeout"]

_UNIQUE: Any = object()


class Timeout(BaseException):
    """Raises itself, or `exception`, in the greenlet that started it, `seconds` from then.

    As a context manager it starts on entry and is closed on exit; with `exception=False` it
    then ends silently. `seconds` of None is never.
    """

    def __init__(
        self,
        seconds: float | None = None,
        exception: Any = None,
        ref: bool = True,
        priority: int = -1,
    ) -> None:
        BaseException.__init__(self)
        self.seconds = seconds
        self.exception = exception
        self.timer: Any = None if seconds is None else get_hub().loop.timer(max(seconds, 0.0), ref=ref)

    def start(self) -> None:
        """Begin to count."""
        if self.pending:
            raise AssertionError(f"{self!r} is already started; to restart it, cancel it first")
        if self.timer is None:
            return
        if self.exception is None or self.exception is False or isinstance(self.exception, str):
            error = self
        else:
            error = self.exception
        self.timer.start(getcurrent().throw, error)

    @classmethod
    def start_new(cls, timeout: Any = None, exception: Any = None, ref: bool = True) -> Any:
        """A started timeout: of so many seconds, or `timeout` itself if it is one."""
        if isinstance(timeout, Timeout):
            if not timeout.pending:
                timeout.start()
            return timeout
        made = cls(timeout, exception, ref=ref)
        made.start()
        return made

    @property
    def pending(self) -> bool:
        """Whether it is started, and did not raise yet."""
        return self.timer is not None and (self.timer.pending or self.timer.active)

    def cancel(self) -> None:
        """Do not raise. It can be started again."""
        if self.timer is not None:
            self.timer.stop()

    def close(self) -> None:
        """Do not raise, ever."""
        if self.timer is not None:
            self.timer.stop()
            self.timer.close()
            self.timer = None

    def __enter__(self) -> Self:
        if not self.pending:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        self.close()
        return True if value is self and self.exception is False else None

    def __repr__(self) -> str:
        state = " pending" if self.pending else ""
        exception = "" if self.exception is None else f" exception={self.exception!r}"
        return f"<{type(self).__name__} at {id(self):#x} seconds={self.seconds}{exception}{state}>"

    def __str__(self) -> str:
        if self.seconds is None:
            return ""
        plural = "" if self.seconds == 1 else "s"
        if self.exception is None:
            return f"{self.seconds} second{plural}"
        if self.exception is False:
            return f"{self.seconds} second{plural} (silent)"
        return f"{self.seconds} second{plural}: {self.exception}"


class _Never:
    """A timeout of None: nothing to start, nothing to close."""

    pending = False

    def cancel(self) -> None:
        pass

    close = cancel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


_NEVER = _Never()


def start_or_never(seconds: float | None) -> Any:
    """A started Timeout, or what stands for none."""
    return _NEVER if seconds is None else Timeout.start_new(seconds)


def with_timeout(seconds: float | None, function: Callable[..., Any], *args: object, **kwds: Any) -> Any:
    """Call `function(*args, **kwds)`; if that takes longer, return `timeout_value` or raise Timeout."""
    value = kwds.pop("timeout_value", _UNIQUE)
    timeout = Timeout.start_new(seconds)
    try:
        try:
            return function(*args, **kwds)
        except Timeout as error:
            if error is timeout and value is not _UNIQUE:
                return value
            raise
    finally:
        timeout.close()
