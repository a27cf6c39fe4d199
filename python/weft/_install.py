"""Makes the names of other packages mean weft's faces, in this process and its children.

FACES says which top-level name is played by which module of weft. `install` puts one finder in
front of `sys.meta_path` and imports nothing itself. From then on, for every installed name:

* `greenlet` is loaded from the files of `weft.greenlet`, as the module `greenlet`;
* `weft.greenlet`, and what lies below, is that same module object under a second name;
* BORROWED parts of the displaced package, its tests, are found where it is installed, without
  importing the package itself;
* `multiprocessing` stays the standard library's, and what it is made of becomes weft's: see `_patches`.

Locks: importing `weft.greenlet` waits for the import of `greenlet`, never the other way round,
and each name enters `sys.modules` under its own import lock only: a name that turns up there
while its spec is being looked for would be loaded twice. `_lock` serialises `install`; no import
takes it.

Children learn of it by the environment variable WEFT_INSTALL (names, separated by commas),
which `weft_install.pth` reads when an interpreter starts.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

from weft import _patches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.abc import Loader
    from types import ModuleType
    from typing import TypeGuard
else:
    Loader = object  # the real one costs more to import than all of this

VARIABLE = "WEFT_INSTALL"

# The name a program imports, and the module of weft that plays it. The last parts are the same:
# the finder looks for the name in the package that holds the face.
FACES = {
    "greenlet": "weft.greenlet",
    "multiprocessing": "weft.multiprocessing",
    "gevent": "weft.gevent",
}

# What `install` replaces if it is not told what. A face that is not whole yet has to be asked for.
BY_DEFAULT = ("greenlet", "multiprocessing")

# What has to be replaced with a name: its own greenlets are the ones that a program imports beside it.
NEEDED = {"gevent": ("greenlet",)}

# What the faces do not have themselves.
BORROWED = frozenset({"greenlet.tests", "gevent.testing", "gevent.tests"})

HOLDERS_SHOWN = 4

_lock = RLock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]
_installed: set[str] = set()


class InstallError(RuntimeError):
    """`install` came too late: the package to replace was imported already."""

    __module__ = "weft"


def install(only: str | Iterable[str] | None = None) -> None:
    """Make `greenlet` and `multiprocessing`, or what is named, mean weft's, in this process and its children.

    `only` names what to replace: an iterable of names, or one string with commas. The default
    is `greenlet` and `multiprocessing`; `gevent`, which weft does not have the whole of yet, has to be named, and brings
    `greenlet` with it. Calling it again is harmless. Faces are loaded when first
    imported. `multiprocessing` is changed in place, at any time: names that were bound before
    start weft's processes afterwards. Children are reached by the environment variable
    WEFT_INSTALL, also those started with `-I` or `-E`, but not those started with `-S` or with
    an environment that leaves the variable out.

    Raises ValueError for a name without a face, and `InstallError`, with nothing changed, if
    `greenlet` was imported before: call it earlier, or run under `python -m weft`.
    """
    names = parse_names(only)
    with _lock:
        for name in names:
            if name not in _patches.IN_PLACE:
                _check_in_time(name)
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        for name in names:
            if name in _patches.IN_PLACE:
                _patches.activate(name)
            elif name not in _installed:
                _adopt(name)
                _installed.add(name)
        known = os.environ.get(VARIABLE, "").split(",")
        os.environ[VARIABLE] = ",".join(dict.fromkeys(n for n in (*known, *names) if n))


def from_environment() -> None:
    """Install what WEFT_INSTALL names, if it is set."""
    names = os.environ.get(VARIABLE)
    if names:
        install(names)


def parse_names(only: str | Iterable[str] | None) -> list[str]:
    """The names that `only` stands for, each once, behind those they need; ValueError for what has no face."""
    if only is None:
        return list(BY_DEFAULT)
    names = [name.strip() for name in only.split(",")] if isinstance(only, str) else list(only)
    for name in names:
        if name not in FACES:
            raise ValueError(f"weft cannot replace {name!r}; what it can: {', '.join(FACES)}")
    if not names:
        raise ValueError(f"no name given; what weft can replace: {', '.join(FACES)}")
    return list(dict.fromkeys(each for name in names for each in (*NEEDED.get(name, ()), name)))


def _check_in_time(name: str) -> None:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is None or isinstance(getattr(spec, "loader", None), _FaceLoader):
        return
    origin = getattr(module, "__file__", None) or "an unknown place"
    holders = _holders(name, module)
    if len(holders) > HOLDERS_SHOWN:
        holders[HOLDERS_SHOWN:] = [f"{len(holders) - HOLDERS_SHOWN} more"]
    raise InstallError(
        f"{name} was imported before weft could take its place (from {origin}; "
        f"in use by {', '.join(holders) or 'no module that can be named'}). "
        "Types that others hold or were compiled against cannot be exchanged any more. "
        f"Start the program with `python -m weft`, or call weft.install() before "
        f"anything imports {name}."
    )


def _holders(name: str, stock: ModuleType) -> list[str]:
    """The modules, in the order of their import, that hold `stock` or types from it."""

    def comes_from_it(value: object) -> bool:
        if value is stock:
            return True
        if not _is_class(value):
            return False
        modules = (vars(base).get("__module__") for base in type.mro(value)[:-1])
        return any(isinstance(m, str) and m.partition(".")[0] == name for m in modules)

    return [
        known
        for known, module in list(sys.modules.items())
        if known.partition(".")[0] != name
        and any(map(comes_from_it, list(getattr(module, "__dict__", {}).values())))
    ]


def _is_class(value: object) -> TypeGuard[type]:
    return issubclass(type(value), type)  # isinstance would ask proxies for their __class__


def _adopt(name: str) -> None:
    """Give a face that was imported as `weft.x` the installed name as its own."""
    face = FACES[name]
    if face not in sys.modules:
        return
    path = import_module(face).__path__  # waits for another thread that is still importing it
    for known in _family(face):
        module = sys.modules[known]
        own = name + known.removeprefix(face)
        spec = _face_spec(name) if own == name else PathFinder.find_spec(own, path)
        if spec is not None:
            module.__spec__ = spec
            module.__loader__ = spec.loader
            module.__name__ = own
            module.__package__ = spec.parent
        sys.modules[own] = module


def _family(name: str) -> list[str]:
    return [known for known in list(sys.modules) if f"{known}.".startswith(f"{name}.")]


class _Finder:
    """The finder that `install` puts first; its state is `_installed`, and what is to be patched."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _installed:
            return _face_spec(fullname)
        if fullname.startswith("weft."):
            return _alias_spec(fullname)
        if fullname in _patches.active:
            others = [finder for finder in sys.meta_path if finder is not self]
            return _patches.find_spec(fullname, path, others)
        if fullname in BORROWED and fullname.partition(".")[0] in _installed:
            return _borrowed_spec(fullname)
        return None


