"""Makes the standard library's blocking functions let other greenlets run. As gevent.monkey.

Each module of gevent that stands for one of the standard library's says in `__implements__` which names of it to replace,
and may have a function `_gevent_do_monkey_patch(request)` that does it in a way of its own. What was there before is kept in
`saved`, for `get_original`. Subscribers of `gevent.events` are told before and after, and may refuse by DoNotPatch.

In which order modules are patched does not matter. What is not there yet is said by a MonkeyPatchWarning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from importlib import import_module
from typing import Any

__all__ = [
    "MonkeyPatchWarning",
    "get_original",
    "is_module_patched",
    "is_object_patched",
    "main",
    "patch_all",
    "patch_builtins",
    "patch_contextvars",
    "patch_dns",
    "patch_item",
    "patch_module",
    "patch_os",
    "patch_queue",
    "patch_select",
    "patch_selectors",
    "patch_signal",
    "patch_socket",
    "patch_ssl",
    "patch_subprocess",
    "patch_sys",
    "patch_thread",
    "patch_time",
    "remove_item",
]

# What was replaced: by module, by name. And what `patch_all` was asked for, under _SETTINGS.
saved: dict[str, dict[str, Any]] = {}

_SETTINGS = "_gevent_saved_patch_all_module_settings"
_MISSING: Any = object()
_PACKAGE = __name__.rpartition(".")[0]


class MonkeyPatchWarning(RuntimeWarning):
    """Something may not work as expected after patching."""


class _BadImplements(AttributeError):
    """A module does not say what it implements."""

    def __init__(self, module: Any) -> None:
        super().__init__(f"Module {module!r} has a bad or missing value for __implements__")


# --- what is patched ----------------------------------------------------------------------------------------


def is_module_patched(mod_name: str) -> bool:
    """Whether anything of a module was replaced."""
    return mod_name in saved


def is_object_patched(mod_name: str, item_name: str) -> bool:
    """Whether that of a module was replaced."""
    return item_name in saved.get(mod_name, ())


def is_anything_patched() -> bool:
    """Whether anything was replaced."""
    return bool(saved)


def get_original(mod_name: str | Sequence[str], item_name: str | Sequence[str]) -> Any:
    """What a module had under a name before it was patched, or has; a list, for a list of names. Of several
    modules the first that can be imported counts."""
    modules = [mod_name] if isinstance(mod_name, str) else list(mod_name)
    for name in modules:
        try:
            module = import_module(name)
        except ImportError:
            if name == modules[-1]:
                raise
            continue
        break
    before = saved.get(name, {})
    names = [item_name] if isinstance(item_name, str) else item_name
    found = [before[item] if item in before else getattr(module, item) for item in names]
    return found[0] if isinstance(item_name, str) else found


# --- replacing ----------------------------------------------------------------------------------------------


def patch_item(module: Any, attr: str, newitem: Any) -> None:
    """Replace one thing of a module."""
    _keep(module, attr)
    setattr(module, attr, newitem)


def remove_item(module: Any, attr: str) -> None:
    """Take one thing out of a module, if it is there."""
    if _keep(module, attr):
        delattr(module, attr)


def _keep(module: Any, attr: str) -> bool:
    before = getattr(module, attr, _MISSING)
    if before is not _MISSING:
        # Of a class, it is kept with the module that has the class.
        name, item = (
            (module.__module__, f"{module.__name__}.{attr}")
            if isinstance(module, type)
            else (module.__name__, attr)
        )
        saved.setdefault(name, {}).setdefault(item, before)
    return before is not _MISSING


class _Request:
    """What is to be done to one module, for its `_gevent_do_monkey_patch`."""

    get_original = staticmethod(get_original)

    def __init__(
        self, target_module: Any, source_module: Any, items: Iterable[str], patch_kwargs: dict[str, Any]
    ) -> None:
        self.target_module = target_module
        self.source_module = source_module
        self.items = items
        self.patch_kwargs = patch_kwargs

    def default_patch_items(self) -> None:
        """Replace all that the source implements."""
        for attr in self.items:
            patch_item(self.target_module, attr, getattr(self.source_module, attr))

    def remove_item(self, target_module: Any, *items: str) -> None:
        """Take things out of a module, by default of the one that is patched."""
        if isinstance(target_module, str):
            items = (target_module, *items)
            target_module = self.target_module
        for item in items:
            remove_item(target_module, item)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} target={self.target_module!r} source={self.source_module!r} "
            f"items={self.items!r} kwargs={self.patch_kwargs!r}>"
        )


def patch_module(
    target_module: Any,
    source_module: Any,
    items: Any = None,
    _warnings: list[str] | None = None,
    _patch_kwargs: dict[str, Any] | None = None,
    _notify_will_subscribers: bool = True,
    _notify_did_subscribers: bool = True,
    _call_hooks: bool = True,
) -> bool:
    """Replace in one module what another one implements: `items`, or its `__implements__`. False if a subscriber refused."""
    from .. import events

    if items is None:
        items = getattr(source_module, "__implements__", None)
        if items is None:
            raise _BadImplements(source_module)

    def hook(when: str) -> None:
        function = getattr(source_module, f"_gevent_{when}_monkey_patch", None)
        if _call_hooks and function is not None:
            function(target_module, items, lambda message: _warn(message, _warnings))

    try:
        hook("will")
        if _notify_will_subscribers:
            name = target_module.__name__
            _tell(events.GeventWillPatchModuleEvent(name, source_module, target_module, items), _warnings)
    except events.DoNotPatch:
        return False
    request = _Request(target_module, source_module, items, _patch_kwargs or {})
    patch = getattr(source_module, "_gevent_do_monkey_patch", _Request.default_patch_items)
    patch(request)
    hook("did")
    if _notify_did_subscribers:
        _tell(
            events.GeventDidPatchModuleEvent(target_module.__name__, source_module, target_module), _warnings
        )
    return True


def _patch_module(name: str, items: Any = None, **options: Any) -> tuple[Any, Any]:
    """Patch the module that the one called `name` here stands for; both."""
    source, target = _find_modules(name)
    patch_module(target, source, items, **options)
    return source, target


def _find_modules(name: str) -> tuple[Any, Any]:
    source = import_module(f"{_PACKAGE}.{name}")
    return source, import_module(getattr(source, "__target__", name))


def _tell(event: Any, collected: list[str] | None = None) -> None:
    from ..events import notify_and_call_entry_points

    event._warnings = collected
    notify_and_call_entry_points(event)


def _warn(message: str, collected: list[str] | None) -> None:
    """Warn, or have that done when all is patched."""
    if collected is None:
        _process_warnings([message])
    else:
        collected.append(message)


def _process_warnings(messages: Iterable[str]) -> None:
    for message in messages:
        warnings.warn(message, MonkeyPatchWarning, stacklevel=3)


def _unless_refused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives False if a subscriber does not want it done."""

    @wraps(function)
    def unless_refused(*args: Any, **kwargs: Any) -> Any:
        from ..events import DoNotPatch

        try:
            return function(*args, **kwargs)
        except DoNotPatch:
            return False

    return unless_refused


