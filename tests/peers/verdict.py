"""What the results mean: against the baseline of the stock and the written expectations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from suites import GOOD, HERE, METHODS, SUITES, Installed, Result

EXPECTABLE = ("fail", "error", "skip", "timeout", "crash", "missing", "flaky")
STOCK_TOO = "stock too:"
MISSING = "missing"


class BadExpectations(Exception):
    """An expectations file does not follow its format; the message names file and line."""


@dataclass(frozen=True)
class Expectation:
    test: str
    outcome: str
    reason: str

    def covers(self, outcome: str) -> bool:
        if self.outcome == "flaky":
            return outcome != "crash"
        if self.outcome in ("fail", "error"):
            return outcome in ("fail", "error")
        return outcome == self.outcome


@dataclass(frozen=True)
class Problem:
    what: str
    test: str  # the id of a test or module; empty for the whole run

    def __str__(self) -> str:
        return f"{self.what}: {self.test}" if self.test else self.what


@dataclass
class Verdict:
    passed: int = 0
    skipped: int = 0
    expected: int = 0
    problems: list[Problem] = field(default_factory=list)

    def complain(self, what: str, test: str = "") -> None:
        self.problems.append(Problem(what, test))


def read_expectations(suite: str, version: str, impl: str) -> dict[str, Expectation]:
    """The lines of expectations/SUITE.txt for a Python version.

    For the stock only those count which say that it does not pass there either.
    """
    path = HERE / "expectations" / f"{suite}.txt"
    found: dict[str, Expectation] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [part.strip() for part in line.split(" | ")]
        if len(fields) != 4 or fields[2] not in EXPECTABLE or not fields[3]:
            raise BadExpectations(f"{path.name}:{number}: not `test | versions | outcome | reason`")
        pattern, versions, outcome, reason = fields
        if versions != "*" and version not in [v.strip() for v in versions.split(",")]:
            continue
        for test in _tests_of(pattern, suite, version):
            if test in found:
                raise BadExpectations(f"{path.name}:{number}: a second line for {test} on {version}")
            if impl == "weft" or reason.startswith(STOCK_TOO):
                found[test] = Expectation(test, outcome, reason)
    return found


def _tests_of(pattern: str, suite: str, version: str) -> list[str]:
    """The tests a line is about: a star at the end stands for all endings that the baseline has, at least one."""
    start, star, rest = pattern.rpartition("*")
    if not star or rest:
        return _under_each_method(pattern)
    known = read_baseline(SUITES[suite].baseline or suite, version)
    return sorted(test for test in known if test.startswith(start)) or [pattern]


def _under_each_method(pattern: str) -> list[str]:
    """The tests a line is about: in `mp_*.` and `cf_*.` the star stands for all start methods, and each must hold."""
    wrapper, star, test = pattern.partition("_*.")
    if not star or wrapper not in ("mp", "cf"):
        return [pattern]
    return [f"{wrapper}_{method}.{test}" for method in METHODS]


def baseline_path(suite: str, version: str) -> Path:
    return HERE / "baseline" / f"{suite}-{version}.json"


def read_baseline(suite: str, version: str) -> set[str]:
    path = baseline_path(suite, version)
    return set(json.loads(path.read_text())["passes"]) if path.exists() else set()


def other_peers(suite: str, installed: Installed) -> str | None:
    """How the installed packages differ from those of the baseline, which may explain much."""
    path = baseline_path(suite, installed.version)
    if not path.exists():
        return f"no baseline for {suite} on {installed.version}; only failures are judged"
    recorded = json.loads(path.read_text())["peers"]
    different = [
        f"{name} {installed.peers.get(name)} (baseline {recorded.get(name)})"
        for name in sorted(recorded.keys() | installed.peers.keys())
        if installed.peers.get(name) != recorded.get(name)
    ]
    return "other than in the baseline: " + ", ".join(different) if different else None


def record_baseline(suite: str, installed: Installed, results: dict[str, Result]) -> Path:
    path = baseline_path(suite, installed.version)
    content = {
        "python": installed.python,
        "peers": installed.peers,
        "passes": sorted(r.test for r in results.values() if r.outcome == "pass"),
    }
    path.write_text(json.dumps(content, indent=0) + "\n")
    return path


def judge(
    results: dict[str, Result],
    baseline: set[str],
    expectations: dict[str, Expectation],
    impl: str,
    selected: Callable[[str], bool],
) -> Verdict:
    """Compare the results of the selected tests with what should have come out."""
    verdict = Verdict()
    for result in results.values():
        _judge_one(verdict, result, result.test in baseline, expectations.get(result.test), impl)
    for test in sorted(baseline - results.keys()):
        if selected(test):
            missing = Result(test, MISSING)
            _judge_one(verdict, missing, True, expectations.get(test), impl)
    for test, line in expectations.items():
        if test not in results and test not in baseline and selected(test):
            if line.outcome != "flaky":
                verdict.complain(f"expected {line.outcome} did not occur", test)
    return verdict


def _judge_one(
    verdict: Verdict, result: Result, passes_on_stock: bool, line: Expectation | None, impl: str
) -> None:
    outcome = result.outcome
    if outcome in GOOD:
        if line is None or line.outcome == "flaky":
            verdict.passed += 1
        else:
            verdict.complain(f"unexpected pass (a line expects {line.outcome})", result.test)
    elif line is not None and line.covers(outcome):
        verdict.expected += 1
    elif outcome == "skip" and not passes_on_stock:
        verdict.skipped += 1
    elif impl == "stock" and not passes_on_stock:
        verdict.expected += 1
    else:
        why = "skipped, passes on the stock" if outcome == "skip" else outcome
        verdict.complain(why, result.test)
