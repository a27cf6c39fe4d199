"""Small things that several modules need."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterable
from types import ModuleType
from typing import Any


class _Default:
    """What stands for an argument that was not given."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<default value>"


_NONE: Any = _Default()


class Lazy:
    """An attribute that is computed when it is first asked for, and then lies in the instance."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._name = function.__name__
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._function(instance)
        return value


class LazyOnClass:
    """The same, for a value that lies in the class from then on, for all of its instances."""

    @classmethod
    def lazy(cls, namespace: dict[str, Any], function: Callable[[Any], Any]) -> None:
        """Put one into a class that is being made."""
        namespace[function.__name__] = cls(function)

    def __init__(self, function: Callable[[Any], Any], name: str | None = None) -> None:
        self._function = function
        self._name = name or function.__name__
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = self._function(instance)
        setattr(owner, self._name, value)
        return value


class readproperty:
    """A property that an instance may set, which hides it from then on, and delete again."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else self._function(instance)


def gmctime() -> str:
    """The time of day in Greenwich, for reports."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def reexport(source: ModuleType, namespace: dict[str, Any], without: Collection[str] = ()) -> list[str]:
    """Put what a module of the standard library has into a namespace that stands for it; the names."""
    return take_over(
        source,
        namespace,
        (name for name in vars(source) if name not in without and not name.startswith("__")),
    )


def take_over(source: ModuleType, namespace: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The same for some names: those that it has."""
    found = [name for name in names if hasattr(source, name)]
    namespace.update((name, getattr(source, name)) for name in found)
    return found
