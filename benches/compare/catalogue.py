"""What is measured, in which order it is shown, and what weft is required to reach.

Data only. The code of a scenario is the function of its name in the module of its suite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    `title` says what one operation is, in the tables and the chart. The value is seconds per
    operation (unit "s"), bytes ("B") or a plain number ("1"); the less the better. What stands behind
    a colon in the name are the arguments of the scenario's function.
    """

    name: str
    group: str
    title: str
    unit: Literal["s", "B", "1"] = "s"
    must_ratio: float | None = None  # stock / weft, at least
    must_below: float | None = None  # weft's own value, less than
    must_share: tuple[str, float] | None = None  # of that rival's rate, at least so much
    most_rounds: int | None = None  # where more would only take time
    needs_memory: int = 0  # bytes that have to be free
    large: bool = False  # takes minutes: only with --large, or by its name
    rivals: tuple[str, ...] = ()  # packages that do the same, beside the two sides

    @property
    def in_quick(self) -> bool:
        return self.needs_memory == 0


@dataclass(frozen=True)
class Suite:
    """A table of its own: results are benches/results/greenlet-3.11.json and so on."""

    name: str
    face: str  # the name that weft takes over
    replaces: str  # what weft is so many times better than, in words
    stock: str  # the distribution that is the stock side; "CPython" for the standard library
    packages: tuple[str, ...]  # whose versions are recorded beside the two sides
    measured: str  # the values, in words
    caption: str  # the same, below a table
    seconds: float  # that one repeat of a timed scenario takes
    repeats: int
    scenarios: tuple[Scenario, ...]

    def stock_and(self, version: str) -> str:
        """The head of the stock's column."""
        return f"stdlib {version}" if self.stock == "CPython" else f"{self.stock} {version}"


