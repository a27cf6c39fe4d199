"""What `weft.Pool` has beyond `multiprocessing.Pool`."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import control_group
import pool_work as work
import pytest
import weft

METHODS = ("template", "spawn", "fork")
QUICK = weft.PoolOptions(grace=0.05)


@pytest.fixture
def fifos(tmp_path: Path) -> tuple[str, str]:
    made = str(tmp_path / "ready"), str(tmp_path / "gate")
    [os.mkfifo(path) for path in made]
    return made


def until_ready(fifo: str) -> int:
    """The process id of whoever holds."""
    return int(Path(fifo).read_text())


def open_gate(fifo: str) -> None:
    with open(fifo, "wb"):
        pass


# -- Time limits


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("deaf", [(), (signal.SIGINT,), (signal.SIGINT, signal.SIGTERM)], ids=str)
def test_a_task_that_takes_too_long_is_stopped(
    fifos: tuple[str, str], method: str, deaf: tuple[int, ...]
) -> None:
    # One that obeys has all the time it needs, however busy the machine is.
    options = QUICK if deaf else weft.PoolOptions(grace=60)
    with weft.Pool(1, context=method, options=options) as pool:
        before = pool.apply(work.pid)
        result = pool.apply_async(work.hold_stubbornly, (fifos[0], deaf), timeout=0.2)
        assert until_ready(fifos[0]) == before
        after = pool.apply_async(work.pid)
        with pytest.raises(
            weft.TaskTimeout, match=r"hold_stubbornly\(\) ran longer than 0.2 seconds in worker"
        ):
            result.get()
        assert isinstance(result_error(result), TimeoutError)
        assert (after.get() == before) is not bool(deaf)


def result_error(result: Any) -> BaseException | None:
    try:
        result.get()
    except BaseException as error:
        return error
    return None


def test_an_interrupted_task_cleans_up(fifos: tuple[str, str], tmp_path: Path) -> None:
    with weft.Pool(1, timeout=0.2) as pool:
        reader = threading.Thread(target=until_ready, args=(fifos[0],))
        reader.start()
        with pytest.raises(weft.TaskTimeout):
            pool.apply(work.hold_and_clean_up, (fifos[0], str(tmp_path / "result")), retries=3)
        reader.join()
        pool.apply(work.pid)  # which is done behind it
        assert (tmp_path / "result").read_text() == "cleaned up"


def test_tasks_that_are_quick_enough_and_that_wait_are_not_stopped() -> None:
    with weft.Pool(1, timeout=0.5) as pool:
        # Together they take longer than one of them may.
        results = [pool.apply_async(work.rests, (0.1,)) for _ in range(8)]
        assert [result.get() for result in results] == [0.1] * 8
        assert pool.map(work.square, range(300), 1) == [n * n for n in range(300)]


def test_many_tasks_that_are_stopped_are_no_reason_to_give_up() -> None:
    with weft.Pool(1, options=weft.PoolOptions(grace=0.01)) as pool:
        for _ in range(15):
            with pytest.raises(weft.TaskTimeout):
                pool.apply(work.rests, (100,), timeout=0.01)
        assert pool.apply(work.square, (3,)) == 9


def test_of_a_map_the_task_that_takes_too_long() -> None:
    with weft.Pool(2) as pool:
        with pytest.raises(weft.TaskTimeout):
            pool.map(work.rests, [0, 0, 100, 0], 1, timeout=0.2)
        results = pool.imap(work.rests, [0, 100, 0], timeout=0.2)
        assert next(results) == 0
        with pytest.raises(weft.TaskTimeout):
            next(results)
        assert next(results) == 0


# -- Cancelling


def test_a_task_that_waits_is_cancelled_and_not_done(fifos: tuple[str, str], tmp_path: Path) -> None:
    done = tmp_path / "done"
    with weft.Pool(1) as pool:
        holds = pool.apply_async(work.hold, fifos)
        until_ready(fifos[0])
        results = [pool.apply_async(work.append, (str(done), str(i))) for i in range(2000)]
        urgent = pool.apply_async(work.append, (str(done), "urgent"), priority=1)
        idle = pool.apply_async(work.append, (str(done), "idle"), priority=-1)
        kept = [results.pop(7), results.pop(1000)]
        assert all(result.cancel() for result in [*results, urgent, idle])
        assert not any(result.cancel() for result in results), "they are resolved"
        open_gate(fifos[1])
        holds.get()
        [result.get() for result in kept]
        for result in [*results, urgent, idle]:
            with pytest.raises(CancelledError):
                result.get()
        assert pool.apply(work.square, (3,), priority=-2) == 9
        assert done.read_text() == "7\n1001\n"
        assert pool.stats().outstanding == pool.stats().queued == 0


def test_a_task_that_runs_is_cancelled(fifos: tuple[str, str], tmp_path: Path) -> None:
    with weft.Pool(1) as pool:
        before = pool.apply(work.pid)
        result = pool.apply_async(work.hold_and_clean_up, (fifos[0], str(tmp_path / "result")))
        until_ready(fifos[0])
        assert result.cancel() and not result.cancel()
        with pytest.raises(CancelledError):
            result.get()
        assert pool.apply(work.pid) == before, "KeyboardInterrupt was enough"
        assert (tmp_path / "result").read_text() == "cleaned up"


def test_a_task_that_does_not_want_to_be_cancelled(fifos: tuple[str, str]) -> None:
    deaf = (signal.SIGINT, signal.SIGTERM)
    with weft.Pool(1, retries=5, options=QUICK) as pool:
        result = pool.apply_async(work.hold_stubbornly, (fifos[0], deaf))
        before = until_ready(fifos[0])
        assert result.cancel()
        assert pool.apply(work.pid) != before
        assert isinstance(result_error(result), CancelledError) and pool.stats().retried == 0


@pytest.mark.parametrize("star", [False, True])
def test_a_map_is_cancelled(fifos: tuple[str, str], tmp_path: Path, star: bool) -> None:
    done = str(tmp_path / "done")
    with weft.Pool(1) as pool:
        holds = pool.apply_async(work.hold, fifos)
        until_ready(fifos[0])
        submit: Any = pool.starmap_async if star else pool.map_async
        task = work.append if star else work.append_to_all
        items: list[Any] = [(done, str(number)) if star else done for number in range(3000)]
        results = [submit(task, items, 1), submit(task, items, 7, priority=1), submit(task, items, 3000)]
        kept = submit(task, items[:1])
        assert all(result.cancel() for result in results) and not any(result.cancel() for result in results)
        for result in results:
            with pytest.raises(CancelledError):
                result.get()
        open_gate(fifos[1])
        holds.get()
        kept.get()
        assert len(Path(done).read_text().splitlines()) == 1
        assert pool.stats().outstanding == 0


def test_a_map_that_runs_is_cancelled(fifos: tuple[str, str], tmp_path: Path) -> None:
    with weft.Pool(1) as pool:
        noted = str(tmp_path / "result")
        result = pool.starmap_async(work.hold_and_clean_up, [(fifos[0], noted)] * 2, 1)
        until_ready(fifos[0])
        assert result.cancel()
        with pytest.raises(CancelledError):
            result.get()
        assert pool.apply(work.square, (3,)) == 9
        assert Path(noted).read_text() == "cleaned up"


def test_cancelling_what_is_done() -> None:
    with weft.Pool(1) as pool:
        result = pool.apply_async(work.square, (3,))
        result.wait()
        assert not result.cancel() and result.get() == 9


# -- Deaths


@pytest.mark.parametrize("method", METHODS)
def test_a_death_is_its_own_tasks(method: str) -> None:
    with weft.Pool(2, context=method) as pool:
        others = [pool.apply_async(work.square, (i,)) for i in range(50)]
        victim = pool.apply_async(work.die)
        others += [pool.apply_async(work.square, (i,)) for i in range(50)]
        with pytest.raises(weft.WorkerDied) as caught:
            victim.get()
        error = caught.value
        assert isinstance(error, BrokenProcessPool)
        assert (error.signal, error.exitcode) == (signal.SIGKILL, -signal.SIGKILL)
        assert error.task == "pool_work.die()"
        assert str(error).startswith(f"worker process {error.pid} died while it did pool_work.die(): ")
        assert [other.get() for other in others] == [i * i for i in range(50)] * 2
        with pytest.raises(weft.WorkerDied, match="exit code 7"):
            pool.apply(work.leave, (7,))
        pool.map(work.rests, [0.01] * 4, 1)
        stats = pool.stats()
        assert (stats.size, stats.workers, stats.died, stats.replaced) == (2, 2, 2, 2)
        assert (stats.done, stats.failed, stats.outstanding) == (104, 2, 0)


def test_retries(tmp_path: Path) -> None:
    with weft.Pool(2, retries=1) as pool:
        assert pool.apply(work.die_at_first, (str(tmp_path / "first"),)) > 0
        for retries, deaths in [(None, 2), (0, 1), (3, 4)]:
            counted = tmp_path / f"{retries}"
            with pytest.raises(weft.WorkerDied) as caught:
                pool.apply(work.die_and_count, (str(counted),), retries=retries)
            assert len(counted.read_text().split()) == deaths == caught.value.attempts
            assert (f", the last of {deaths} attempts: " in str(caught.value)) is (deaths > 1)
            again = pickle.loads(pickle.dumps(caught.value))
            assert (again.attempts, str(again)) == (deaths, str(caught.value))
        many = [str(tmp_path / f"many{i}") for i in range(6)]
        assert all(pool.map(work.die_at_first, many, 1))
        assert all(pool.imap_unordered(work.die_at_first, [f"{path}b" for path in many]))
        assert pool.stats().retried == 1 + 1 + 3 + 6 + 6
        # What a task raises is an answer.
        with pytest.raises(ValueError, match="x"):
            pool.apply(work.fail, ("x",), retries=9)


# -- Priorities


def test_priorities(fifos: tuple[str, str], tmp_path: Path) -> None:
    order = str(tmp_path / "order")
    with weft.Pool(1) as pool:
        holds = pool.apply_async(work.hold, fifos)
        until_ready(fifos[0])
        results = [
            pool.apply_async(work.append, (order, f"{priority}{turn}"), priority=priority)
            for turn in "ab"
            for priority in (0, -5, 1, 7, 3)
        ]
        open_gate(fifos[1])
        [result.get() for result in [holds, *results]]
    seen = Path(order).read_text().split()
    assert sorted(seen) == sorted(f"{p}{t}" for t in "ab" for p in (0, -5, 1, 7, 3))
    urgent = [word for word in seen if not word.startswith(("0", "-"))]
    # The first that came is on its way already; and one that is not urgent may go in between, when the worker is quick.
    assert urgent == ["1a", "7a", "7b", "3a", "3b", "1b"]
    assert [word for word in seen if word.startswith("0")] == ["0a", "0b"]
    assert seen.index("-5b") == len(seen) - 1


def test_tasks_with_a_priority_outlive_workers() -> None:
    """When all that wait before them die, they are put all the same."""
    with weft.Pool(1) as pool:
        victims = [pool.apply_async(work.die) for _ in range(3)]
        others = [pool.apply_async(work.square, (i,), priority=p) for i, p in enumerate((-1, -1, 1, 1))]
        assert [other.get() for other in others] == [0, 1, 4, 9]
        assert all(isinstance(result_error(victim), weft.WorkerDied) for victim in victims)
        late = [pool.apply_async(work.square, (i,), priority=-i) for i in range(20)]
        pool.close()
        pool.join()
        assert [result.get() for result in late] == [i * i for i in range(20)]


# -- Workers that come and go


def test_resize(fifos: tuple[str, str]) -> None:
    with weft.Pool(1) as pool:
        pool.resize(3)
        assert pool.stats().size == 3
        assert len(set(pool.map(work.pid_and_rest, range(12), 1))) == 3
        holds = pool.apply_async(work.hold, fifos)
        busy = until_ready(fifos[0])
        pool.resize(1)
        while pool.stats().workers > 1:
            pass
        open_gate(fifos[1])
        assert holds.get() == busy, "who is at work stays"
        assert set(pool.map(work.pid, range(9), 1)) == {busy}
        with pytest.raises(ValueError, match="at least 1"):
            pool.resize(0)
        assert pool.stats().died == 0


def test_idle_workers_end_and_come_back(fifos: tuple[str, str]) -> None:
    with weft.Pool(3, options=weft.PoolOptions(idle_timeout=0.05)) as pool:
        assert pool.map(work.square, range(9)) == [n * n for n in range(9)]
        for _ in range(3):
            while pool.stats().workers:
                pass
            holds = pool.apply_async(work.hold, fifos)
            until_ready(fifos[0])
            # A worker for each task that waits, though one is there.
            assert pool.apply(work.square, (3,)) == 9
            assert pool.apply(work.square, (3,), priority=1) == 9
            open_gate(fifos[1])
            holds.get()
        assert pool.stats().died == 0


def test_workers_that_grew_are_replaced() -> None:
    limit = 400 << 20
    with weft.Pool(1, options=weft.PoolOptions(memory_limit=limit)) as pool:
        first = pool.apply(work.pid)
        assert pool.apply(work.grow, (1 << 20,)) == first
        assert pool.apply(work.grow, (limit,)) == first
        assert pool.apply(work.pid) != first
        assert pool.stats().died == 0


def test_affinity() -> None:
    mine = sorted(os.sched_getaffinity(0))
    sets = [{mine[0]}, {mine[-1]}]
    with weft.Pool(2, options=weft.PoolOptions(affinity=sets)) as pool:
        seen = pool.map(work.processors_and_rest, range(8), 1)
        assert {tuple(one) for one in seen} == {tuple(one) for one in sets}


def test_state_and_farewell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    monkeypatch.setenv("WEFT_TEST_FAREWELL", str(told))
    options = weft.PoolOptions(worker_state=work.make_state, worker_exit=work.farewell)
    with weft.Pool(2, maxtasksperchild=5, options=options) as pool:
        used = pool.map(work.use_state, range(20), 1)
        pool.close()
        pool.join()
    last = {pid: max(calls for other, calls in used if other == pid) for pid, _ in used}
    assert all(calls <= 5 for calls in last.values())
    heard = dict(map(int, line.split()) for line in told.read_text().splitlines())
    assert last.items() <= heard.items()
    assert weft.worker_state() is None


def test_random_generators_of_workers_differ() -> None:
    pytest.importorskip("numpy").random.seed(1)
    with weft.Pool(3, context="fork") as pool:
        seen = pool.map(work.randoms_and_rest, range(9), 1)
    first: dict[int, tuple[float, float]] = {}
    for one, other, pid in seen:
        first.setdefault(pid, (one, other))
    assert (
        len({one for one, _ in first.values()}) == len({other for _, other in first.values()}) == len(first)
    )


# -- The kernel's reasons

GROUP_LIMIT = 256 << 20
PROGRAM = """
import os, sys
sys.path.insert(0, {place!r})
import pool_work as work
import weft
if __name__ == "__main__":
    open({group!r} + "/cgroup.procs", "w").write(str(os.getpid()))
    with weft.Pool(2, context="fork") as pool:
        try:
            pool.apply(work.grow, ({more},))
        except weft.WorkerDied as error:
            print(error)
        print(pool.map(work.square, range(4)))
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    with control_group.with_memory(GROUP_LIMIT) as group:
        yield group


def test_a_worker_that_the_kernel_killed_for_memory(small_group: Path) -> None:
    program = PROGRAM.format(place=os.path.dirname(__file__), group=str(small_group), more=GROUP_LIMIT * 2)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    died, went_on = ran.stdout.splitlines()
    assert "killed by SIGKILL" in died and "the control group's memory limit was reached" in died
    assert went_on == "[0, 1, 4, 9]"
