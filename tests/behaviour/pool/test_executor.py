"""weft.Executor, and the executor that takes the place of concurrent.futures'."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import tasks
import weft
from weft._executor import Executor
from weft.multiprocessing.futures import ProcessPoolExecutor


def healing(**options: Any) -> Executor:
    return weft.Executor(2, **options)


def breaking(**options: Any) -> Executor:
    return ProcessPoolExecutor(2, **options)


@pytest.fixture(params=[healing, breaking])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with request.param() as made:
        yield made


@pytest.fixture
def own() -> Iterator[Executor]:
    with healing() as made:
        yield made


class Held:
    """Tasks that have begun, one a worker, and stay until they are let go."""

    def __init__(self, executor: Executor, folder: Path, count: int) -> None:
        begun, free = str(folder / "begun"), str(folder / "free")
        os.mkfifo(begun)
        os.mkfifo(free)
        # Open for both, so that nothing is lost between one worker and the next.
        self._free = os.open(free, os.O_RDWR)
        self._count = count
        pipe = os.open(begun, os.O_RDWR)
        self.futures = [executor.submit(tasks.hold, begun, free) for _ in range(count)]
        came = 0
        while came < count:
            came += len(os.read(pipe, count))
        os.close(pipe)

    def let_go(self) -> None:
        os.write(self._free, b"x" * self._count)
        concurrent.futures.wait(self.futures)  # the pipe is there until all have read

    def __del__(self) -> None:
        os.close(self._free)


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_result_and_an_exception(executor: Executor) -> None:
    future = executor.submit(tasks.keyword, 1, fn=2, self=3)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result() == ((1,), {"fn": 2, "self": 3})
    assert future.done() and not future.running() and not future.cancelled() and not future.cancel()
    failed = executor.submit(tasks.refuse, "no")
    with pytest.raises(LookupError, match="no"):
        failed.result()
    error = failed.exception()
    assert type(error) is LookupError
    assert type(error.__cause__) is concurrent.futures.process._RemoteTraceback  # type: ignore[attr-defined]
    assert "in refuse" in str(error.__cause__)


def test_what_is_no_exception_is_sent_too(executor: Executor) -> None:
    with pytest.raises(SystemExit) as caught:
        executor.submit(tasks.leave, 3).result()
    assert caught.value.code == 3
    assert executor.submit(tasks.same, 1).result() == 1


def test_what_cannot_be_sent(executor: Executor) -> None:
    with pytest.raises(TypeError, match="not to be pickled"):
        executor.submit(tasks.same, tasks.Unpicklable()).result()
    with pytest.raises(TypeError, match="not to be pickled"):
        executor.submit(tasks.unpicklable).result()
    assert executor.submit(tasks.same, 1).result() == 1


def test_what_cannot_be_sent_is_refused_at_once(own: Executor, tmp_path: Path) -> None:
    with pytest.raises(weft.UnpicklableError, match="not to be pickled") as caught:
        own.submit(tasks.same, [0, tasks.Unpicklable()])
    assert caught.value.path == "args[0][1]" and isinstance(caught.value, TypeError)
    with pytest.raises(weft.UnpicklableError, match=r"kwds\['self'\]"):
        own.submit(tasks.keyword, self=tasks.Unpicklable())
    held = Held(own, tmp_path, 2)
    with pytest.raises(weft.UnpicklableError):
        own.map(tasks.touch, [str(tmp_path)] * 3, ["one", "two", tasks.Unpicklable()])
    held.let_go()
    assert own.submit(tasks.same, 1).result() == 1
    assert not (tmp_path / "one").exists(), "nobody could ask for it"


def test_what_cannot_be_unpickled_fails_its_task_only(own: Executor) -> None:
    with pytest.raises(LookupError):
        own.submit(tasks.same, tasks.Unreadable()).result()
    with pytest.raises(weft.RemoteError, match="not to be unpickled"):
        own.submit(tasks.unreadable).result()
    assert own.submit(tasks.same, 1).result() == 1


@pytest.mark.parametrize("call", [(tasks.same, tasks.Unreadable()), (tasks.unreadable,)])
def test_what_cannot_be_unpickled_breaks_it(call: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with breaking() as made:
        with pytest.raises(BrokenProcessPool):
            made.submit(*call).result()
        with pytest.raises(BrokenProcessPool):
            made.submit(tasks.same, 1)
    capfd.readouterr()


def test_time_outs(executor: Executor, tmp_path: Path) -> None:
    held = Held(executor, tmp_path, 1)
    for wait in (held.futures[0].result, held.futures[0].exception):
        with pytest.raises(TimeoutError):
            wait(timeout=0)
        with pytest.raises(TimeoutError):
            wait(0.01)
    assert concurrent.futures.wait(held.futures, timeout=0.01).not_done == set(held.futures)
    held.let_go()
    assert held.futures[0].result() > 0


# --- the standard library's functions -----------------------------------------------------------------------------------


def test_wait_and_as_completed(executor: Executor) -> None:
    futures = [executor.submit(tasks.same, number) for number in range(50)]
    assert concurrent.futures.wait(futures) == (set(futures), set())
    assert {future.result() for future in concurrent.futures.as_completed(futures)} == set(range(50))
    failing = [executor.submit(tasks.refuse, "no"), executor.submit(tasks.same, 1)]
    done, _ = concurrent.futures.wait(failing, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert failing[0] in done


def test_callbacks(executor: Executor) -> None:
    called: list[Any] = []
    told = threading.Event()

    def note(future: Any) -> None:
        called.append((future.result(), threading.current_thread()))
        told.set()

    future = executor.submit(tasks.same, 1)
    future.add_done_callback(note)
    assert told.wait(60)
    future.add_done_callback(note)
    assert [value for value, _ in called] == [1, 1]
    assert called[1][1] is threading.current_thread()


def test_asyncio(executor: Executor) -> None:
    async def program() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, tasks.same, number) for number in range(20)]
        return await asyncio.gather(*calls, asyncio.wrap_future(executor.submit(tasks.same, 20)))

    assert asyncio.run(program()) == list(range(21))


def test_a_state_set_from_outside(own: Executor, tmp_path: Path) -> None:
    """As tests do; whoever waits natively sees it, and the task's own outcome is dropped."""
    held = Held(own, tmp_path, 1)
    future = held.futures[0]
    seen: list[Any] = []
    waiter = threading.Thread(target=lambda: seen.append(future.result()))
    waiter.start()
    future.set_result("mine")
    waiter.join()
    assert seen == ["mine"] and future.done() and not future.cancelled()
    held.let_go()
    own.shutdown()
    assert future.result() == "mine"


