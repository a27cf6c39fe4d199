"""Classes of the standard library that go on working after weft's have taken their names."""

from __future__ import annotations

import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def rebind(cls: type, names: dict[str, Any]) -> None:
    """Let the methods of `cls` look their global names up in `names`, the module as it was."""
    for name, value in list(vars(cls).items()):
        if isinstance(value, (staticmethod, classmethod)):
            if isinstance(value.__func__, types.FunctionType):
                setattr(cls, name, type(value)(rebound(value.__func__, names)))
        elif isinstance(value, types.FunctionType):
            setattr(cls, name, rebound(value, names))


def rebound(function: Any, names: dict[str, Any]) -> types.FunctionType:
    """The function with these global names."""
    parts = (function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    changed = types.FunctionType(*parts)
    changed.__kwdefaults__ = function.__kwdefaults__
    changed.__dict__.update(function.__dict__)
    changed.__qualname__, changed.__doc__ = function.__qualname__, function.__doc__
    return changed
