"""Pickling what a child gets."""

from __future__ import annotations

import io
import os
import pickle
import sys

from weft.multiprocessing._stock import context, process, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from weft.multiprocessing._stock import AnyProcess


def mark_worker(process_obj: AnyProcess) -> None:
    """Note that it is a worker of a pool, which knows what its exit codes mean."""
    setattr(process_obj, _OF_A_POOL, True)


def dump(obj: object, file: io.BytesIO) -> None:
    """Write `obj` as `reduction.dump` does, or as its class wants it to be written."""
    own = getattr(type(obj), "_weft_dump", None)
    if own is None:
        # Whoever set another reducer on a context means this one too.
        try:
            context.reduction.dump(obj, file)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            if isinstance(obj, process.BaseProcess):
                _say_what(error, obj)
            raise
    else:
        own(obj, file)


def _say_what(error: Exception, process_obj: object) -> None:
    """Note which part of a process object cannot be pickled."""
    from weft._unpicklable import INSTALL, culprit, is_local, kind_of, of_process

    try:
        name, part = of_process(process_obj)
        path, part = culprit(part, name)
        note = f"It is {path}, a {kind_of(part)}."
    except Exception:  # of somebody's `__repr__`, say
        return
    if is_local(part):
        note += f" weft.Process takes lambdas, closures and local classes if the package cloudpickle is there ({INSTALL})."
    error.add_note(note)


def dump_all(popen: object, process_obj: AnyProcess) -> bytes:
    """What a child of `popen` reads: how to become like this process, and then the process object."""
    file = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        _dump_all(process_obj, file)
    finally:
        context.set_spawning_popen(None)
    return file.getvalue()


class NotGuarded(RuntimeError):
    """The main module, which a child imports as well, starts processes when it is imported."""


# With this exit code a worker of a pool ends because of that. The pool says so, once, instead of all its workers.
UNGUARDED = 85
_OF_A_POOL = "weft_of_a_pool"


def preparation_data(name: str) -> dict[str, Any]:
    """How a child of that name becomes like this process. NotGuarded in a child that still does so itself."""
    try:
        data: dict[str, Any] = spawn.get_preparation_data(name)
    except RuntimeError as error:
        if getattr(process.current_process(), "_inheriting", False):
            raise NotGuarded(*error.args) from None
        raise
    return data


def load_all(file: IO[bytes]) -> AnyProcess | None:
    """In a child: become like the parent, and return the process object; None for a worker that is to end with UNGUARDED."""
    current = process.current_process()
    current._inheriting = True
    data: dict[str, Any] = {}
    try:
        data = pickle.load(file)
        spawn.prepare(data)
        return pickle.load(file)
    except NotGuarded:
        if _OF_A_POOL not in data:
            raise
        return None
    finally:
        del current._inheriting


def _dump_all(process_obj: AnyProcess, file: io.BytesIO) -> None:
    data = preparation_data(process_obj._name)
    if _OF_A_POOL in vars(process_obj):
        data[_OF_A_POOL] = True
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