def test_repr_makes_no_thread(own: Executor) -> None:
    future = own.submit(tasks.same, 1)
    assert "state=" in repr(future)
    future.result()
    assert "finished returned int" in repr(future)
    assert "weft-pool-service" not in {thread.name for thread in threading.enumerate()}


# --- cancelling -----------------------------------------------------------------------------------------------------------


def test_what_was_cancelled_is_not_done(own: Executor, tmp_path: Path) -> None:
    held = Held(own, tmp_path, 2)
    queued = [own.submit(tasks.touch, str(tmp_path), f"task{number}") for number in range(200)]
    assert not any(future.cancel() for future in held.futures)
    assert all(future.running() for future in held.futures) and not queued[0].running()
    assert all(future.cancel() for future in queued[::2]) and all(future.cancel() for future in queued[::2])
    with pytest.raises(concurrent.futures.CancelledError):
        queued[0].result()
    held.let_go()
    own.shutdown()
    done = {path.name for path in tmp_path.glob("task*")}
    assert done == {f"task{number}" for number in range(1, 200, 2)}
    assert all(future.cancelled() == (number % 2 == 0) for number, future in enumerate(queued))


def test_more_are_cancelled_than_can_be_noted(own: Executor, tmp_path: Path) -> None:
    held = Held(own, tmp_path, 2)
    queued = [own.submit(tasks.touch, str(tmp_path), f"task{number}") for number in range(5000)]
    assert all(future.cancel() for future in queued)
    last = own.submit(tasks.same, "last")
    held.let_go()
    assert last.result() == "last"
    assert not list(tmp_path.glob("task*"))


def test_cancelling_tells_who_watches(own: Executor, tmp_path: Path) -> None:
    held = Held(own, tmp_path, 2)
    future = own.submit(tasks.same, 1)
    called: list[Any] = []
    future.add_done_callback(called.append)
    assert future.cancel() and called == [future]
    assert concurrent.futures.wait([future]).done == {future}
    held.let_go()


def test_cancelling_at_the_end(own: Executor, tmp_path: Path) -> None:
    held = Held(own, tmp_path, 2)
    queued = [own.submit(tasks.same, number) for number in range(20)]
    watched = queued[0]
    called: list[Any] = []
    watched.add_done_callback(called.append)
    own.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued) and called == [watched]
    held.let_go()
    assert all(future.result() for future in held.futures)


# --- deaths -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [healing, lambda: breaking(self_healing=True)])
def test_a_death_fails_its_task_only(make: Callable[[], Executor], tmp_path: Path) -> None:
    with make() as made:
        futures = [made.submit(tasks.same, number) for number in range(100)]
        dying = [made.submit(tasks.die) for _ in range(3)]
        futures += [made.submit(tasks.same, number) for number in range(100, 200)]
        assert [future.result() for future in futures] == list(range(200))
        for future in dying:
            error = future.exception()
            assert isinstance(error, weft.WorkerDied) and isinstance(error, BrokenProcessPool)
            assert error.signal == 9 and "tasks.die()" in str(error)


def test_retries(tmp_path: Path) -> None:
    with healing(retries=1) as made:
        assert made.submit(tasks.die_unless, str(tmp_path / "died")).result() == "done"
        with pytest.raises(weft.WorkerDied):
            made.submit(tasks.die).result()


