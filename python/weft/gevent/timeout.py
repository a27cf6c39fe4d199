"""Exceptions that raise themselves in a greenlet after a while. As gevent.timeout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _hub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Timeout", "with_timeout"]

_UNIQUE: Any = object()


class Timeout(_hub.TimeoutBase):
    """Raises itself, or `exception`, in the greenlet or the coroutine that started it, `seconds` from then.

    As a context manager it starts on entry and is closed on exit; with `exception=False` it
    then ends silently. `seconds` of None is never.
    """

    @staticmethod
    def _start_new_or_dummy(timeout: Any, exception: Any = None, ref: bool = True) -> Any:
        """A started one, or what stands for one that never raises."""
        if timeout is None:
            return _NEVER
        return Timeout.start_new(timeout, exception, ref, _one_shot=True)

    @property
    def timer(self) -> Any:
        """What counts: itself, as far as one may ask whether it is pending."""
        return self if self.seconds is not None else _NEVER

    @property
    def active(self) -> bool:
        """The same as `pending`, as timers have it."""
        return self.pending

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

    def __lt__(self, other: Any) -> bool:
        """Compare by seconds, with numbers and with others."""
        seconds = getattr(other, "seconds", other)
        try:
            return bool(self.seconds < seconds)
        except TypeError:
            return NotImplemented


_hub.set_face("timeout", Timeout)


class _Never:
    """A timeout of None: nothing to start, nothing to close."""

    __slots__ = ()

    pending = active = False
    seconds = timer = exception = None

    def start(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("non-expiring timer cannot be started")

    def cancel(self) -> None:
        pass

    stop = close = cancel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


_NEVER = _Never()


def start_or_never(seconds: float | None) -> Any:
    """A started Timeout, or what stands for none."""
    return Timeout._start_new_or_dummy(seconds)


def with_timeout(seconds: float | None, function: Callable[..., Any], *args: object, **kwds: Any) -> Any:
    """Call `function(*args, **kwds)`; if that takes longer, return `timeout_value` or raise Timeout."""
    value = kwds.pop("timeout_value", _UNIQUE)
    timeout = Timeout.start_new(seconds, _one_shot=True)
    try:
        try:
            return function(*args, **kwds)
        except Timeout as error:
            if error is timeout and value is not _UNIQUE:
                return value
            raise
    finally:
        timeout.cancel()
