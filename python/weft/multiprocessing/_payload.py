"""Pickling what a child gets."""

from __future__ import annotations

import io
import os
import sys

from weft.multiprocessing._stock import context, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft.multiprocessing._stock import AnyProcess


def dump(obj: object, file: io.BytesIO) -> None:
    """Write `obj` as `reduction.dump` does, or as its class wants it to be written."""
    own = getattr(type(obj), "_weft_dump", None)
    if own is None:
        # Whoever set another reducer on a context means this one too.
        context.reduction.dump(obj, file)
    else:
        own(obj, file)


def dump_all(popen: object, process_obj: AnyProcess) -> bytes:
    """What a child of `popen` reads: how to become like this process, and then the process object."""
    file = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        _dump_all(process_obj, file)
    finally:
        context.set_spawning_popen(None)
    return file.getvalue()


def _dump_all(process_obj: AnyProcess, file: io.BytesIO) -> None:
    data = spawn.get_preparation_data(process_obj._name)
    if hasattr(process_obj, "_weft_dump") and not main_can_be_imported():
        # What it needs of the main module travels by value.
        data.pop("init_main_from_path", None)
    dump(data, file)
    dump(process_obj, file)


def main_can_be_imported() -> bool:
    """Whether a child can import the main module again: not what came from standard input, -c or a prompt."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return True
    path = getattr(main, "__file__", None)
    return path is not None and os.path.basename(path) != "<stdin>"