def test_a_death_breaks_it(tmp_path: Path) -> None:
    with breaking() as made:
        held = Held(made, tmp_path, 1)
        queued = [made.submit(tasks.die), made.submit(tasks.same, 1)]
        watched = made.submit(tasks.same, 2)
        told = threading.Event()
        watched.add_done_callback(lambda _: told.set())
        errors = [future.exception() for future in (*held.futures, *queued)]
        assert type(errors[0]) is BrokenProcessPool and type(errors[1]) is BrokenProcessPool
        assert told.wait(60)
        with pytest.raises(BrokenProcessPool):
            made.submit(tasks.same, 1)
    assert made._broken


def test_an_initializer_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with breaking(initializer=tasks.refuse, initargs=("no",)) as made, pytest.raises(BrokenProcessPool):
        made.submit(tasks.same, 1).result()
    with healing(initializer=tasks.refuse, initargs=("no",)) as made, pytest.raises(weft.WorkerDied):
        made.submit(tasks.same, 1).result()
    capfd.readouterr()  # tracebacks of the workers


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
@pytest.mark.parametrize("make", [healing, breaking])
def test_ending_the_workers(make: Callable[[], Executor], how: str, tmp_path: Path) -> None:
    made = make()
    held = Held(made, tmp_path, 2)
    queued = [made.submit(tasks.same, number) for number in range(10)]
    getattr(made, how)()
    expected = BrokenProcessPool if make is breaking else weft.PoolTerminated
    assert all(isinstance(future.exception(), expected) for future in held.futures)
    assert all(future.cancelled() for future in queued)
    with pytest.raises(RuntimeError):
        made.submit(tasks.same, 1)
    made.shutdown()


# --- map ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 5])
def test_map(executor: Executor, chunksize: int, buffersize: int | None) -> None:
    found = executor.map(pow, range(100), range(100), chunksize=chunksize, buffersize=buffersize)
    assert list(found) == list(map(pow, range(100), range(100)))


def test_map_reads_no_further_than_it_is_told(executor: Executor) -> None:
    read = iter(range(10**9))
    results = executor.map(tasks.same, read, buffersize=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert next(read) == 8


def test_map_ends_with_an_exception(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1], [1, 0, 1])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    for wrong in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError):
            executor.map(tasks.same, [1], **wrong)  # type: ignore[arg-type]


# --- the end ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [healing, breaking])
def test_what_was_submitted_is_done_though_nobody_holds_it(make: Callable[[], Executor]) -> None:
    made = make()
    results = made.map(abs, range(-100, 0))
    manager = made._executor_manager_thread
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None and manager is not None
    manager.join()
    assert list(results) == list(range(100, 0, -1))


def test_nothing_stays_of_an_executor(own: Executor) -> None:
    def one() -> weakref.ref[Any]:
        with healing() as made:
            future = made.submit(tasks.same, 1)
            future.add_done_callback(tasks.same)
            assert future.result() == 1
            return weakref.ref(made._crew)

    one()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    crews = [one() for _ in range(5)]
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert [crew() for crew in crews] == [None] * 5


def test_futures_in_cycles_are_collected(own: Executor) -> None:
    future = own.submit(tasks.same, 1)
    future.result()
    future.add_done_callback(tasks.same)
    future._done_callbacks.append(future)
    gone = weakref.ref(future)
    del future
    gc.collect()
    assert gone() is None


def test_a_task_holds_no_object_of_its_method(own: Executor, tmp_path: Path) -> None:
    held = Held(own, tmp_path, 2)
    thing = tasks.Thing()
    gone = weakref.ref(thing)
    future = own.submit(thing.method)
    del thing
    gc.collect()
    assert gone() is None
    held.let_go()
    assert future.result() == 5


def test_shut_down(executor: Executor) -> None:
    executor.submit(tasks.same, 1)
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.same, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(tasks.same, [1])


def test_a_fork_has_no_claim(own: Executor) -> None:
    future = own.submit(tasks.same, 1)
    pid = os.fork()
    if not pid:
        try:
            future.result()
            own.submit(tasks.same, 1)
        except RuntimeError as error:
            os._exit(int("belongs to process" not in str(error)))
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert future.result() == 1


def test_arguments() -> None:
    for wrong in ({"max_workers": 0}, {"max_tasks_per_child": 0}, {"mp_context": "no"}, {"retries": -1}):
        with pytest.raises(ValueError):
            weft.Executor(**wrong)
    for wrong in ({"initializer": 3}, {"max_tasks_per_child": 1.5}, {"retries": 1.5}, {"initargs": 3}):
        with pytest.raises(TypeError):
            weft.Executor(**wrong)


@pytest.mark.parametrize("method", ["template", "spawn", "fork"])
def test_start_methods(method: str) -> None:
    with healing(mp_context=method, max_tasks_per_child=2) as made:
        pids = [made.submit(os.getpid).result() for _ in range(6)]
    assert os.getpid() not in pids and len(set(pids)) >= 3