# --- one module each ----------------------------------------------------------------------------------------


@_unless_refused
def patch_os() -> None:
    """Replace `fork` and `waitpid` of `os`."""
    _patch_module("os")


@_unless_refused
def patch_time() -> None:
    """Replace `time.sleep`."""
    _patch_module("time")


@_unless_refused
def patch_queue() -> None:
    """Replace the queues of `queue`. The setting GEVENT_MONKEY_DISABLE_QUEUE_QUEUE leaves `Queue` itself out."""
    import os

    from .._config import validate_bool

    items = ["SimpleQueue", "PriorityQueue", "LifoQueue"]
    if not validate_bool(os.environ.get("GEVENT_MONKEY_DISABLE_QUEUE_QUEUE", "")):
        items.append("Queue")
    _patch_module("queue", items=items)


@_unless_refused
def patch_signal() -> None:
    """Replace `signal.signal` and `getsignal`, whose handlers of SIGCHLD run in greenlets then."""
    _patch_module("signal")


@_unless_refused
def patch_select(aggressive: bool = True) -> None:
    """Replace `select.select` and `poll`; what would block the thread is taken out, if `aggressive`."""
    _patch_module("select", _patch_kwargs={"aggressive": aggressive})


@_unless_refused
def patch_selectors(aggressive: bool = True) -> None:
    """Replace `selectors.DefaultSelector`; what would block the thread is taken out, if `aggressive`."""
    _patch_module("selectors", _patch_kwargs={"aggressive": aggressive})


@_unless_refused
def patch_socket(dns: bool = True, aggressive: bool = True) -> None:
    """Replace what makes sockets in `socket` and, if `dns`, what looks up names."""
    from .. import socket

    _patch_module(
        "socket", items=[name for name in socket.__implements__ if dns or name not in socket.__dns__]
    )


@_unless_refused
def patch_dns() -> None:
    """Replace what looks up names of hosts in `socket`."""
    from .. import socket

    _patch_module("socket", items=list(socket.__dns__))


