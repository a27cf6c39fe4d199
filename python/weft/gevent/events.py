"""What is told to whoever subscribes: a blocked hub, memory, what is patched. As gevent.events.

`subscribers` is a list of functions, called with each event. With zope.event installed it is that
package's list, and with zope.interface the events say which of the interfaces they provide; without them everything
here works the same.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, ClassVar

__all__ = [
    "DoNotPatch",
    "EventLoopBlocked",
    "GeventDidPatchAllEvent",
    "GeventDidPatchBuiltinModulesEvent",
    "GeventDidPatchModuleEvent",
    "GeventPatchEvent",
    "GeventWillPatchAllEvent",
    "GeventWillPatchEvent",
    "GeventWillPatchModuleEvent",
    "IEventLoopBlocked",
    "IGeventDidPatchAllEvent",
    "IGeventDidPatchBuiltinModulesEvent",
    "IGeventDidPatchEvent",
    "IGeventDidPatchModuleEvent",
    "IGeventPatchEvent",
    "IGeventWillPatchAllEvent",
    "IGeventWillPatchEvent",
    "IGeventWillPatchModuleEvent",
    "IMemoryUsageThresholdExceeded",
    "IMemoryUsageUnderThreshold",
    "IPeriodicMonitorThread",
    "IPeriodicMonitorThreadStartedEvent",
    "MemoryUsageThresholdExceeded",
    "MemoryUsageUnderThreshold",
    "PeriodicMonitorThreadStartedEvent",
    "subscribers",
]

# Methods of interfaces have no `self`, and say nothing of types; what interfaces derive from may be zope.interface's.
# mypy: disable-error-code="misc, no-untyped-def"


def _installed(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


class _Interface:
    """Stands for zope.interface's."""


_event = _installed("zope.event")
_interface = _installed("zope.interface")

subscribers: list[Callable[[Any], Any]] = [] if _event is None else _event.subscribers


def _notify(event: Any) -> None:
    """Call all subscribers."""
    for subscriber in list(subscribers):
        subscriber(event)


notify: Callable[[Any], None] = _notify if _event is None else _event.notify
Interface: Any = _Interface
Attribute: Any = lambda description: property(doc=description)  # noqa: E731
implementer: Any = lambda *_interfaces: lambda implementation: implementation  # noqa: E731
if _interface is not None:
    Interface, Attribute, implementer = _interface.Interface, _interface.Attribute, _interface.implementer


def notify_and_call_entry_points(event: Any) -> None:
    """Tell the subscribers, and the plugins that packages have registered for this kind of event."""
    notify(event)
    for plugin in metadata.entry_points(group=event.ENTRY_POINT_NAME):
        plugin.load()(event)


# --- the monitoring thread ----------------------------------------------------------------------------------


class IPeriodicMonitorThread(Interface):
    """The thread that looks after a hub."""

    def add_monitoring_function(function, period):
        """Have `function(hub)` called every so many seconds; never again, if that is None."""


class IPeriodicMonitorThreadStartedEvent(Interface):
    """The thread was started."""

    monitor = Attribute("The thread, which provides IPeriodicMonitorThread.")


@implementer(IPeriodicMonitorThreadStartedEvent)
class PeriodicMonitorThreadStartedEvent:
    """The monitoring thread was started."""

    ENTRY_POINT_NAME = "gevent.plugins.hub.periodic_monitor_thread_started"

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor


class IEventLoopBlocked(Interface):
    """A greenlet keeps the hub from running."""

    greenlet = Attribute("The greenlet that runs.")
    blocking_time = Attribute("How long, about, in seconds.")
    info = Attribute("Lines that say where; they may be changed.")
    hub = Attribute("The hub, if it is known.")


@implementer(IEventLoopBlocked)
class EventLoopBlocked:
    """A greenlet keeps the hub from running."""

    def __init__(self, greenlet: Any, blocking_time: float, info: list[str], *, hub: Any = None) -> None:
        self.greenlet = greenlet
        self.blocking_time = blocking_time
        self.info = info
        self.hub = hub


class IMemoryUsageThresholdExceeded(Interface):
    """The process uses more memory than it should."""

    mem_usage = Attribute("How much it uses, in bytes.")
    max_allowed = Attribute("How much it may use, in bytes.")
    memory_info = Attribute("What psutil says of it.")


class _MemoryEvent:
    def __init__(self, mem_usage: int, max_allowed: int, memory_info: Any) -> None:
        self.mem_usage = mem_usage
        self.max_allowed = max_allowed
        self.memory_info = memory_info

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} used={self.mem_usage} max={self.max_allowed} "
            f"details={self.memory_info!r}>"
        )


@implementer(IMemoryUsageThresholdExceeded)
class MemoryUsageThresholdExceeded(_MemoryEvent):
    """The process uses more memory than it should."""


class IMemoryUsageUnderThreshold(Interface):
    """The process uses no more memory than it may, again."""

    mem_usage = Attribute("How much it uses, in bytes.")
    max_allowed = Attribute("How much it may use, in bytes.")
    max_memory_usage = Attribute("How much it used when that was too much.")
    memory_info = Attribute("What psutil says of it.")


