"""Who waits for what: what LoopExit says of the greenlets and coroutines that nothing can wake any more."""

from __future__ import annotations

import gc
import linecache
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from weft.greenlet import greenlet

from . import _hub

if TYPE_CHECKING:
    from .hub import Hub

__all__ = ["who_waits"]

_SHOWN = 10  # greenlets and coroutines
_DEEP = 4  # calls of each, the innermost
_LONG = 200  # characters of a repr

# What the innermost frames of a greenlet that waits belong to.
_OURS = ("weft.gevent.", "weft.multiprocessing.", "weft.coroutines", "weft._")


def who_waits(hub: Hub) -> list[str]:
    """An entry for each greenlet and coroutine of the hub that waits: who it is, for what it waits, and where; for the
    first ten, and how many more there are."""
    entries: list[str] = []
    more = 0
    for entry in _all_that_wait(hub):
        if len(entries) < _SHOWN:
            entries.append(_described(entry))
        else:
            more += 1
    if more:
        entries.append(f"and {more} more")
    return entries


def _all_that_wait(hub: Hub) -> Iterator[Any]:
    for known in gc.get_objects():
        if isinstance(known, greenlet):
            if known.parent is hub and known and known is not hub:
                yield known
        elif isinstance(known, _hub.Coroutine) and known.state_name == "waiting" and known.loop is hub.loop:
            yield known


def _described(waiting: Any) -> str:
    if isinstance(waiting, greenlet):
        frames = _frames_of_greenlet(waiting)
        waited_for = _hub.waits_for(waiting)
        what = _call_that_waits(frames) if waited_for is None else shown(waited_for)
    else:
        frames = _frames_of_coroutine(waiting)
        what = "" if waiting.waits_for is None else shown(waiting.waits_for)
    lines = [f"{shown(waiting)} waits" + (f" for {what}" if what else "")]
    theirs = [(frame, number) for frame, number in frames if not _is_ours(frame)]
    lines += [_line(frame, number) for frame, number in theirs[:_DEEP]]
    if len(theirs) > _DEEP:
        lines.append(f"  … and {len(theirs) - _DEEP} calls further out")
    return "\n\t\t".join(lines)


def _frames_of_greenlet(waiting: greenlet) -> list[tuple[FrameType, int]]:
    """Innermost first, with the lines where they are."""
    frames = []
    frame = waiting.gr_frame
    while frame is not None:
        frames.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    return frames


def _frames_of_coroutine(waiting: Any) -> list[tuple[FrameType, int]]:
    frames = []
    inner: Any = waiting.generator
    while inner is not None:
        frame = getattr(inner, "gi_frame", None) or getattr(inner, "cr_frame", None)
        if frame is not None:
            frames.append((frame, frame.f_lineno or 0))
        inner = getattr(inner, "gi_yieldfrom", None) or getattr(inner, "cr_await", None)
    frames.reverse()
    return frames


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.startswith(_OURS)


def _call_that_waits(frames: list[tuple[FrameType, int]]) -> str:
    """The call of ours that the program made, such as `Event.wait` of an event."""
    ours = None
    for frame, _ in frames:
        if not _is_ours(frame) or frame.f_code.co_qualname == "Greenlet.run":
            break
        ours = frame
    if ours is None:
        return ""
    name = ours.f_code.co_qualname
    names = ours.f_code.co_varnames
    this = ours.f_locals.get("self") if names[:1] == ("self",) else None
    return f"{name}()" if this is None else f"{name}() of {shown(this)}"


def _line(frame: FrameType, number: int) -> str:
    code = frame.f_code
    source = linecache.getline(code.co_filename, number, frame.f_globals).strip()
    return f"  {code.co_filename}:{number} in {code.co_qualname}" + (f": {source}" if source else "")


def shown(thing: object) -> str:
    """Its repr, which may fail, and may be long."""
    try:
        text = repr(thing)
    except Exception as error:
        text = f"<{type(thing).__name__} at {id(thing):#x}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
