"""Measures one scenario in this process and prints the result as one line of JSON.

    worker.py SCENARIO SECONDS REPEATS

A timed scenario is repeated; each repeat runs for about SECONDS, and the quickest counts, the
one that was disturbed least. `run.py` starts this file once as `python worker.py` and once as
`python -m weft --only greenlet worker.py`; it does not know which.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import greenlet
import scenarios


def implementation() -> dict[str, str]:
    """Whose greenlets these are: checked by `run.py`, so that no side measures the other."""
    package = Path(greenlet.__file__).parent
    name = "weft" if package.parent.name == "weft" else "greenlet"
    return {"name": name, "version": version(name)}


def elapsed(run: Callable[[int], None], count: int) -> float:
    start = perf_counter()
    run(count)
    return perf_counter() - start


def time_loop(loop: scenarios.Loop, seconds: float, repeats: int) -> float:
    """Seconds per operation, the least of `repeats` measurements."""
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


def main(name: str, seconds: float, repeats: int) -> None:
    result = getattr(scenarios, name)()
    if isinstance(result, scenarios.Loop):
        result = time_loop(result, seconds, repeats)
    print(json.dumps({"implementation": implementation(), "value": result}), flush=True)
    # Taking a million greenlets down is not part of anything.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
