"""Pickling what a child gets."""

from __future__ import annotations

from weft.multiprocessing._stock import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import io


def dump(obj: object, file: io.BytesIO) -> None:
    """Write `obj` as `reduction.dump` does, or as its class wants it to be written."""
    own = getattr(type(obj), "_weft_dump", None)
    if own is None:
        # Whoever set another reducer on a context means this one too.
        context.reduction.dump(obj, file)
    else:
        own(obj, file)
