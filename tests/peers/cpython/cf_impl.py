"""CPython's tests of concurrent.futures: which there are, and whose executor this process has."""

from __future__ import annotations

import os
import unittest
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import mp_impl

PACKAGE = "test.test_concurrent_futures"
PARTS = ("process_pool", "as_completed", "wait", "shutdown", "init", "deadlock", "future")
PREFIXES = {
    "fork": "ProcessPoolFork",
    "spawn": "ProcessPoolSpawn",
    "forkserver": "ProcessPoolForkserver",
}
THREADS = "ThreadPool"
COMMON = "common"  # what has no start method


def sources() -> list[ModuleType]:
    """The modules with tests; none if the interpreter was installed without them.

    They are a package, in older releases one module; releases in between, as 3.11.7 and 3.12.1, install neither.
    """
    try:
        package = import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name not in ("test", PACKAGE):
            raise
        return []
    if not hasattr(package, "__path__"):
        return [package]
    return [import_module(f"{PACKAGE}.test_{part}") for part in PARTS]


def install(namespace: dict[str, Any], method: str) -> None:
    """Give a wrapper the classes of its start method, as its own and without the method in their names."""
    complaint = wrong_executor(os.environ.get(mp_impl.VARIABLE))
    if complaint:
        raise RuntimeError(f"guard: {complaint}")
    for source in sources():
        for name, found in test_cases(source):
            if method_of(name) == method:
                short = name.removeprefix(PREFIXES.get(method, ""))
                namespace[short] = type(short, (found,), {"__module__": namespace["__name__"]})
        namespace["setUpModule"] = vars(source)["setUpModule"]  # all have the same


def test_cases(source: ModuleType) -> Iterator[tuple[str, type]]:
    """The classes that a module defines, without those it imports."""
    for name, found in list(vars(source).items()):
        if isinstance(found, type) and issubclass(found, unittest.TestCase):
            if found.__module__ == source.__name__ and not name.startswith(THREADS):
                yield name, found


def method_of(name: str) -> str:
    fitting = [method for method, prefix in PREFIXES.items() if name.startswith(prefix)]
    return max(fitting, key=len) if fitting else COMMON


def wrong_executor(impl: str | None) -> str | None:
    """Why ProcessPoolExecutor is not the one of `impl`, or None.

    The standard library's on weft's queues and processes is right as long as weft has none of its own.
    """
    if impl is None:
        return None
    if complaint := mp_impl.wrong_multiprocessing(impl):
        return complaint
    from concurrent.futures import ProcessPoolExecutor

    ours = None
    if impl == "weft":
        import weft

        ours = os.path.dirname(weft.__file__) if hasattr(weft, "Executor") else None
    source = mp_impl.source_of(ProcessPoolExecutor, "submit")
    if source is None:
        return None if ours else "ProcessPoolExecutor.submit is native in a run of the standard library's"
    home = ours or os.path.join(os.path.dirname(os.__file__), "concurrent")
    return None if source.startswith(home) else f"ProcessPoolExecutor is made in {source!r}, not in {home!r}"
