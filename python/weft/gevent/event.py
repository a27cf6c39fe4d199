"""Something that happens once, and what it brought. As gevent.event."""

from __future__ import annotations

from . import _hub

__all__ = ["AsyncResult", "Event"]


class Event(_hub.EventBase):
    """A flag that greenlets wait for, as threading.Event is for threads."""

    __slots__ = ()

    def __str__(self) -> str:
        kind = type(self)
        state = "set" if self.is_set() else "clear"
        return f"<{kind.__module__}.{kind.__name__} at {id(self):#x} {state} _links[{self.linkcount()}]>"

    __repr__ = __str__

    def _reset_internal_locks(self) -> None:
        """What the standard library calls in the child of a fork."""


_hub.set_face("event", Event)


class AsyncResult(_hub.AsyncResultBase):
    """A value, or an exception, that is set once or more, and waited for."""

    __slots__ = ("_imap_task_index",)

    def _raise_exception(self) -> None:
        raise self.exc_info[1].with_traceback(self.exc_info[2])

    def __str__(self) -> str:
        result = ""
        if self.value is not None or self.exception is not None:
            result += f"value={self.value!r} "
        if self.exception is not None:
            result += f"exception={self.exception!r} "
        elif not self.ready():
            result += "unset "
        return f"<{type(self).__name__} {result} _links[{self.linkcount()}]>"

    __repr__ = __str__


_hub.set_face("async_result", AsyncResult)