_finder = _Finder()


def _face_spec(name: str) -> ModuleSpec:
    parent = FACES[name].rpartition(".")[0]
    spec = PathFinder.find_spec(name, sys.modules[parent].__path__)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"weft is damaged: it has no {FACES[name]}", name=name)
    spec.loader = _FaceLoader(name, spec.origin)
    return spec


def _alias_spec(fullname: str) -> ModuleSpec | None:
    for name in _installed:
        face = FACES[name]
        if f"{fullname}.".startswith(f"{face}."):
            return alias_of(fullname, name + fullname.removeprefix(face))
    return None


def alias_of(fullname: str, target: str) -> ModuleSpec | None:
    """A spec by which importing `fullname` gives the module `target`; None if there is no such module."""
    from importlib.util import find_spec

    found = find_spec(target)
    if found is None:
        return None
    spec = ModuleSpec(fullname, AliasLoader(target), origin=found.origin)
    spec.submodule_search_locations = found.submodule_search_locations
    return spec


def _borrowed_spec(fullname: str) -> ModuleSpec | None:
    """Where the displaced package, which is never imported, has `fullname`."""
    package = fullname.rpartition(".")[0]
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if finder is _finder or find_spec is None:
            continue
        found = find_spec(package, None)
        if found is not None:
            path = found.submodule_search_locations
            return None if path is None else PathFinder.find_spec(fullname, path)
    return None


class _FaceLoader(SourceFileLoader):
    """Loads a face under the installed name; tells it apart from the stock."""


class AliasLoader(Loader):
    """Hands out the module `target` under a second name."""

    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._target)
        self._own = {name: getattr(module, name, None) for name in _SET_BY_IMPORT}
        return module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._own)


# What the import system writes into the module a loader hands out.
_SET_BY_IMPORT = ("__spec__", "__loader__", "__package__")
