"""Faces that change the standard library's modules in place, as data, and the engine that applies them.

A package that half the program has bound names of cannot be exchanged, but what those names look up when they are
called can: `multiprocessing.Process` imports its `Popen` from a submodule at every start. So a late install reaches
what was bound before, and modules that are imported later are patched as soon as they have run. The order of the table
and of imports does not matter.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    _Rows = tuple[tuple[str, str], ...]

_OURS = "weft.multiprocessing"

# By face: the module to change, and which of its attributes (with dots into classes) becomes which of ours.
# "()" is no attribute: the replacement is called with the module, before the others are put in.
IN_PLACE: dict[str, dict[str, _Rows]] = {
    "multiprocessing": {
        "multiprocessing.process": (
            ("BaseProcess._sentinel", "weft._sentinel.sentinel"),
            ("BaseProcess.interrupt", "weft._sentinel.interrupt"),
        ),
        "multiprocessing.popen_fork": (("Popen", f"{_OURS}.popen_fork.Popen"),),
        "multiprocessing.popen_spawn_posix": (("Popen", f"{_OURS}.popen_spawn_posix.Popen"),),
        "multiprocessing.popen_forkserver": (("Popen", f"{_OURS}.popen_forkserver.Popen"),),
        "multiprocessing.forkserver": (
            ("()", f"{_OURS}.forkserver.take_over"),
            ("_forkserver", f"{_OURS}.forkserver._forkserver"),
            ("ensure_running", f"{_OURS}.forkserver.ensure_running"),
            ("get_inherited_fds", f"{_OURS}.forkserver.get_inherited_fds"),
            ("set_forkserver_preload", f"{_OURS}.forkserver.set_forkserver_preload"),
        ),
        "multiprocessing.connection": (
            ("Connection", f"{_OURS}.connection.Connection"),
            ("Pipe", f"{_OURS}.connection.Pipe"),
            ("wait", f"{_OURS}.connection.wait"),
            ("reduce_connection", f"{_OURS}.connection.reduce_connection"),
            ("rebuild_connection", f"{_OURS}.connection.rebuild_connection"),
            ("answer_challenge", f"{_OURS}.connection.answer_challenge"),
            ("deliver_challenge", f"{_OURS}.connection.deliver_challenge"),
        ),
        "multiprocessing.queues": (
            ("()", f"{_OURS}.queues.take_over"),
            ("Queue", f"{_OURS}.queues.Queue"),
            ("JoinableQueue", f"{_OURS}.queues.JoinableQueue"),
            ("SimpleQueue", f"{_OURS}.queues.SimpleQueue"),
        ),
        "multiprocessing.synchronize": (
            ("()", f"{_OURS}.synchronize.take_over"),
            *(
                (name, f"{_OURS}.synchronize.{name}")
                for name in (
                    "SemLock",
                    "Semaphore",
                    "BoundedSemaphore",
                    "Lock",
                    "RLock",
                    "Condition",
                    "Event",
                    "Barrier",
                )
            ),
        ),
        "multiprocessing.managers": (
            ("()", f"{_OURS}.managers.take_over"),
            *(
                (name, f"{_OURS}.managers.{name}")
                for name in (
                    *("BaseManager", "SyncManager", "SharedMemoryManager", "Server", "SharedMemoryServer"),
                    *("BaseProxy", "RebuildProxy", "MakeProxyType", "AutoProxy", "IteratorProxy"),
                    *("AcquirerProxy", "ConditionProxy", "EventProxy", "BarrierProxy", "NamespaceProxy"),
                    *("ValueProxy", "BaseListProxy", "ListProxy", "DictProxy", "ArrayProxy"),
                    *("BasePoolProxy", "PoolProxy", "SetProxy"),
                )
            ),
        ),
        "multiprocessing.heap": tuple(
            (name, f"{_OURS}.heap.{name}") for name in ("Arena", "Heap", "BufferWrapper")
        ),
        "multiprocessing.pool": (
            ("()", f"{_OURS}.pool.take_over"),
            *(
                (name, f"{_OURS}.pool.{name}")
                for name in (
                    *("Pool", "AsyncResult", "ApplyResult", "MapResult"),
                    *("IMapIterator", "IMapUnorderedIterator"),
                )
            ),
        ),
        "concurrent.futures.process": (
            ("()", f"{_OURS}.futures.take_over"),
            ("ProcessPoolExecutor", f"{_OURS}.futures.ProcessPoolExecutor"),
        ),
        "multiprocessing.sharedctypes": tuple(
            (name, f"{_OURS}.sharedctypes.{name}")
            for name in (
                *("RawValue", "RawArray", "Value", "Array", "copy", "synchronized", "_new_value"),
                *("make_property", "prop_cache", "class_cache"),
                *("SynchronizedBase", "Synchronized", "SynchronizedArray", "SynchronizedString"),
            )
        ),
    },
}

# What is to be changed, of all faces installed.
active: dict[str, _Rows] = {}


def activate(face: str) -> None:
    """Apply the face's changes to what is imported, and from now on to what will be."""
    for name, rows in IN_PLACE[face].items():
        active[name] = rows
        module = sys.modules.get(name)
        # One that is still running is patched at its end, by its loader, if that is ours.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _apply(module, rows)


def find_spec(fullname: str, path: Sequence[str] | None, finders: Iterable[object]) -> ModuleSpec | None:
    """The spec that `finders` have for a module to be changed; None for all others."""
    rows = active.get(fullname)
    if rows is None:
        return None
    for finder in finders:
        find: Callable[[str, Sequence[str] | None], ModuleSpec | None] | None
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = None if find is None else find(fullname, path)
        if spec is not None:
            if spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader, rows)  # type: ignore[assignment]
            return spec
    return None


class _PatchingLoader:
    """The module's own loader, and then the changes. Afterwards the module names its own loader again."""

    def __init__(self, loader: object, rows: _Rows) -> None:
        self._loader = loader
        self._rows = rows

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create: Callable[[ModuleSpec], ModuleType | None] | None
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader  # type: ignore[assignment]
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # type: ignore[assignment]
        self._loader.exec_module(module)  # type: ignore[attr-defined]
        _apply(module, self._rows)


# By module of ours: what is to be replaced when it has run, because it imports that itself.
_waiting: dict[str, list[tuple[ModuleType, str, str]]] = {}


def _apply(module: ModuleType, rows: _Rows) -> None:
    for attribute, replacement in rows:
        source, _, name = replacement.rpartition(".")
        replacing = import_module(source)
        if getattr(replacing.__spec__, "_initializing", False) and not hasattr(replacing, name):
            _waiting.setdefault(source, []).append((module, attribute, name))
        else:
            _replace(module, attribute, getattr(replacing, name))


def _replace(module: ModuleType, attribute: str, ours: object) -> None:
    if attribute == "()":
        ours(module)  # type: ignore[operator]
        return
    *classes, last = attribute.split(".")
    holder: object = module
    for part in classes:
        holder = getattr(holder, part)
    setattr(holder, last, ours)


def finish(source: str) -> None:
    """Apply what waited for a module of ours; called at its end by one that imports what it takes the place of."""
    replacing = sys.modules[source]
    for module, attribute, name in _waiting.pop(source, ()):
        _replace(module, attribute, getattr(replacing, name))
