"""The runner's own tests: python -m unittest discover -s tests/peers"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path
from typing import Any

import launch
import run
import suites
import verdict
from suites import ModuleRun, Result
from verdict import Expectation, Verdict


def judged(outcome: str | None, line: str | None, in_baseline: bool, impl: str = "weft") -> Verdict:
    """The verdict on one test with this outcome (None: it did not run) and expectation."""
    results = {} if outcome is None else {"m::T.t": Result("m::T.t", outcome)}
    lines = {} if line is None else {"m::T.t": Expectation("m::T.t", line, "a reason")}
    baseline = {"m::T.t"} if in_baseline else set()
    return verdict.judge(results, baseline, lines, impl, lambda test: True)


class Judge(unittest.TestCase):
    def counts(self, v: Verdict) -> tuple[int, int, int, int]:
        return v.passed, v.skipped, v.expected, len(v.problems)

    def test_without_a_line(self) -> None:
        self.assertEqual(self.counts(judged("pass", None, True)), (1, 0, 0, 0))
        self.assertEqual(self.counts(judged("skip", None, False)), (0, 1, 0, 0))
        for outcome in ("fail", "error", "crash", "timeout", "skip", None):
            with self.subTest(outcome):
                self.assertEqual(self.counts(judged(outcome, None, True)), (0, 0, 0, 1))
        self.assertEqual(self.counts(judged("fail", None, False)), (0, 0, 0, 1))

    def test_with_a_line(self) -> None:
        for outcome, line in (
            ("fail", "fail"),
            ("error", "fail"),
            ("skip", "skip"),
            ("timeout", "flaky"),
            (None, "missing"),
        ):
            with self.subTest(outcome):
                self.assertEqual(self.counts(judged(outcome, line, True)), (0, 0, 1, 0))
        self.assertEqual(self.counts(judged("pass", "flaky", True)), (1, 0, 0, 0))

    def test_a_line_that_does_not_hold(self) -> None:
        for outcome, line in (
            ("pass", "fail"),
            ("crash", "fail"),
            ("crash", "flaky"),
            ("fail", "skip"),
        ):
            with self.subTest(outcome):
                self.assertEqual(self.counts(judged(outcome, line, True)), (0, 0, 0, 1))
        self.assertEqual(self.counts(judged(None, "timeout", False)), (0, 0, 0, 1))

    def test_stock_may_fail_where_its_baseline_did(self) -> None:
        self.assertEqual(self.counts(judged("fail", None, False, "stock")), (0, 0, 1, 0))
        self.assertEqual(self.counts(judged("fail", None, True, "stock")), (0, 0, 0, 1))


# CPython 3.11.7 and 3.12.1, with which the others were recorded, install without them.
WITHOUT_TESTS = {("concurrent_futures", "3.11"), ("concurrent_futures", "3.12")}


class Files(unittest.TestCase):
    def test_expectations_are_well_formed_and_about_known_modules(self) -> None:
        for suite, what in suites.SUITES.items():
            for version in ("3.11", "3.12", "3.13"):
                with self.subTest(suite=suite, version=version):
                    lines = verdict.read_expectations(suite, version, "weft")
                    passes = verdict.read_baseline(what.baseline or suite, version)
                    self.assertEqual(bool(passes), (suite, version) not in WITHOUT_TESTS)
                    for line in lines.values():
                        stock_too = line.reason.startswith(verdict.STOCK_TOO)
                        if line.outcome != "flaky" and stock_too:
                            self.assertNotIn(line.test, passes)

    def test_a_line_for_all_start_methods_must_hold_for_each(self) -> None:
        tests = verdict._under_each_method("mp_*.TestX::test_y")
        self.assertEqual(tests, [f"mp_{m}.TestX::test_y" for m in ("fork", "spawn", "forkserver")])
        self.assertEqual(verdict._under_each_method("m::T.t"), ["m::T.t"])
        self.assertIn("cf_spawn.TestX::test_y", verdict._under_each_method("cf_*.TestX::test_y"))

    def test_a_line_for_all_endings_is_about_what_the_baseline_has(self) -> None:
        tests = verdict._tests_of("test__core_stat::TestCoreStat.*", "hub", "3.11")
        names = [
            f"test__core_stat::TestCoreStat.test_{name}" for name in ("unlink", "watcher_basics", "write")
        ]
        self.assertEqual(tests, names)
        self.assertEqual(verdict._tests_of("no_such::*", "hub", "3.11"), ["no_such::*"])


class Guard(unittest.TestCase):
    """Of the standard library's own multiprocessing, which is what the runner's interpreter has."""

    def complaint(self, impl: str, code: str = "") -> str:
        program = f"{code}\nimport mp_impl\nprint(mp_impl.wrong_multiprocessing({impl!r}))"
        env = {**os.environ, "PYTHONPATH": str(suites.CPYTHON)}
        ended = subprocess.run(
            [sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True, check=True
        )
        return ended.stdout.strip()

    def test_stock(self) -> None:
        self.assertEqual(self.complaint("stock"), "None")

    def test_weft_in_a_run_of_the_stock(self) -> None:
        self.assertIn("weft is imported", self.complaint("stock", "import sys, os; sys.modules['weft'] = os"))

    def test_a_class_from_elsewhere(self) -> None:
        code = (
            "import multiprocessing.queues as q\nclass Queue(q.Queue):\n  def put(self): 0\nq.Queue = Queue"
        )
        self.assertIn("not the standard library", self.complaint("stock", code))


class Wrappers(unittest.TestCase):
    """Of CPython's tests of concurrent.futures, on whatever the runner's interpreter has installed."""

    def test_every_test_has_one_start_method_or_none(self) -> None:
        program = (
            "import cf_impl\n"
            "for n in ('ProcessPoolForkWaitTest', 'ProcessPoolForkserverWaitTest', 'ProcessPoolSpawnWaitTest',\n"
            "          'FutureTests'): print(cf_impl.method_of(n), end=' ')"
        )
        env = {**os.environ, "PYTHONPATH": str(suites.CPYTHON)}
        ended = subprocess.run(
            [sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True, check=True
        )
        self.assertEqual(ended.stdout.split(), ["fork", "forkserver", "spawn", "common"])

    def test_an_interpreter_without_the_tests_has_an_empty_run(self) -> None:
        installed = suites.Installed("3.11.7", "", [], [], {})
        with (
            unittest.mock.patch.object(suites, "describe", return_value=installed),
            unittest.mock.patch.object(suites, "guard", return_value=None),
        ):
            outcome = run.run_suite(run.parse(["concurrent_futures", "--impl", "stock"]), sys.executable)
        self.assertEqual((outcome.results, outcome.verdict.problems), ({}, []))


class Journal(unittest.TestCase):
    def read(self, events: list[dict[str, Any]], ended: launch.Ended) -> dict[str, str]:
        run = ModuleRun("m")
        suites._read_journal(run, [{"event": "guard", "problem": None}, *events], ended)
        return {test: result.outcome for test, result in run.results.items()}

    def test_death_inside_a_test(self) -> None:
        events: list[dict[str, Any]] = [{"event": "begin"}, {"event": "start", "test": "T.t"}]
        self.assertEqual(self.read(events, launch.Ended(-11, False, 1.0, "")), {"m::T.t": "crash"})
        self.assertEqual(self.read(events, launch.Ended(-6, True, 1.0, "")), {"m::T.t": "timeout"})

    def test_death_after_the_tests(self) -> None:
        passed = {"event": "result", "test": "T.t", "outcome": "pass", "seconds": 0, "message": ""}
        events: list[dict[str, Any]] = [{"event": "begin"}, passed, {"event": "end"}]
        self.assertEqual(self.read(events, launch.Ended(0, False, 1.0, "")), {"m::T.t": "pass"})
        crashed = self.read(events, launch.Ended(-11, False, 1.0, ""))
        self.assertEqual(crashed, {"m::T.t": "pass", "m": "crash"})

    def test_a_script(self) -> None:
        self.assertEqual(self.read([], launch.Ended(0, False, 1.0, "")), {"m": "pass"})
        self.assertEqual(self.read([], launch.Ended(1, False, 1.0, "")), {"m": "error"})


class Launch(unittest.TestCase):
    def run_code(self, code: str, timeout: float) -> launch.Ended:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-X", "faulthandler", "-c", code]
            return launch.run(command, dict(os.environ), Path(folder), timeout)

    def test_leaves_nothing_behind(self) -> None:
        ended = self.run_code(
            "import subprocess, sys\n"
            "for apart in (False, True):\n"
            "    subprocess.Popen(['sleep', '1000'], start_new_session=apart)\n"
            "sys.exit(3)",
            60,
        )
        self.assertEqual((ended.returncode, ended.timed_out), (3, False))
        self.assertEqual(ended.leftovers, ["sleep 1000"] * 2)

    def test_the_watchdog_shows_where_it_hangs(self) -> None:
        ended = self.run_code("import signal\ndef stuck():\n    signal.pause()\nstuck()", 0.5)
        self.assertTrue(ended.timed_out)
        self.assertIn("in stuck", ended.output)

    def test_the_watchdog_shows_all_processes_that_say_what_they_do(self) -> None:
        code = (
            "import faulthandler, os, signal\n"
            "faulthandler.register(signal.SIGRTMAX, all_threads=True)\n"
            "def parent():\n    os.wait()\n"
            "def child():\n    signal.pause()\n"
            "(parent if os.fork() else child)()"
        )
        ended = self.run_code(code, 0.5)
        self.assertTrue(ended.timed_out)
        self.assertIn("in parent", ended.stacks)
        self.assertIn("in child", ended.stacks)


if __name__ == "__main__":
    unittest.main()
