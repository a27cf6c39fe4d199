"""How shared memory gets from process to process: by reference.

What is pickled is the memory's place, and a reference that keeps it until it is received:

* in what a process is started with, whoever starts it keeps the memory until that process has ended;
* in a weft queue, the reference ends with the queue;
* by other ways (a pipe, a manager) it ends with the process that sent it, or one minute later.

A process that has not met the segment before opens it through the sender's entry in `/proc`.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from weft import _native
from weft.multiprocessing._stock import context, reduction

if TYPE_CHECKING:
    from collections.abc import Callable

_KEPT = 0  # the reference of those who start a process


def register(cls: type[_native.SharedRegion]) -> None:
    """Let instances of exactly this class travel."""
    reduction.register(cls, _reduce)


def keep(obj: object) -> bool:
    """Keep `obj` alive until the process that is being started has ended; False if none is."""
    starting: Any = context.get_spawning_popen()
    if starting is None:
        return False
    starting.__dict__.setdefault("_weft_passed_on", []).append(obj)
    return True


def segment(arena: int) -> Any:
    """The arena's segment, for the process that is being started: `detach` gives it a descriptor there."""
    # One descriptor for all that is passed on.
    known: dict[int, Any] = context.get_spawning_popen().__dict__.setdefault("_weft_segments", {})
    if arena not in known:
        known[arena] = reduction.DupFd(_native.arena_descriptor(arena))
    return known[arena]


def _reduce(region: _native.SharedRegion) -> Any:
    handle = region._handle()
    sent: Any
    if keep(region):
        sent, transit = segment(handle[0]), _KEPT
    else:
        sent, transit = (os.getpid(), _native.arena_descriptor(handle[0])), region._send()
    describe: Callable[[], object] | None = getattr(region, "_description", None)
    return _rebuild, (type(region), handle, sent, transit, None if describe is None else describe())


def _rebuild(
    cls: type[_native.SharedRegion],
    handle: tuple[int, int, int],
    segment: Any,
    transit: int,
    description: Any,
) -> _native.SharedRegion:
    _native.attach_arena(handle[0], partial(_open, *segment) if transit else segment.detach)
    region: _native.SharedRegion = cls.__new__(cls)
    region._receive(*handle, transit)
    restore: Callable[..., None] | None = getattr(region, "_restore", None)
    if restore is not None:
        restore(*description)
    return region


def _open(pid: int, descriptor: int) -> int:
    """A descriptor of one's own for the segment that is a sender's `descriptor`."""
    try:
        return os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeError(
            f"the shared memory that process {pid} sent cannot be opened ({error.strerror}): the process has ended, or "
            "may not be looked at; let it live until what it sent is received, or share something with it before"
        ) from error
