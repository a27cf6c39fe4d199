"""Settings: from the environment, or set on `gevent.config`. As gevent._config.

A setting is a class; its instance holds the value. What nobody set is read from the variable of the environment,
else it is the default, when it is first asked for.
"""

from __future__ import annotations

import importlib
import os
import textwrap
from collections.abc import Callable
from typing import Any, ClassVar

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


class _Bool:
    validate = staticmethod(validate_bool)

    def convert(self, value: Any) -> Any:
        return value


class _Any:
    validate = staticmethod(validate_anything)

    def convert(self, value: Any) -> Any:
        return value


class _Positive:
    def convert(self, value: Any) -> Any:
        return float(value) if value else None

    def validate(self, value: Any) -> Any:
        if value is not None and value <= 0:
            raise ValueError("Must be positive")
        return value


class _Bytes(_Positive):
    _UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}

    def convert(self, value: Any) -> Any:
        if not value or not isinstance(value, str):
            return value
        unit = self._UNITS.get(value[-2:].lower())
        return int(value) if unit is None else int(value[:-2]) * unit


# --- what is used when something is made -----------------------------------------------------------------------


class Resolver(ImportableSetting, Setting):
    desc = "What makes `hub.resolver`, which looks up names of hosts."
    default = ["thread", "dnspython", "ares", "block"]
    shortname_map = {
        "ares": "gevent.resolver.ares.Resolver",
        "thread": "gevent.resolver.thread.Resolver",
        "block": "gevent.resolver.blocking.Resolver",
        "dnspython": "gevent.resolver.dnspython.Resolver",
    }


class Threadpool(ImportableSetting, Setting):
    desc = "What makes `hub.threadpool`."
    default = ["gevent.threadpool.ThreadPool"]


class ThreadpoolIdleTaskTimeout(_Positive, Setting):
    desc = "How long, in seconds, a thread of the hub's pool waits for work before it ends; -1 is for ever."
    name = "threadpool_idle_task_timeout"
    environment_key = "GEVENT_THREADPOOL_IDLE_TASK_TIMEOUT"
    default = 5.0

    def validate(self, value: Any) -> Any:
        return value if value == -1 else super().validate(value)


class Loop(ImportableSetting, Setting):
    desc = "What makes the loop of a hub. There is one kind; gevent's names for its own stand for it."
    default = ["weft"]
    shortname_map = dict.fromkeys(
        ("weft", "libev-cext", "libev-cffi", "libuv-cffi", "libuv"), "gevent.core.loop"
    )


class FormatContext(ImportableSetting, Setting):
    desc = "How what failed is shown beside a traceback."
    name = "format_context"
    default = ["pprint.saferepr"]


class LibevBackend(_Any, Setting):
    desc = "Has no meaning here: what asks the kernel is epoll."
    name = "libev_backend"
    environment_key = "GEVENT_BACKEND"
    default = None


class WatchChildren(_Bool, Setting):
    desc = "Whether `os.waitpid` is left as it is, which blocks the thread."
    name = "disable_watch_children"
    environment_key = "GEVENT_NOWAITPID"
    default = False


class TraceMalloc(_Any, Setting):
    desc = "Has no meaning here."
    name = "trace_malloc"
    environment_key = "PYTHONTRACEMALLOC"
    default = False


class TrackGreenletTree(_Bool, Setting):
    desc = "Whether greenlets know who spawned them, and where."
    name = "track_greenlet_tree"
    default = True

    def set(self, value: Any) -> None:
        """Set it, and say so to those that note it."""
        super().set(value)
        from . import _hub

        _hub.track_tree(self.value)


# --- the monitoring thread ----------------------------------------------------------------------------------


class MonitorThread(_Bool, Setting):
    desc = "Whether each hub gets a thread that looks whether it runs."
    name = "monitor_thread"
    environment_key = "GEVENT_MONITOR_THREAD_ENABLE"
    default = False


class MaxBlockingTime(_Positive, Setting):
    desc = "After how long without a switch, in seconds, the hub counts as blocked."
    name = "max_blocking_time"
    default = 0.1


class PrintBlockingReports(_Bool, Setting):
    desc = "Whether a report of a blocked hub is printed; subscribers of `gevent.events` get it in any case."
    name = "print_blocking_reports"
    environment_key = "GEVENT_MONITOR_PRINT_BLOCKING_REPORTS"
    default = True


class MonitorMemoryPeriod(_Positive, Setting):
    desc = "How often, in seconds, the use of memory is looked at."
    name = "memory_monitor_period"
    environment_key = "GEVENT_MONITOR_MEMORY_PERIOD"
    default = 5


class MonitorMemoryMaxUsage(_Bytes, Setting):
    desc = "How much memory the process may use before that is an event; kb, mb and gb are units."
    name = "max_memory_usage"
    environment_key = "GEVENT_MONITOR_MEMORY_MAX"
    default = None


# --- resolvers ----------------------------------------------------------------------------------------------


class AresFlags(_Any, Setting):
    name = "ares_flags"
    environment_key = "GEVENTARES_FLAGS"
    default = None


class AresTimeout(_Any, Setting):
    name = "ares_timeout"
    environment_key = "GEVENTARES_TIMEOUT"
    default = None


class AresTries(_Any, Setting):
    name = "ares_tries"
    environment_key = "GEVENTARES_TRIES"
    default = None


class AresNdots(_Any, Setting):
    name = "ares_ndots"
    environment_key = "GEVENTARES_NDOTS"
    default = None


class AresUDPPort(_Any, Setting):
    name = "ares_udp_port"
    environment_key = "GEVENTARES_UDP_PORT"
    default = None


class AresTCPPort(_Any, Setting):
    name = "ares_tcp_port"
    environment_key = "GEVENTARES_TCP_PORT"
    default = None


class AresServers(_Any, Setting):
    name = "ares_servers"
    environment_key = "GEVENTARES_SERVERS"
    default = None


class ResolverNameservers(Setting):
    desc = "The servers that resolvers ask which do not use the system's functions."
    name = "resolver_nameservers"
    default = None
    validate = staticmethod(validate_anything)


class ResolverTimeout(_Positive, Setting):
    desc = "How long, in seconds, such a resolver tries."
    name = "resolver_timeout"
    default = None


config: Any = Config()
