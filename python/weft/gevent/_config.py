"""Settings: from the environment, or set on `gevent.config`. As gevent._config.

A setting is a class; its instance holds the value. What nobody set is read from the variable of the environment,
else it is the default, when it is first asked for. The classes are made from a table, of a few kinds.
"""

from __future__ import annotations

import importlib
import os
import textwrap
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

__all__ = ["config"]

# By name, in the order in which they are defined.
ALL_SETTINGS: dict[str, type[Setting]] = {}

_TRUE = ("1", "true", "on", "yes")
_FALSE = ("0", "false", "off", "no", "")


def validate_invalid(value: Any) -> Any:
    """Refuse whatever it is."""
    raise ValueError(f"Not a valid value: {value!r}")


def validate_bool(value: Any) -> bool:
    """Make a truth of it; the words are on and off, true and false, yes and no, 1 and 0."""
    if isinstance(value, str):
        word = value.lower().strip()
        if word not in _TRUE + _FALSE:
            raise ValueError(f"Invalid boolean string: {value!r}")
        return word in _TRUE
    return bool(value)


def validate_anything(value: Any) -> Any:
    """Take it as it is."""
    return value


class Setting:
    """One setting. What derives from it with a default is known to every Config that is made from then on."""

    name: ClassVar[str] = ""
    environment_key: ClassVar[str] = ""
    desc: ClassVar[str] = ""
    default: ClassVar[Any] = None
    value: Any = None
    validate: Callable[[Any], Any] = staticmethod(validate_invalid)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "default" not in own:
            return
        if "name" not in own:
            cls.name = cls.__name__.lower()
        if "environment_key" not in own:
            cls.environment_key = f"GEVENT_{cls.name.upper()}"
        cls.__doc__ = (
            f"{textwrap.dedent(cls.desc).strip()}\n\n"
            f"The default is `{cls.default!r}`; the environment variable ``{cls.environment_key}`` sets it."
        )
        ALL_SETTINGS[cls.name] = cls

    def convert(self, value: Any) -> Any:
        """What a text, as in the environment, stands for."""
        return value.split(",") if isinstance(value, str) else value

    def get(self) -> Any:
        """The value."""
        if "value" not in self.__dict__:
            self.set(os.environ.get(self.environment_key, self.default))
        return self.value

    def set(self, value: Any) -> None:
        """Set it, from a text or from what a text stands for."""
        self.value = self.validate(self.convert(value))


class Config:
    """All settings, as attributes."""

    settings: dict[str, Setting]

    def __init__(self) -> None:
        vars(self)["settings"] = {name: kind() for name, kind in ALL_SETTINGS.items()}

    def __getattr__(self, name: str) -> Any:
        # Not found in the usual places.
        if name == "settings" or name not in self.settings:
            raise AttributeError(f"No configuration setting for: {name!r}")
        return self.settings[name].get()

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def set(self, name: str, value: Any) -> None:
        """Set one of them."""
        if name not in self.settings:
            raise AttributeError(f"No configuration setting for: {name!r}")
        self.settings[name].set(value)

    def __dir__(self) -> list[str]:
        return list(self.settings)

    def print_help(self) -> None:
        """Say what there is."""
        for name, setting in self.settings.items():
            print(f"{name}\n{textwrap.indent(type(setting).__doc__ or '', '    ')}\n")


