"""Threads become greenlets: what of `_thread`, `threading`, and of what was made with them before, that takes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from weft.greenlet import getcurrent

from ..exceptions import LoopExit
from . import _patch_module, _tell, _warn, is_object_patched, patch_item


def patch(
    threading: bool,
    threading_local: bool,
    event: bool,
    logging: bool,
    existing_locks: bool,
    collected: list[str] | None,
) -> None:
    """As `patch_thread`."""
    from .. import events

    module: Any = import_module("threading")
    main = module.main_thread()
    on_main = module.current_thread() is main
    ident_before = module.get_ident()
    first = not is_object_patched("threading", "_shutdown")

    sources = {"thread": _patch_module("thread", _warnings=collected, _notify_did_subscribers=False)}
    if existing_locks:
        _carry_import_locks_over(ident_before)
    if threading:
        sources["threading"] = _patch_module("threading", _warnings=collected, _notify_did_subscribers=False)
        if event:
            from ..event import Event

            patch_item(module, "Event", Event)
        if existing_locks:
            _replace_shutdown_lock(module)
        if logging and "logging" in sys.modules:
            _replace_logging_locks(module)
    if threading_local:
        from ..local import local

        patch_item(import_module("_threading_local"), "local", local)
    if threading and first:
        from ..threading import _after_fork

        os.register_at_fork(after_in_child=_after_fork)
        _have_joins_wait(module, main)
        if on_main:
            _make_main_a_greenlet(module, main)
        else:
            _warn(
                "Monkey-patching not on the main thread; threading.main_thread().join() will hang from a greenlet",
                collected,
            )
        _have_shutdown_wait(module)
    for name, (source, target) in sources.items():
        _tell(events.GeventDidPatchModuleEvent(name, source, target), collected)


# --- what was made before -----------------------------------------------------------------------------------


def _carry_import_locks_over(ident_before: int) -> None:
    """Modules that this thread is importing are locked for it: under the name that it has from now on."""
    from ..thread import get_ident

    bootstrap = import_module("importlib._bootstrap")
    for reference in list(bootstrap._module_locks.values()):
        lock = reference()
        if lock is not None and lock.owner == ident_before:
            lock.owner = get_ident()


def _replace_shutdown_lock(threading: Any) -> None:
    futures = sys.modules.get("concurrent.futures.thread")
    if futures is not None:
        futures._global_shutdown_lock = threading.Lock()  # type: ignore[attr-defined]


def _replace_logging_locks(threading: Any) -> None:
    """Two greenlets of one thread would both hold a lock that belongs to the thread."""
    logging: Any = sys.modules["logging"]
    patch_item(logging, "_lock", threading.RLock())
    for reference in logging._handlerList:
        handler = reference() if callable(reference) else reference
        if handler is not None and getattr(handler, "lock", None) is not None:
            handler.lock = threading.RLock()


def _have_joins_wait(threading: Any, main: Any) -> None:
    """Threads that run already stay threads; to join one of them is left to a thread of the hub's pool."""
    for thread in list(threading._active.values()):
        if thread is not main:
            thread.join = _Join(thread)


class _Join:
    def __init__(self, thread: Any) -> None:
        self.thread = thread

    def __call__(self, timeout: float | None = None) -> None:
        from ..hub import get_hub, get_thread_ident

        thread = self.thread
        if thread.ident == get_thread_ident():
            raise RuntimeError("Cannot join current thread")
        if thread.is_alive():
            get_hub().threadpool.apply(type(thread).join, (thread, timeout))


# --- the main thread ----------------------------------------------------------------------------------------


def _make_main_a_greenlet(threading: Any, main: Any) -> None:
    """The main thread is the main greenlet from now on: greenlets can join it. Its number stays what it was."""
    from ..thread import _ThreadHandle

    greenlet: Any = getcurrent()
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    if hasattr(main, "_tstate_lock"):
        # Up to 3.12: a lock that is held until `_shutdown` releases it. The interpreter has a weak reference to its own.
        lock = threading._allocate_lock()
        lock.acquire()
        threading._shutdown_locks.discard(main._tstate_lock)
        threading._shutdown_locks.add(lock)
        main._tstate_lock = lock
        return
    handle = _ThreadHandle()
    handle._set_greenlet(greenlet)
    for name in ("_handle", "_os_thread_handle"):
        if hasattr(main, name):
            setattr(main, name, handle)


def _have_shutdown_wait(threading: Any) -> None:
    """At the end of the program it waits for greenlets that are threads, as for threads."""
    original = threading._shutdown

    def _shutdown() -> None:
        try:
            original()
            # Up to 3.12 that was all. From 3.13 on it waits for threads of the system alone.
            while waiting := _unfinished(threading):
                waiting[0].join()
        except LoopExit:
            return  # what is left can never end

    patch_item(threading, "_shutdown", _shutdown)


def _unfinished(threading: Any) -> list[Any]:
    current = threading._active.get(threading.get_ident())
    return [
        thread
        for thread in list(threading._active.values())
        if not thread.daemon
        and thread is not threading.main_thread()
        and thread is not current
        and thread.is_alive()
    ]
