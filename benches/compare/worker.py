"""Measures one scenario in this process and prints the result as one line of JSON.

    worker.py SUITE SCENARIO SECONDS REPEATS [RIVAL]

A timed scenario is repeated; each repeat runs for about SECONDS, and the quickest counts, the
one that was disturbed least. `run.py` starts this file once as `python worker.py` and once as
`python -m weft --only SUITE worker.py`; it does not know which.

Processes that a scenario starts may import this file again as their `__main__`: it imports next
to nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from loop import Loop


# The modules that have a suite's scenarios, if they are several.
PARTS = {"multiprocessing": ("multiprocessing", "shared"), "gevent": ("gevent", "echo")}
# What a suite's scenarios are written against, where rivals have interfaces of their own.
APIS = {"multiprocessing": "apis", "manager": "apis", "pool": "apis_pool", "gevent": "apis_gevent"}


def nothing() -> None:
    """What a process runs that is only started. It is in the main module, as a program's functions are."""


def implementation(suite: str, rival: str | None) -> dict[str, str]:
    """Whose code was measured: checked by `run.py`, so that no side measures the other."""
    import platform
    from importlib.metadata import version

    if rival is not None:
        from rivals import version_of

        return {"name": rival, "version": version_of(rival)}
    if suite == "gevent":
        from apis_gevent import is_weft

        name = "weft" if is_weft() else "gevent"
    elif suite == "greenlet":
        import greenlet

        package = Path(greenlet.__file__).parent
        name = "weft" if package.parent.name == "weft" else "greenlet"
    else:
        from apis import is_weft

        name = "weft" if is_weft() else "CPython"
    return {"name": name, "version": platform.python_version() if name == "CPython" else version(name)}


def elapsed(run: Callable[[int], None], count: int) -> float:
    from time import perf_counter

    start = perf_counter()
    run(count)
    return perf_counter() - start


def time_loop(loop: Loop, seconds: float, repeats: int) -> float:
    """Seconds per operation, the least of `repeats` measurements."""
    import gc

    count = 1
    loop.run(count)  # what happens once, as the making of gevent's hub
    while (took := min(elapsed(loop.run, count) for _ in range(2))) < seconds / 4:
        count *= 2
    count = max(1, round(count * seconds / took))
    times = []
    for _ in range(repeats):
        gc.collect()
        times.append(elapsed(loop.run, count))
    return min(times) / (count * loop.operations)


def measure(suite: str, scenario: str, seconds: float, repeats: int, rival: str | None) -> dict[str, object]:
    """The value, what was measured where the scenario can tell, and how busy a server was kept."""
    from importlib import import_module

    scenario, *arguments = scenario.split(":")
    api = None
    if suite in APIS:
        apis = import_module(APIS[suite])
        api = apis.RIVALS[rival]() if rival else apis.Api()
        arguments.insert(0, api)
    modules = [import_module(f"scenarios_{part}") for part in PARTS.get(suite, (suite,))]
    function = next(found for module in modules if (found := vars(module).get(scenario)) is not None)
    result = function(*arguments)
    value = result if isinstance(result, float) else time_loop(result, seconds, repeats)
    return {"value": value, "subject": getattr(api, "subject", None), "busy": getattr(api, "busy", None)}


def main(suite: str, scenario: str, seconds: str, repeats: str, rival: str | None = None) -> None:
    import json
    import os

    answer = measure(suite, scenario, float(seconds), int(repeats), rival)
    answer |= {"implementation": implementation(suite, rival)}
    print(json.dumps(answer), flush=True)
    if suite in ("greenlet", "gevent"):
        # Taking a million greenlets down is not part of anything.
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