class ImportableSetting:
    """Something that is imported: given by a path, a short name, a list of these of which the first that can be
    imported is taken, or as itself."""

    shortname_map: ClassVar[dict[str, str]] = {}

    def _import_one_of(self, candidates: list[Any]) -> Any:
        if not candidates:
            raise ImportError("Cannot import from empty list")
        for candidate in candidates[:-1]:
            try:
                return self._import_one(candidate)
            except ImportError:
                continue  # the last one says why
        return self._import_one(candidates[-1])

    def _import_one(self, path: Any) -> Any:
        if not isinstance(path, str):
            return path
        module_name, _, item = path.rpartition(".")
        if not module_name or "/" in path:
            raise ImportError(
                f"Cannot import {path!r}. Required format: [package.]module.class. "
                f"Or choose from {list(self.shortname_map)!r}"
            )
        # Also where this package is not the one that is called gevent.
        if module_name.startswith("gevent."):
            module_name = __name__.rpartition(".")[0] + module_name.removeprefix("gevent")
        module = importlib.import_module(module_name)
        try:
            return getattr(module, item)
        except AttributeError:
            raise ImportError(f"Cannot import {item!r} from {module!r}") from None

    def validate(self, value: Any) -> Any:
        """Import it."""
        if isinstance(value, (list, tuple)):
            return self._import_one_of([self.shortname_map.get(each, each) for each in value])
        return value

    def get_options(self) -> dict[str, Any]:
        """What the short names stand for; the error, for what cannot be imported."""
        options: dict[str, Any] = {}
        for name, path in self.shortname_map.items():
            try:
                options[name] = self._import_one(path)
            except ImportError as error:
                options[name] = error
        return options


# --- kinds --------------------------------------------------------------------------------------------------


class _Importable(ImportableSetting, Setting):
    """Something that is imported."""


class _Bool(Setting):
    """On or off."""

    validate = staticmethod(validate_bool)

    def convert(self, value: Any) -> Any:
        return value


class _Tracked(_Bool):
    """On or off, of which the native half is told."""

    def set(self, value: Any) -> None:
        """Set it, and say so to those that note it."""
        super().set(value)
        from . import _hub

        _hub.track_tree(self.value)


class _Any(Setting):
    """Whatever it is, as it is."""

    validate = staticmethod(validate_anything)

    def convert(self, value: Any) -> Any:
        return value


class _List(Setting):
    """Whatever it is; of a text, what lies between its commas."""

    validate = staticmethod(validate_anything)


class _Positive(Setting):
    """A number above zero, or None."""

    def convert(self, value: Any) -> Any:
        return float(value) if value else None

    def validate(self, value: Any) -> Any:
        if value is not None and value <= 0:
            raise ValueError("Must be positive")
        return value


class _PositiveOrForever(_Positive):
    """The same, or -1."""

    def validate(self, value: Any) -> Any:
        return value if value == -1 else super().validate(value)


class _Bytes(_Positive):
    """A number of bytes, also with a unit."""

    _UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}

    def convert(self, value: Any) -> Any:
        if not value or not isinstance(value, str):
            return value
        unit = self._UNITS.get(value[-2:].lower())
        return int(value) if unit is None else int(value[:-2]) * unit


# --- the table ----------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    kind: type[Setting]
    class_name: str
    name: str
    default: Any
    desc: str = ""
    # The variable of the environment, where that is not `GEVENT_` and the name.
    environment_key: str | None = None
    # Of what is imported: short names, and what they stand for.
    shortnames: dict[str, str] | None = None

    def make(self) -> type[Setting]:
        """The class, which is known to every Config that is made from then on."""
        members: dict[str, Any] = {
            "__module__": __name__,
            "name": self.name,
            "default": self.default,
            "desc": self.desc,
        }
        if self.environment_key is not None:
            members["environment_key"] = self.environment_key
        if self.shortnames is not None:
            members["shortname_map"] = self.shortnames
        return type(self.class_name, (self.kind,), members)