GREENLET = (
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

FIFO = ("faster-fifo",)
LOKY = ("loky",)

MULTIPROCESSING = (
    Scenario("int_1to1", "Queue", "int, 1 producer, 1 consumer", must_ratio=40, rivals=FIFO),
    Scenario("int_3to3", "Queue", "int, 3 producers, 3 consumers", must_ratio=20, rivals=FIFO),
    Scenario("dict_1to1", "Queue", "small dict, 1 and 1", must_ratio=7, rivals=FIFO),
    Scenario("int_own_1to1", "Queue", "weft.Queue: int, 1 and 1", rivals=FIFO),
    Scenario("life", "Queue", "create and drop", must_ratio=10, rivals=FIFO),
    Scenario("int_2to2", "Crowd", "int, 2 and 2", rivals=FIFO),
    Scenario("int_4to4", "Crowd", "int, 4 and 4", rivals=FIFO),
    Scenario("int_8to8", "Crowd", "int, 8 and 8", rivals=FIFO),
    Scenario("int_16to16", "Crowd", "int, 16 and 16", rivals=FIFO),
    Scenario("bytes_1m", "Large messages", "1 MiB bytes", must_ratio=25, rivals=FIFO),
    Scenario("array_1m", "Large messages", "1 MiB ndarray", must_ratio=30, rivals=FIFO),
    Scenario("array_64m", "Large messages", "64 MiB ndarray", must_ratio=15, most_rounds=3, rivals=FIFO),
    Scenario("kept_1m", "Large messages", "1 MiB ndarray, 64 kept", must_ratio=1, rivals=FIFO),
    Scenario(
        "kept_64m", "Large messages", "64 MiB ndarray, 4 kept", must_ratio=1, most_rounds=3, rivals=FIFO
    ),
    Scenario("backlog_10000", "Growth", "int, 10,000 queued"),
    Scenario("backlog_100000", "Growth", "int, 100,000 queued", most_rounds=5),
    Scenario("backlog_1000000", "Growth", "int, 1,000,000 queued", most_rounds=3),
    Scenario(
        "backlog_10000000",
        "Growth",
        "int, 10,000,000 queued",
        most_rounds=1,
        needs_memory=4 * 10**9,
        large=True,
    ),
    Scenario("pipe_trip", "Pipe", "int, there and back", must_ratio=10),
    Scenario("pipe_trip_1m", "Pipe", "1 MiB bytes, there and back", must_ratio=5),
    Scenario("pipe_int", "Pipe", "int, one way"),
    Scenario("pipe_bytes", "Pipe", "send_bytes of 20, one way"),
    Scenario("pipe_1m", "Pipe", "1 MiB bytes, one way", must_ratio=5),
    Scenario("pipe_life", "Pipe", "create and close"),
    Scenario("start_forkserver", "Start and join", "beside forkserver", must_ratio=12, rivals=LOKY),
    Scenario(
        "start_numpy_forkserver",
        "Start and join",
        "… with numpy in __main__",
        must_ratio=30,
        most_rounds=5,
        rivals=LOKY,
    ),
    Scenario("start_spawn", "Start and join", "beside spawn", must_ratio=40, rivals=LOKY),
    Scenario(
        "start_numpy_spawn",
        "Start and join",
        "… with numpy in __main__",
        must_ratio=30,
        most_rounds=5,
        rivals=LOKY,
    ),
    Scenario("start_fork", "Start and join", "fork on both sides"),
    Scenario("start_spares", "Start and join", "start() alone, spares waiting", must_below=0.3e-3),
    Scenario("locked_increment", "Shared memory", "Value: increment under its lock", must_ratio=3),
    Scenario("atomic_add", "Shared memory", "… add() beside the locked one", must_ratio=10),
    Scenario("value_get", "Shared memory", "… get"),
    Scenario("value_life", "Shared memory", "… create and drop"),
    Scenario("shared_array_life", "Shared memory", "1 MiB: create, write, drop"),
)

# In scenarios_locks.py.
LOCKS = (
    Scenario("lock_alone", "Locks", "Lock: acquire, release", must_ratio=0.95),
    Scenario("lock_with", "Locks", "Lock: with", must_ratio=0.95),
    Scenario("rlock_alone", "Locks", "RLock: acquire, release", must_ratio=0.95),
    Scenario("rlock_with", "Locks", "RLock: with", must_ratio=0.95),
    Scenario("semaphore_alone", "Locks", "Semaphore: acquire, release", must_ratio=0.95),
    Scenario("lock_life", "Locks", "Lock: create and drop"),
    Scenario("lock_crowd", "Locks", "Lock: with, 4 processes at it", must_ratio=1.5),
    Scenario("rlock_crowd", "Locks", "RLock: with, 4 processes at it"),
    Scenario("event_wake", "Locks", "Event: wake another process", must_ratio=1.5),
    Scenario("condition_wake", "Locks", "Condition: wake another process"),
    Scenario("barrier_4", "Locks", "Barrier: a round of 4", must_ratio=1.5),
)

# In scenarios_manager.py.
MANAGERS = (
    Scenario("manager_get", "Manager", "dict: get", must_ratio=100),
    Scenario("manager_set", "Manager", "dict: set", must_ratio=100),
    Scenario("manager_append", "Manager", "list: append", must_ratio=100),
    Scenario("manager_namespace", "Manager", "Namespace: get", must_ratio=100),
    Scenario("manager_value", "Manager", "Value: get", must_ratio=100),
    Scenario("manager_queue", "Manager", "Queue: put and get", must_ratio=25),
    Scenario("manager_lock", "Manager", "Lock: acquire and release"),
    Scenario("manager_clients", "Manager", "dict: get, 4 clients at once", must_ratio=8),
    Scenario("manager_remote", "Manager", "dict: get, over TCP", must_ratio=2),
    Scenario("manager_life", "Manager", "dict: create and drop", must_ratio=10),
    Scenario("manager_update", "Manager", "dict: update with 100,000", must_ratio=20, most_rounds=3),
    Scenario("manager_update_texts", "Manager", "… str to float", most_rounds=3),
    Scenario("manager_copy", "Manager", "dict: copy of 100,000", most_rounds=3),
    Scenario("manager_iterate_1000", "Manager", "dict: iterate over 1,000", most_rounds=3),
    Scenario("manager_iterate", "Manager", "dict: iterate over 100,000", must_ratio=20, most_rounds=3),
    Scenario("shared_dict_get", "SharedDict", "get, beside a manager's dict", must_ratio=500),
    Scenario("shared_dict_set", "SharedDict", "set", must_ratio=200),
    Scenario("shared_dict_writers", "SharedDict", "set, 4 processes at once", must_ratio=50),
    Scenario("shared_dict_1000", "SharedDict", "get, of 1,000"),
    Scenario("shared_dict_1000000", "SharedDict", "get, of 1,000,000", most_rounds=3),
)

MPIRE = ("mpire",)
POOLS = ("mpire", "loky", "pebble")
CHUNKS = ("1", "4", "16", "64", "default")


def on_files(work: str, title: str) -> tuple[Scenario, ...]:
    """A work of some weight, as much of it for each task as a program could choose."""
    group = f"{title} 256 files"
    return (
        *(
            Scenario(
                f"work:{work}:{chunk}",
                group,
                f"chunk size {chunk}",
                must_ratio=1,
                most_rounds=3,
                rivals=MPIRE,
            )
            for chunk in CHUNKS
        ),
        Scenario(
            f"workers:{work}",
            group,
            "time with 2 workers by that with 1",
            unit="1",
            must_below=1 / 1.9,
            most_rounds=3,
        ),
    )


# In scenarios_pool.py.
POOL = (
    Scenario("apply", "Pool", "apply", must_ratio=30, rivals=POOLS),
    Scenario("apply_pipelined", "Pool", "apply_async, 3,000 at once", must_ratio=20, rivals=POOLS),
    Scenario("map_one", "Pool", "map, chunk size 1", must_ratio=14, rivals=POOLS),
    Scenario("imap_unordered_one", "Pool", "imap_unordered", must_ratio=12, rivals=MPIRE),
    Scenario("starmap_one", "Pool", "starmap, chunk size 1", rivals=MPIRE),
    Scenario("map_default", "Pool", "map of 200,000 in chunks", must_ratio=0.95, rivals=MPIRE),
    Scenario("apply_array_8m", "Pool", "8 MiB ndarray there and back", must_ratio=15, rivals=POOLS),
    Scenario("executor_submit", "Executor", "submit().result()", must_ratio=50, rivals=LOKY),
    Scenario("executor_pipelined", "Executor", "submit, 3,000 at once", rivals=LOKY),
    Scenario("executor_map", "Executor", "map", rivals=LOKY),
    Scenario("pool_life", "Life", "create, one task, close, join", rivals=POOLS),
    Scenario("replace_killed", "Life", "worker killed, next task done", must_below=5e-3, rivals=("pebble",)),
    Scenario("million", "A million tasks", "imap_unordered", most_rounds=1),
    Scenario("million_memory", "A million tasks", "… memory at most", unit="B", most_rounds=1),
    *on_files("hash", "SHA-256 of"),
    *on_files("zlib", "zlib.compress"),
    *on_files("parse", "ast.parse"),
)

# In scenarios_coroutines.py.
COROUTINES = (
    Scenario("step", "Steps", "a generator of 1,000 gives way", must_ratio=3),
    Scenario("step_async", "Steps", "… an async def function", must_ratio=1.5),
    Scenario("step_bare", "Steps", "… beside a bare send()"),
    Scenario("life", "Life", "spawned, run, waited for", must_ratio=1),
    Scenario("await_another", "Life", "spawn another and await it", must_ratio=1.5),
    Scenario("sleepers", "Many", "one of 10,000 that sleep", must_ratio=1),
    Scenario("memory:50000", "Many", "50,000 that sleep", unit="B", must_ratio=1, most_rounds=3),
    Scenario(
        "memory:1000000",
        "Many",
        "1,000,000 that sleep",
        unit="B",
        must_ratio=1,
        must_below=3000,  # all of them: 3 GB
        most_rounds=1,
        needs_memory=5 * 10**9,
    ),
)

SERVERS = ("C epoll", "asyncio", "uvloop")


def echo(name: str, title: str, share: float) -> Scenario:
    return Scenario(
        f"echo:{name}",
        "TCP echo",
        title,
        must_share=("C epoll", share),
        most_rounds=5,
        rivals=SERVERS,
    )


# In scenarios_gevent.py and, where servers are up, in scenarios_echo.py.
GEVENT = (
    Scenario("spawn_join", "Greenlets", "spawn and joinall", must_ratio=12),
    Scenario("sleep_zero", "Greenlets", "sleep(0)", must_ratio=10),
    Scenario("sleepers", "Greenlets", "one of 10,000 that sleep", must_ratio=12),
    Scenario("pool_map", "Greenlets", "Pool.map", must_ratio=10),
    Scenario("queue_trip", "Between them", "Queue: there and back", must_ratio=12),
    Scenario("async_result", "Between them", "AsyncResult: set and get", must_ratio=8),
    Scenario("event", "Between them", "Event: set, wait, clear"),
    Scenario("semaphore", "Between them", "Semaphore: handed over"),
    Scenario("timeout", "Between them", "Timeout: entered and left", must_ratio=5),
    Scenario("socketpair_trip", "Sockets", "socketpair: 64 B there and back", must_ratio=3),
    Scenario(
        "sleeping_1000000",
        "Memory",
        "1,000,000 that sleep",
        unit="B",
        must_below=3000,  # all of them: 3 GB
        most_rounds=1,
        needs_memory=14 * 10**9,
    ),
    echo("64:100", "64 B, 100 connections", share=0.88),
    echo("64:1000", "64 B, 1,000 connections", share=0.88),
    echo("16384:100", "16 kB, 100 connections", share=0.8),
    echo("1048576:100", "1 MiB, 100 connections", share=0.9),
    Scenario(
        "company:64:100",
        "In company",
        "64 B, beside a thread's endless loop",
        must_ratio=8,
        most_rounds=5,
    ),
    Scenario(
        "idle:64:100:10000",
        "In company",
        "64 B, with 10,000 idle by without",
        unit="1",
        must_below=1 / 0.9,  # of the rate, under 10 % are lost
        most_rounds=5,
        rivals=("C epoll",),
    ),
    Scenario(
        "heartbeat:100",
        "In company",
        "a 10 ms heartbeat at full load: late",
        must_below=5e-3,
        most_rounds=5,
    ),
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "greenlet",
            face="greenlet",
            replaces="greenlet",
            stock="greenlet",
            packages=("gevent",),
            measured="time per operation, memory per greenlet",
            caption="Time per operation and resident memory per greenlet",
            # Short repeats, and many: the quickest is then one that nothing interrupted.
            seconds=0.03,
            repeats=20,
            scenarios=GREENLET,
        ),
        Suite(
            "multiprocessing",
            face="multiprocessing",
            replaces="multiprocessing",
            stock="CPython",
            packages=("faster-fifo", "loky", "numpy"),
            measured="time per message, queue or process",
            caption="Time per message, queue or process",
            # Several processes are at work, and the scheduler has to find a place for each.
            seconds=0.2,
            repeats=5,
            scenarios=MULTIPROCESSING + LOCKS,
        ),
        Suite(
            "manager",
            face="multiprocessing",
            replaces="the standard library's managers",
            stock="CPython",
            packages=(),
            measured="time per operation",
            caption="Time per operation",
            seconds=0.2,
            repeats=5,
            scenarios=MANAGERS,
        ),
        Suite(
            "coroutines",
            face="multiprocessing",
            replaces="asyncio's tasks",
            stock="CPython",
            packages=(),
            measured="time per step or coroutine, memory per coroutine",
            caption="Time per step or coroutine, and resident memory per coroutine,",
            seconds=0.1,
            repeats=7,
            scenarios=COROUTINES,
        ),
        Suite(
            "pool",
            face="multiprocessing",
            replaces="the standard library's pools",
            stock="CPython",
            packages=("mpire", "loky", "pebble", "numpy"),
            measured="time per task",
            caption="Time per task, with two workers,",
            seconds=0.2,
            repeats=5,
            scenarios=POOL,
        ),
        Suite(
            "gevent",
            face="gevent",
            replaces="gevent",
            stock="gevent",
            packages=SERVERS,
            measured="time per operation or message, memory per greenlet",
            caption="Time per operation or message, and resident memory per greenlet,",
            seconds=0.05,
            repeats=10,
            scenarios=GEVENT,
        ),
    )
}
