"""SIGKILL, SIGSTOP with SIGCONT, and Ctrl-C to pools. See pool_trial.py and scripts/pools.py."""

from __future__ import annotations

import os
import signal

import arena
import pytest
import weft as weft_package
from interruption import interrupt, until_it_sleeps
from pool_trial import PoolTrial
from trial import attempt


@pytest.fixture(autouse=True)
def _has_executor(request: pytest.FixtureRequest) -> None:
    if "executor" in request.node.name and not hasattr(weft_package, "Executor"):
        pytest.skip("weft has no Executor yet")


KILLS = [
    PoolTrial(hits=60),
    PoolTrial(method="forkserver"),
    PoolTrial(method="spawn", hits=10),
    PoolTrial(jobs="single", workers=1, players=1),
    PoolTrial(jobs="map", workers=4),
    PoolTrial(jobs="imap", workers=2, players=3),
    PoolTrial(lifetime=20),
    PoolTrial(api="weft", hits=60),
    PoolTrial(api="weft", retries=2, method="forkserver"),
    PoolTrial(api="executor", hits=60),
    PoolTrial(api="executor", method="forkserver", lifetime=30),
]
STOPS = [
    PoolTrial(signal="STOP", hits=20),
    PoolTrial(signal="STOP", hits=20, workers=1, players=1),
    PoolTrial(signal="STOP", hits=20, lifetime=20),
    PoolTrial(signal="STOP", hits=20, api="futures"),
]
OWN_STOPS = [
    PoolTrial(signal="STOP", hits=20, api="weft", method="forkserver"),
    PoolTrial(signal="STOP", hits=20, api="executor"),
]


@pytest.mark.parametrize("trial", [*KILLS, *STOPS, *OWN_STOPS], ids=str)
def test_each_job_ends_once(trial: PoolTrial, weft: arena.Side, seed: int) -> None:
    report = attempt(trial, seed, weft)
    assert not report.complaints, report


def test_deaths_are_reported(weft: arena.Side, seed: int) -> None:
    """Workers that always have something in hand: most kills cost a job."""
    report = attempt(PoolTrial(jobs="single", workers=2, players=3), seed, weft)
    assert not report.complaints and report.result["died"], report


@pytest.mark.parametrize("trial", STOPS, ids=str)
def test_the_harness_finds_nothing_where_nothing_is_wrong(trial: PoolTrial, seed: int) -> None:
    """The standard library stands being stopped and continued."""
    report = attempt(trial, seed, arena.STOCK)
    assert not report.complaints, report


def test_the_harness_finds_a_hang() -> None:
    """Of the standard library's pool, which never ends the job of a worker that was killed."""
    report = attempt(PoolTrial(jobs="single", hits=1000), 1, arena.STOCK, patience=5)
    (complaint,) = report.complaints
    assert complaint.startswith("hangs: silent") and "in singles" in complaint, complaint


GOOD = {
    "done": 90, "raised": 9, "died": 3, "killed": 5, "wrong": 0, "lost": 0, "uncalled": 0, "strangers": 0,
    "twice": 0, "unsigned": 0, "undescribed": 0, "run_too_often": 0, "missing": 0, "failed": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("trial", "change", "complaints"),
    [
        (PoolTrial(), {}, []),
        (PoolTrial(), {"died": 6}, ["died: 6, not 5"]),
        (PoolTrial(retries=1), {}, ["died: 3, not 2"]),
        (PoolTrial(), {"strangers": 1, "lost": 2}, ["lost: 2, not 0", "strangers: 1, not 0"]),
        (PoolTrial(), {"uncalled": 1}, ["uncalled: 1, not 0"]),
        (PoolTrial(), {"uncalled": -1}, ["callbacks called twice: 1"]),
        (PoolTrial(), {"missing": 1}, ["missing: 1, not 0"]),
    ],
)
def test_the_judgement(trial: PoolTrial, change: dict[str, int], complaints: list[str]) -> None:
    assert trial.judge({**GOOD, **change}) == complaints


# -- Tasks that go wrong

# What the standard library reports; of the rest it never does.
REPORTED_BY_ALL = [
    "argument_has_a_lock",
    "exception_cannot_be_pickled",
    "function_cannot_be_pickled",
    "result_cannot_be_pickled",
    "result_has_a_lock",
    "task_cannot_be_pickled",
]
CASES = [
    *REPORTED_BY_ALL,
    "crash",
    "exception_cannot_be_unpickled",
    "exit",
    "exit_well",
    "exit_while_pickling",
    "exit_while_unpickling",
    "keyboard_interrupt",
    "kill",
    "result_cannot_be_unpickled",
    "system_exit",
    "task_cannot_be_unpickled",
    "terminate",
]


