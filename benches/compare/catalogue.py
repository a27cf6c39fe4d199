"""What is measured, in which order it is shown, and what weft is required to reach.

Data only. The code of a scenario is the function of its name in `scenarios.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SUITE = "greenlet"  # results are benches/results/greenlet-3.11.json and so on


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    `title` says what one operation is, in the tables and the chart. The value is seconds per
    operation (unit "s") or resident bytes per greenlet ("B").
    """

    name: str
    group: str
    title: str
    unit: Literal["s", "B"] = "s"
    must_ratio: float | None = None  # stock / weft, at least
    must_below: float | None = None  # weft's own value, less than
    most_rounds: int | None = None  # where more would only take time
    needs_memory: int = 0  # bytes that have to be free

    @property
    def in_quick(self) -> bool:
        return self.needs_memory == 0


SCENARIOS = (
    Scenario("pair", "Switch", "switch there and back", must_ratio=6.5),
    Scenario("pair_value", "Switch", "… with a value each way"),
    Scenario("pair_frames", "Switch", "… below 300 Python frames", must_ratio=8),
    Scenario("pair_sorted", "Switch", "… below 60 nested sorted()", must_ratio=100),
    Scenario("pair_map", "Switch", "… below 60 nested map()"),
    Scenario("throw", "Switch", "throw, catch, switch back"),
    Scenario("current", "Switch", "getcurrent()"),
    Scenario("life", "Life", "create, run, die", must_ratio=17),
    Scenario("life_subclass", "Life", "… of a subclass with run()"),
    Scenario("robin_1000", "Many", "1,000 greenlets in turn", must_ratio=4.5),
    Scenario("robin_10000", "Many", "10,000 greenlets in turn"),
    Scenario("memory_20000", "Memory", "20,000 suspended", unit="B", must_ratio=2.7, most_rounds=3),
    Scenario(
        "memory_1000000",
        "Memory",
        "1,000,000 suspended",
        unit="B",
        must_ratio=2.7,
        must_below=2300,  # all of them: 2.3 GB
        most_rounds=1,
        needs_memory=9 * 10**9,
    ),
    Scenario("gevent_spawn", "gevent on top", "spawn(f).join()"),
    Scenario("gevent_queue", "gevent on top", "Queue ping-pong"),
    Scenario("gevent_sleep", "gevent on top", "sleep(0)"),
)
