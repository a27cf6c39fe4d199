"""How pools end, and fail to begin: nobody waits for what will not come."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import types
from multiprocessing import active_children
from multiprocessing import process as stock_process
from pathlib import Path
from typing import Any

import pool_work as work
import pytest
import weft
import weft.multiprocessing

FORK = weft.multiprocessing.get_context("fork")
METHODS = ("fork", "spawn", "forkserver")


def started() -> int:
    """How many processes this one has ever started, and one more."""
    return next(stock_process._process_counter)  # type: ignore[attr-defined]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("weft-pool")}


@pytest.mark.parametrize("end", ["close", "terminate", "drop"])
def test_nothing_is_left_of_a_pool(end: str) -> None:
    before = None
    for _ in range(8):
        pool = FORK.Pool(2)
        assert pool.apply_async(work.square, (2,), callback=lambda _value: None).get() == 4
        if end == "drop":
            with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
                del pool
                gc.collect()
        else:
            getattr(pool, end)()
            pool.join()
            del pool
        assert not threads()
        before = before or descriptors()
    assert descriptors() == before


def test_a_slow_callback_after_close_starts_nobody() -> None:
    entered, let_go = threading.Event(), threading.Event()

    def callback(_value: int) -> None:
        entered.set()
        let_go.wait()

    pool = FORK.Pool(1)
    before = started()
    pool.apply_async(work.square, (1,), callback=callback)
    pool.close()
    entered.wait()
    for process in list(pool._pool):
        process.join()
    joined = threading.Thread(target=pool.join)
    joined.start()
    joined.join(0.2)
    assert joined.is_alive(), "join waits for callbacks"
    let_go.set()
    joined.join()
    assert started() == before + 1


def test_a_callback_cannot_join_its_pool_and_can_terminate_it() -> None:
    errors: list[BaseException] = []
    done = threading.Event()
    pool = FORK.Pool(1)

    def callback(_value: int) -> None:
        pool.close()
        try:
            pool.join()
        except RuntimeError as error:
            errors.append(error)
        pool.terminate()
        done.set()

    pool.apply_async(work.square, (1,), callback=callback)
    done.wait()
    pool.join()
    assert "cannot join" in str(errors[0])


def test_error_callbacks_of_what_a_pool_leaves_undone(tmp_path: Path) -> None:
    ready, gate = fifos(tmp_path)
    told: list[BaseException] = []
    with FORK.Pool(1) as pool:
        results = [pool.apply_async(work.hold, (ready, gate), error_callback=told.append)]
        Path(ready).read_text()
        results += [pool.apply_async(work.square, (i,), error_callback=told.append) for i in range(100)]
    pool.join()
    for result in results:
        with pytest.raises(weft.PoolTerminated, match=r"before pool_work\.(hold|square)\(\) was done"):
            result.get()
    assert len(told) == 101


def fifos(folder: Path, *names: str) -> list[str]:
    made = [str(folder / name) for name in names or ("ready", "gate")]
    [os.mkfifo(path) for path in made]
    return made


@pytest.mark.parametrize("end", ["terminate", "close"])
def test_threads_that_submit_while_a_pool_ends(end: str) -> None:
    """Each submission is refused, or has an outcome."""
    for _ in range(20):
        pool = FORK.Pool(2)
        pool.apply(work.square, (1,))
        begun = threading.Barrier(4)
        complaints: list[BaseException] = []

        def submit(pool: Any = pool, begun: Any = begun, complaints: Any = complaints) -> None:
            begun.wait()
            try:
                while True:
                    results = [pool.apply_async(work.square, (3,)), pool.map_async(work.square, [3] * 9)]
                    results[0].get()
                    results[1].get()
            except weft.PoolTerminated:
                return
            except ValueError as error:
                if "Pool not running" not in str(error):
                    complaints.append(error)
            except BaseException as error:
                complaints.append(error)

        others = [threading.Thread(target=submit) for _ in range(3)]
        [other.start() for other in others]
        begun.wait()
        getattr(pool, end)()
        [other.join() for other in others]
        pool.join()
        assert not complaints


def test_who_waits_is_told_of_the_termination(tmp_path: Path) -> None:
    ready, gate = fifos(tmp_path)
    pool = FORK.Pool(1)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            pool.apply(work.hold, (ready, gate))
        except BaseException as error:
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    Path(ready).read_text()
    pool.terminate()
    waiting.join()
    assert isinstance(told[0], weft.PoolTerminated)


def test_an_interrupted_submission_leaves_nothing() -> None:
    with FORK.Pool(1) as pool:
        for call in (pool.apply_async, pool.map_async):
            with pytest.raises(KeyboardInterrupt):
                call(work.both, [work.Evil()], callback=print)
        with pytest.raises(KeyboardInterrupt):
            pool.apply(work.both, (work.Evil(),))
        with pytest.raises(KeyboardInterrupt):
            list(pool.imap(work.both, [work.Evil()]))
        assert pool.apply(work.square, (3,)) == 9
        pool.close()
        pool.join()  # which waits for callbacks, too


@pytest.mark.parametrize("initializer", [work.fail_to_begin, work.leave_at_once])
@pytest.mark.parametrize("method", METHODS)
def test_workers_that_never_begin(method: str, initializer: Any) -> None:
    context: Any = weft.multiprocessing.get_context(method)
    with context.Pool(2, initializer) as pool:
        with pytest.raises(weft.WorkerDied, match="does the initializer fail") as caught:
            pool.apply(work.square, (1,))
        said = rf"worker process {caught.value.pid} ended before it was ready for a task: .* workers in a row came no further"
        assert re.match(said, str(caught.value))
        assert (caught.value.task, caught.value.attempts) == ("", 0)
        # It has given up, and says so again.
        for call in (pool.apply_async, pool.map, pool.imap):
            with pytest.raises(weft.WorkerDied, match="does the initializer fail"):
                list(call(work.square, [1]).get() if call == pool.apply_async else call(work.square, [1]))
    pool.join()


def test_deaths_without_a_task_are_no_reason_to_give_up() -> None:
    with FORK.Pool(1) as pool:
        for _ in range(15):
            victim = pool.apply(work.pid)
            os.kill(victim, signal.SIGKILL)
        for _ in range(15):
            with pytest.raises(weft.WorkerDied):
                pool.apply(work.die)
        assert pool.apply(work.square, (3,)) == 9


FORKED = """
import os, sys
import pool_work as work
import weft
import weft.multiprocessing
pool = {make}
assert pool.apply(work.square, (2,)) == 4
result = pool.apply_async(work.rests, (0.2,))
stream = pool.imap(work.square, range(100000))
if (child := os.fork()) == 0:
    seen = []
    for use in (lambda: pool.apply(work.square, (3,)), lambda: next(stream), result.get, result.ready):
        try:
            seen.append(use())
        except RuntimeError as error:
            assert "belongs to process" in str(error), error
            seen.append("refused")
    while len(seen) == 4:  # until the result is there for the one to take that may
        seen += [result.ready()] * (pool._core.outstanding() > 0)
    pool.close()
    pool.terminate()
    print(seen, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert result.get() == 0.2
assert sum(stream) == sum(n * n for n in range(100000))
assert pool.map(work.square, range(50)) == [n * n for n in range(50)]
pool.close()
pool.join()
"""


@pytest.mark.parametrize(
    "make", ["weft.multiprocessing.get_context('fork').Pool(2)", "weft.Pool(2, context='fork')"]
)
def test_a_forked_process_takes_nothing_of_its_parents(make: str) -> None:
    program = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n{FORKED.format(make=make)}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    seen = ran.stdout.strip()
    assert seen.startswith("['refused', ") and "'refused', False, False]" in seen, seen


def test_a_pool_can_make_do_with_few_descriptors() -> None:
    program = """
import os, resource, signal
import pool_work as work
import weft.multiprocessing
if __name__ == "__main__":
    pool = weft.multiprocessing.get_context("fork").Pool(3)
    pids = {pool.apply(work.pid) for _ in range(50)}
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    kept = []
    try:
        while True:
            kept.append(os.open("/", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(5):
        try:
            pool.apply(work.die)
        except weft.WorkerDied:
            pass
        else:
            raise AssertionError
    for descriptor in kept:
        os.close(descriptor)
    assert pool.map(work.square, range(30)) == [n * n for n in range(30)]
    while len(pool._pool) < 3:
        pool.apply(work.square, (1,))
    pool.terminate()
    pool.join()
    print("well")
"""
    place = os.path.dirname(__file__)
    program = f"import sys; sys.path.insert(0, {place!r})\n{program}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout == "well\n", ran.stderr


def test_a_million_tiny_tasks_leave_no_trace() -> None:
    with FORK.Pool(2) as pool:
        pool.map(work.square, range(20000), 1)
        before = resident()
        for _ in range(10):
            pool.map(work.square, range(20000), 1)
            [result.get() for result in [pool.apply_async(work.square, (i,)) for i in range(5000)]]
        assert resident() < before + (48 << 20)


def resident() -> int:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def test_two_threads_wait_while_callbacks_run() -> None:
    """What the service collects wakes whoever waits for it."""
    with FORK.Pool(2) as pool:

        def wait() -> None:
            for number in range(300):
                assert pool.apply(work.square, (number,)) == number * number

        others = [threading.Thread(target=wait) for _ in range(2)]
        [other.start() for other in others]
        told: list[int] = []
        results = [pool.apply_async(work.square, (1,), callback=told.append) for _ in range(600)]
        [result.get() for result in results]
        [other.join() for other in others]
        assert len(told) == 600


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_results_keep_a_pool_that_has_no_name() -> None:
    for make in (FORK.Pool, weft.Pool):
        assert sorted(make(2).imap_unordered(work.square, range(20))) == [n * n for n in range(20)]
        assert list(make(1).imap(work.square, range(5), 2)) == [0, 1, 4, 9, 16]
        assert make(1).apply_async(work.square, (3,)).get() == 9
        assert make(1).map_async(work.square, range(3)).get() == [0, 1, 4]
        assert make(1).apply(work.square, (3,)) == 9
    gc.collect()
    assert not threads()


@pytest.mark.parametrize("size", [0, -1, 481, 10**6])
def test_a_size_that_cannot_be_is_refused_at_once(size: int) -> None:
    before = started()
    with pytest.raises(ValueError, match=r"workers|Number of processes"):
        weft.Pool(size)
    with weft.Pool(1) as pool:
        with pytest.raises(ValueError, match=r"workers|Number of processes"):
            pool.resize(size)
        with pytest.raises(TypeError, match="integer"):
            pool.resize(2.5)  # type: ignore[arg-type]
        assert pool.stats().size == 1
    assert started() == before + 2


@pytest.mark.parametrize(
    ("wishes", "error"),
    [
        ({"retries": -1}, ValueError),
        ({"retries": "1"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": "1"}, TypeError),
    ],
)
def test_wishes_that_make_no_sense(wishes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        weft.Pool(1, **wishes)
    with weft.Pool(1) as pool:
        for call in (pool.apply, pool.apply_async):
            with pytest.raises(error):
                call(work.square, (1,), **wishes)
        for call in (pool.map, pool.map_async, pool.imap):
            with pytest.raises(error):
                call(work.square, [1], **wishes)


@pytest.mark.parametrize("wishes", [{"timeout": 60.0}, {"retries": 1}])
def test_a_time_limit_or_retries_of_a_map_are_for_each_item(wishes: dict[str, Any]) -> None:
    with weft.Pool(2) as pool:
        assert pool.map(work.square, range(40), **wishes) == [n * n for n in range(40)]
        assert pool.stats().done == 40
        assert pool.map(work.square, range(40)) == [n * n for n in range(40)]
        assert pool.stats().done == 48


class Ends:
    """Ends the pool while it is pickled, and cannot be."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def __reduce__(self) -> Any:
        self.pool.terminate()
        raise KeyboardInterrupt


@pytest.mark.parametrize("submit", ["apply_async", "map_async"])
def test_what_ends_while_it_is_put_is_told_once(submit: str) -> None:
    told: list[BaseException] = []
    pool = weft.Pool(1)
    with pytest.raises(KeyboardInterrupt):
        getattr(pool, submit)(work.both, [Ends(pool)], error_callback=told.append)
    pool.join()
    assert [type(error) for error in told] == [weft.PoolTerminated]
    assert not pool._core.is_busy()


def test_who_wants_to_be_told_while_others_are() -> None:
    """No hold on the pool stays behind."""
    told: list[Any] = []
    begun = threading.Event()
    with FORK.Pool(1) as pool:

        def callback(_value: int) -> None:
            begun.wait()
            result._then(told.append)

        result = pool.apply_async(work.square, (3,), callback=callback)
        begun.set()
        assert result.get() == 9
        assert pool._core.wait_idle(60)
        assert told == [result]
        result._then(told.append)
        assert pool._core.wait_idle(60)
        assert told == [result] * 2


class OddModule(types.ModuleType):
    """Gives its names away only after a call of the pool."""

    pool: Any = None

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        if self.pool is not None:
            assert self.pool.apply(work.square, (3,)) == 9
        names: dict[str, Any] = types.ModuleType.__dict__["__dict__"].__get__(self)
        return names


def test_what_runs_while_a_function_is_learnt_may_use_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = OddModule("weft_odd_module")
    exec("def seven():\n    return 7", types.ModuleType.__dict__["__dict__"].__get__(odd))
    monkeypatch.setitem(sys.modules, odd.__name__, odd)
    with FORK.Pool(1) as pool:
        odd.pool = pool
        assert pool.apply(odd.seven) == 7
        odd.pool = None


class NoAttributes:
    """Whatever it is asked for, it raises."""

    def __call__(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_task_that_will_not_be_named_is_no_obstacle(tmp_path: Path) -> None:
    ready, gate = fifos(tmp_path)
    pool = weft.Pool(1, retries=1)
    held = pool.apply_async(work.hold, (ready, gate))
    Path(ready).read_text()
    results = [held, pool.apply_async(NoAttributes()), pool.apply_async(work.square, (3,))]
    pool.terminate()
    for result in results:
        with pytest.raises(weft.PoolTerminated):
            result.get()


def test_no_thread_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "weft-pool-watcher":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = set(active_children())
    with pytest.raises(RuntimeError, match="can't start new thread"):
        weft.Pool(2)
    with weft.Executor(2) as executor, pytest.raises(RuntimeError, match="can't start new thread"):
        executor.submit(work.square, 3)
    assert set(active_children()) == before


class ServesBadly:
    """The core of a pool, which once has no memory for results."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._served = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def __setattr__(self, name: str, value: Any) -> None:
        (super().__setattr__ if name in ("_core", "_served") else self._core.__setattr__)(name, value)

    def serve(self) -> None:
        self._served += 1
        if self._served == 1:
            while not self._core.outstanding():
                pass
            raise MemoryError("on purpose")
        self._core.serve()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_that_fails_leaves_nobody_waiting() -> None:
    told: list[BaseException] = []
    with FORK.Pool(1) as pool:
        pool._crew.core = ServesBadly(pool._crew.core)
        with pytest.raises(MemoryError, match="on purpose"):
            pool.apply_async(work.rests, (100,), error_callback=told.append).get()
        assert [str(error) for error in told] == ["on purpose"]
        with pytest.raises(MemoryError, match="on purpose"):
            pool.apply(work.square, (3,))


UNGUARDED = {
    "own": "import weft\nwith weft.Pool({size}, context={method!r}) as pool: pool.map(abs, [1])",
    "executor": "import weft\nwith weft.Executor({size}, weft.multiprocessing.get_context({method!r})) as executor:\n"
    "    executor.submit(abs, 1).result()",
    "pool": "import weft.multiprocessing as mp\nwith mp.get_context({method!r}).Pool({size}) as pool: pool.map(abs, [1])",
}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", UNGUARDED)
def test_a_forgotten_guard_is_reported_once(tmp_path: Path, kind: str, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED[kind].format(size=4, method=method))
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.count("Traceback") == 1
    said = r"^weft.WorkerDied: worker process \d+ ended before it was ready for a task: it imports the main module, which "
    assert re.search(said + ".* below `if __name__ == '__main__':` only$", ended.stderr, re.MULTILINE)


def test_a_process_without_the_guard_says_so_itself(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import weft\np = weft.Process(target=print)\np.start()\np.join()\nprint(p.exitcode)\n"
    )
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "1\n")
    assert ended.stderr.count("Traceback") == 1
    assert "An attempt has been made to start a new process" in ended.stderr
