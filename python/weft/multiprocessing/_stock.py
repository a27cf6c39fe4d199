"""The standard library's modules and objects with their private parts, which its type stubs do not have."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    context: Any
    process: Any
    reduction: Any
    resource_tracker: Any
    spawn: Any
    util: Any
    environ: Any
    # A `BaseProcess`, private attributes included.
    AnyProcess: TypeAlias = Any
else:
    from multiprocessing import context, process, reduction, resource_tracker, spawn, util
    from os import environ

    AnyProcess = process.BaseProcess

__all__ = ["AnyProcess", "context", "environ", "process", "reduction", "resource_tracker", "spawn", "util"]