@implementer(IMemoryUsageUnderThreshold)
class MemoryUsageUnderThreshold(_MemoryEvent):
    """The process uses no more memory than it may, again."""

    def __init__(self, mem_usage: int, max_allowed: int, memory_info: Any, max_usage: int) -> None:
        super().__init__(mem_usage, max_allowed, memory_info)
        self.max_memory_usage = max_usage


# --- patching -----------------------------------------------------------------------------------------------


class DoNotPatch(BaseException):
    """Raised by a subscriber that does not want what is about to be done."""


class IGeventPatchEvent(Interface):
    """Something is patched."""

    source = Attribute("Where the new things come from.")
    target = Attribute("What they are put into.")


@implementer(IGeventPatchEvent)
class GeventPatchEvent:
    """Something is patched."""

    # Warnings that are collected until everything is patched; None if they are given at once.
    _warnings: list[str] | None = None
    ENTRY_POINT_NAME: ClassVar[str]

    def __init__(self, source: Any, target: Any) -> None:
        self.source = source
        self.target = target

    def __repr__(self) -> str:
        return f"<{type(self).__name__} source={self.source!r} target={self.target!r} at {id(self):x}>"


class IGeventWillPatchEvent(IGeventPatchEvent):
    """Something is about to be patched. A subscriber may raise DoNotPatch."""


@implementer(IGeventWillPatchEvent)
class GeventWillPatchEvent(GeventPatchEvent):
    """Something is about to be patched. A subscriber may raise DoNotPatch."""


class IGeventDidPatchEvent(IGeventPatchEvent):
    """Something was patched."""


@implementer(IGeventDidPatchEvent)
class GeventDidPatchEvent(GeventPatchEvent):
    """Something was patched."""


class IGeventWillPatchModuleEvent(IGeventWillPatchEvent):
    """A module is about to be patched."""

    module_name = Attribute("The name of the module.")
    target_item_names = Attribute("What of it; may be changed.")


@implementer(IGeventWillPatchModuleEvent)
class GeventWillPatchModuleEvent(GeventWillPatchEvent):
    """A module is about to be patched."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.will_patch_module"

    def __init__(self, module_name: str, source: Any, target: Any, items: Any) -> None:
        super().__init__(source, target)
        self.module_name = module_name
        self.target_item_names = items


class IGeventDidPatchModuleEvent(IGeventDidPatchEvent):
    """A module was patched."""

    module_name = Attribute("The name of the module.")


@implementer(IGeventDidPatchModuleEvent)
class GeventDidPatchModuleEvent(GeventDidPatchEvent):
    """A module was patched."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.did_patch_module"

    def __init__(self, module_name: str, source: Any, target: Any) -> None:
        super().__init__(source, target)
        self.module_name = module_name


class IGeventWillPatchAllEvent(IGeventWillPatchEvent):
    """`patch_all` has begun."""

    patch_all_arguments = Attribute("What it is to patch, by name: a copy.")
    patch_all_kwargs = Attribute("What else it was called with: a copy.")

    def will_patch_module(module_name):
        """Whether the module will be patched."""


class _PatchAll(GeventPatchEvent):
    def __init__(self, patch_all_arguments: dict[str, bool], patch_all_kwargs: dict[str, Any]) -> None:
        super().__init__(None, None)
        self._arguments = patch_all_arguments
        self._kwargs = patch_all_kwargs

    @property
    def patch_all_arguments(self) -> dict[str, bool]:
        """What is patched, by name."""
        return self._arguments.copy()

    @property
    def patch_all_kwargs(self) -> dict[str, Any]:
        """What else `patch_all` was called with."""
        return self._kwargs.copy()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._arguments!r} at {id(self):x}>"


@implementer(IGeventWillPatchAllEvent)
class GeventWillPatchAllEvent(_PatchAll, GeventWillPatchEvent):
    """`patch_all` has begun."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.will_patch_all"

    def will_patch_module(self, module_name: str) -> bool | None:
        """Whether the module will be patched."""
        return self._arguments.get(module_name)


class IGeventDidPatchBuiltinModulesEvent(IGeventDidPatchEvent):
    """All modules were patched; what depends on that may be patched now."""

    patch_all_arguments = Attribute("What was patched, by name: a copy.")
    patch_all_kwargs = Attribute("What else `patch_all` was called with: a copy.")


@implementer(IGeventDidPatchBuiltinModulesEvent)
class GeventDidPatchBuiltinModulesEvent(_PatchAll, GeventDidPatchEvent):
    """All modules were patched; what depends on that may be patched now."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.did_patch_builtins"


class IGeventDidPatchAllEvent(IGeventDidPatchEvent):
    """`patch_all` has ended."""


@implementer(IGeventDidPatchAllEvent)
class GeventDidPatchAllEvent(_PatchAll, GeventDidPatchEvent):
    """`patch_all` has ended."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.did_patch_all"