_ROWS = (
    # What is used when something is made.
    _Row(
        _Importable,
        "Resolver",
        "resolver",
        ["thread", "dnspython", "ares", "block"],
        "What makes `hub.resolver`, which looks up names of hosts.",
        shortnames={
            "ares": "gevent.resolver.ares.Resolver",
            "thread": "gevent.resolver.thread.Resolver",
            "block": "gevent.resolver.blocking.Resolver",
            "dnspython": "gevent.resolver.dnspython.Resolver",
        },
    ),
    _Row(
        _Importable,
        "Threadpool",
        "threadpool",
        ["gevent.threadpool.ThreadPool"],
        "What makes `hub.threadpool`.",
    ),
    _Row(
        _PositiveOrForever,
        "ThreadpoolIdleTaskTimeout",
        "threadpool_idle_task_timeout",
        5.0,
        "How long, in seconds, a thread of the hub's pool waits for work before it ends; -1 is for ever.",
    ),
    _Row(
        _Importable,
        "Loop",
        "loop",
        ["weft"],
        "What makes the loop of a hub. There is one kind; gevent's names for its own stand for it.",
        shortnames=dict.fromkeys(
            ("weft", "libev-cext", "libev-cffi", "libuv-cffi", "libuv"), "gevent.core.loop"
        ),
    ),
    _Row(
        _Importable,
        "FormatContext",
        "format_context",
        ["pprint.saferepr"],
        "How what failed is shown beside a traceback.",
    ),
    _Row(
        _Any,
        "LibevBackend",
        "libev_backend",
        None,
        "Has no meaning here: what asks the kernel is epoll.",
        "GEVENT_BACKEND",
    ),
    _Row(
        _Bool,
        "WatchChildren",
        "disable_watch_children",
        False,
        "Whether `os.waitpid` is left as it is, which blocks the thread.",
        "GEVENT_NOWAITPID",
    ),
    _Row(_Any, "TraceMalloc", "trace_malloc", False, "Has no meaning here.", "PYTHONTRACEMALLOC"),
    _Row(
        _Tracked,
        "TrackGreenletTree",
        "track_greenlet_tree",
        True,
        "Whether greenlets know who spawned them, and where.",
    ),
    # The monitoring thread.
    _Row(
        _Bool,
        "MonitorThread",
        "monitor_thread",
        False,
        "Whether each hub gets a thread that looks whether it runs.",
        "GEVENT_MONITOR_THREAD_ENABLE",
    ),
    _Row(
        _Positive,
        "MaxBlockingTime",
        "max_blocking_time",
        0.1,
        "After how long without a switch, in seconds, the hub counts as blocked.",
    ),
    _Row(
        _Bool,
        "PrintBlockingReports",
        "print_blocking_reports",
        True,
        "Whether a report of a blocked hub is printed; subscribers of `gevent.events` get it in any case.",
        "GEVENT_MONITOR_PRINT_BLOCKING_REPORTS",
    ),
    _Row(
        _Positive,
        "MonitorMemoryPeriod",
        "memory_monitor_period",
        5,
        "How often, in seconds, the use of memory is looked at.",
        "GEVENT_MONITOR_MEMORY_PERIOD",
    ),
    _Row(
        _Bytes,
        "MonitorMemoryMaxUsage",
        "max_memory_usage",
        None,
        "How much memory the process may use before that is an event; kb, mb and gb are units.",
        "GEVENT_MONITOR_MEMORY_MAX",
    ),
    # Resolvers.
    _Row(_Any, "AresFlags", "ares_flags", None, environment_key="GEVENTARES_FLAGS"),
    _Row(_Any, "AresTimeout", "ares_timeout", None, environment_key="GEVENTARES_TIMEOUT"),
    _Row(_Any, "AresTries", "ares_tries", None, environment_key="GEVENTARES_TRIES"),
    _Row(_Any, "AresNdots", "ares_ndots", None, environment_key="GEVENTARES_NDOTS"),
    _Row(_Any, "AresUDPPort", "ares_udp_port", None, environment_key="GEVENTARES_UDP_PORT"),
    _Row(_Any, "AresTCPPort", "ares_tcp_port", None, environment_key="GEVENTARES_TCP_PORT"),
    _Row(_Any, "AresServers", "ares_servers", None, environment_key="GEVENTARES_SERVERS"),
    _Row(
        _List,
        "ResolverNameservers",
        "resolver_nameservers",
        None,
        "The servers that resolvers ask which do not use the system's functions.",
    ),
    _Row(
        _Positive, "ResolverTimeout", "resolver_timeout", None, "How long, in seconds, such a resolver tries."
    ),
)

_CLASSES = {row.class_name: row.make() for row in _ROWS}


def __getattr__(name: str) -> Any:
    """The classes, which are attributes of gevent's module too."""
    try:
        return _CLASSES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


config: Any = Config()
