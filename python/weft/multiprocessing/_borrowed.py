"""Submodules of `weft.multiprocessing` that are the standard library's own."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from weft._install import alias_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

OURS = "weft.multiprocessing"
STOCK = "multiprocessing"


class _Finder:
    """Asked last, so that weft's own submodules come first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{OURS}."):
            return None
        return alias_of(fullname, STOCK + fullname.removeprefix(OURS))


_finder = _Finder()


def install() -> None:
    """Make `import weft.multiprocessing.x` find the standard library's module; calling it again is harmless."""
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)


def submodule(name: str) -> ModuleType:
    """The submodule of that name, weft's or the standard library's, as an attribute of the package.

    AttributeError for what neither has.
    """
    if not name.startswith("_") and find_spec(f"{STOCK}.{name}") is not None:
        return import_module(f"{OURS}.{name}")
    raise AttributeError(f"module {OURS!r} has no attribute {name!r}")