def error_of(side: arena.Side, *options: str) -> None:
    with arena.Play(side, "pool_errors.py", *options) as play:
        lines = list(play.lines())
    assert play.returncode == 0 and lines[-1:] == ["usable"], (lines, play.errors)
    assert not play.left


@pytest.mark.parametrize("api", ["multiprocessing", "weft", "executor"])
@pytest.mark.parametrize("case", CASES)
def test_a_task_that_goes_wrong_says_so(case: str, api: str, weft: arena.Side) -> None:
    error_of(weft, "--case", case, "--api", api)


@pytest.mark.parametrize("case", ["exit", "result_cannot_be_unpickled", "task_cannot_be_unpickled"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_task_that_goes_wrong_in_other_processes(case: str, method: str, weft: arena.Side) -> None:
    error_of(weft, "--case", case, "--method", method)


@pytest.mark.parametrize("case", REPORTED_BY_ALL)
def test_the_error_script_itself(case: str) -> None:
    error_of(arena.STOCK, "--case", case)


# -- The end


@pytest.mark.parametrize("api", ["multiprocessing", "weft"])
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_terminate_under_traffic(method: str, api: str, weft: arena.Side, seed: int) -> None:
    options = ("--end", "terminate", "--method", method, "--api", api, "--seed", seed)
    play, lines = arena.run(weft, "pool_traffic.py", *options)
    assert play.returncode == 0 and lines[-1:] == ["ended 10"], (lines, play.errors)
    assert not play.left


def kill_root(side: arena.Side, line: str, script: str, *options: str) -> arena.Play:
    with arena.Play(side, script, *options) as play:
        play.expect(line)
        play.process.kill()
    assert play.returncode == -signal.SIGKILL
    return play


@pytest.mark.parametrize("idle", [(), ("--idle",)], ids=["", "idle"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("api", ["multiprocessing", "weft", "executor"])
def test_no_worker_outlives_the_program(
    api: str, method: str, idle: tuple[str, ...], weft: arena.Side
) -> None:
    options = ("--end", "root", "--api", api, "--method", method, *idle)
    assert not kill_root(weft, "ready", "pool_traffic.py", *options).left


@pytest.mark.parametrize("work", ["sleep", "spin"])
def test_no_task_outlives_the_program(work: str, weft: arena.Side) -> None:
    assert not kill_root(weft, "blocks", "pool_ctrl_c.py", "--work", work).left


def test_the_harness_finds_workers_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the standard library's pool, in a long task."""
    monkeypatch.setattr(arena, "GRACE", 1.0)
    assert kill_root(arena.STOCK, "blocks", "pool_ctrl_c.py").left.processes


# -- Ctrl-C


def tracebacks_after_ctrl_c(side: arena.Side, *options: str) -> int:
    with arena.Play(side, "pool_ctrl_c.py", *options) as play:
        play.expect("blocks")
        until_it_sleeps(play.process.pid)
        os.killpg(play.process.pid, signal.SIGINT)
    assert play.returncode == -signal.SIGINT, play.errors
    assert not play.left
    return play.errors.count("Traceback (most recent call last)")


@pytest.mark.parametrize("managed", [(), ("--managed",)], ids=["", "managed"])
@pytest.mark.parametrize("work", ["sleep", "spin"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_one_traceback_after_ctrl_c(
    method: str, work: str, managed: tuple[str, ...], weft: arena.Side
) -> None:
    assert tracebacks_after_ctrl_c(weft, "--method", method, "--work", work, *managed) == 1


def test_the_harness_counts_tracebacks() -> None:
    """The standard library's workers print one each, unless the main process ends them before."""
    assert any(tracebacks_after_ctrl_c(arena.STOCK, "--managed") > 1 for _ in range(10))


CALLS = [
    "apply",
    "executor_map",
    "future_result",
    "futures_wait",
    "get",
    "get_timeout",
    "imap",
    "imap_timeout",
    "imap_unordered",
    "join",
    "map",
    "starmap",
    "wait",
]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("call", CALLS)
def test_interrupted(call: str, method: str, weft: arena.Side) -> None:
    interrupt(weft, "interrupt_pools.py", call, method)


@pytest.mark.parametrize("call", CALLS)
def test_the_interrupt_script_itself(call: str) -> None:
    """With the standard library, which can be interrupted everywhere as well."""
    interrupt(arena.STOCK, "interrupt_pools.py", call, "fork")