@_unless_refused
def patch_thread(
    threading: bool = True,
    _threading_local: bool = True,
    Event: bool = True,
    logging: bool = True,
    existing_locks: bool = True,
    _warnings: list[str] | None = None,
) -> None:
    """Have `_thread`, and `threading` if wanted, start greenlets. Locks of modules that are being imported are carried
    over, and those of `logging` replaced."""
    from ._threads import patch

    patch(
        threading=threading,
        threading_local=_threading_local,
        event=Event,
        logging=logging,
        existing_locks=existing_locks,
        collected=_warnings,
    )


def patch_sys(stdin: bool = True, stdout: bool = True, stderr: bool = True) -> None:
    """Nothing: standard streams are left alone."""


def patch_builtins() -> None:
    """Nothing: there is nothing to replace in `builtins`."""


def patch_contextvars() -> None:
    """Nothing: each greenlet has a context of its own as it is."""


_ABSENT = {
    "subprocess": "Popen.wait() and communicate() let other greenlets run, by what else is patched; "
    "reading from its pipes blocks all greenlets of the thread",
}


def _patch_if_there(name: str, collected: list[str] | None) -> None:
    try:
        import_module(f"{_PACKAGE}.{name}")
    except ImportError:
        _warn(f"{name} is not patched, as weft.gevent has no {name} yet: {_ABSENT[name]}.", collected)
        return
    _patch_module(name, _warnings=collected)


@_unless_refused
def patch_ssl(_warnings: list[str] | None = None, _first_time: bool = True) -> None:
    """Have all contexts of `ssl`, those that exist too, make sockets that wait in greenlets."""
    _patch_module("ssl", _warnings=_warnings)


@_unless_refused
def patch_subprocess(_warnings: list[str] | None = None) -> None:
    """Warn that pipes of child processes block the thread: there is no `gevent.subprocess` here yet."""
    _patch_if_there("subprocess", _warnings)


# --- all of them --------------------------------------------------------------------------------------------


def _what_is_new(asked: dict[str, bool], collected: list[str]) -> dict[str, bool]:
    """What of all that is asked for was not done before."""
    known = saved.setdefault(_SETTINGS, {})
    if known and known != asked:
        _warn(
            "Patching more than once will result in the union of all True parameters being patched", collected
        )
    new = {
        name: wanted for name, wanted in asked.items() if name not in known or (wanted and not known[name])
    }
    known.update(new)
    return new


def patch_all(
    socket: bool = True,
    dns: bool = True,
    time: bool = True,
    select: bool = True,
    thread: bool = True,
    os: bool = True,
    ssl: bool = True,
    subprocess: bool = True,
    sys: bool = False,
    aggressive: bool = True,
    Event: bool = True,
    builtins: bool = True,
    signal: bool = True,
    queue: bool = True,
    contextvars: bool = True,
    **kwargs: Any,
) -> bool | None:
    """Patch everything, or what is not turned off. None if that was done before, False if a subscriber refused."""
    asked = {name: value for name, value in locals().items() if name != "kwargs"}
    collected: list[str] = []
    wanted = _what_is_new(asked, collected)
    if not wanted:
        _process_warnings(collected)
        return None
    from .. import events

    try:
        _tell(events.GeventWillPatchAllEvent(wanted, kwargs), collected)
    except events.DoNotPatch:
        return False
    steps: dict[str, Callable[[], Any]] = {
        "os": patch_os,
        "thread": lambda: patch_thread(Event=Event, _warnings=collected),
        "time": patch_time,
        "sys": patch_sys,
        "socket": lambda: patch_socket(dns=dns, aggressive=aggressive),
        "select": lambda: (patch_select(aggressive=aggressive), patch_selectors(aggressive=aggressive)),
        "ssl": lambda: patch_ssl(_warnings=collected),
        "subprocess": lambda: patch_subprocess(_warnings=collected),
        "builtins": patch_builtins,
        "signal": patch_signal,
        "queue": patch_queue,
        "contextvars": patch_contextvars,
    }
    for name, step in steps.items():
        if asked[name]:
            step()
    if asked["signal"] and not asked["os"]:
        _warn(
            "Patching signal but not os: handlers of SIGCHLD run in greenlets, but os.waitpid in them blocks the thread",
            collected,
        )
    _tell(events.GeventDidPatchBuiltinModulesEvent(wanted, kwargs), collected)
    _tell(events.GeventDidPatchAllEvent(wanted, kwargs), collected)
    _process_warnings(collected)
    return True


def _subscribe_signal_os(_event: Any) -> None:
    """Nothing: gevent, installed beside weft, has this called before `patch_all`, which warns by itself."""


def main() -> None:
    """What `python -m gevent.monkey` does: patch, then run a program."""
    from ._main import main

    main()
