"""What a run shows and writes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from suites import GOOD, Installed, ModuleRun, Result
from verdict import MISSING, Verdict


@dataclass
class Outcome:
    """Everything one interpreter made of a suite."""

    installed: Installed
    results: dict[str, Result]
    runs: list[ModuleRun]
    verdict: Verdict
    seconds: float


def print_module(run: ModuleRun) -> None:
    passed = sum(r.outcome in GOOD for r in run.results.values())
    others = [r for r in run.results.values() if r.outcome not in (*GOOD, "skip")]
    skipped = len(run.results) - passed - len(others)
    print(f"{run.module:42} {passed:4} passed {skipped:4} skipped {run.seconds:7.1f} s", flush=True)
    for result in others:
        print(f"    {result.outcome}: {result.test}", flush=True)
    for command in run.leftovers:
        print(f"    left behind, killed: {command}", flush=True)
    if run.guard:
        print(f"    guard: {run.guard}", flush=True)


def print_problems(outcome: Outcome) -> None:
    missing: Counter[str] = Counter()
    for problem in outcome.verdict.problems:
        if problem.what == MISSING:
            missing[problem.test.partition("::")[0]] += 1
            continue
        print(f"PROBLEM {outcome.installed.version} {problem}")
        detail = outcome.results.get(problem.test)
        if detail is not None and detail.message:
            print("    " + detail.message.strip().replace("\n", "\n    "))
    for module, count in missing.items():
        print(f"PROBLEM {outcome.installed.version} {module}: {count} tests did not run")


def print_table(suite: str, impl: str, outcomes: list[Outcome]) -> None:
    print(
        f"\n{'suite':19}{'impl':7}{'python':8}{'passed':>8}{'failed':>8}{'skipped':>9}"
        f"{'expected':>10}{'retried':>9}{'left':>6}{'time':>9}"
    )
    for outcome in outcomes:
        v = outcome.verdict
        retried = sum(r.retried for r in outcome.results.values())
        left = sum(len(run.leftovers) for run in outcome.runs)
        print(
            f"{suite:19}{impl:7}{outcome.installed.version:8}{v.passed:8}"
            f"{len(v.problems):8}{v.skipped:9}{v.expected:10}{retried:9}{left:6}"
            f"{outcome.seconds:7.0f} s"
        )
    total = [o.verdict for o in outcomes]
    print(
        f"{sum(v.passed for v in total)} passed, {sum(len(v.problems) for v in total)} failed, "
        f"{sum(v.skipped for v in total)} skipped"
    )


def write_report(path: Path, suite: str, impl: str, outcomes: list[Outcome]) -> None:
    report = [
        {
            "suite": suite,
            "impl": impl,
            "python": outcome.installed.python,
            "peers": outcome.installed.peers,
            "seconds": round(outcome.seconds, 1),
            "verdict": asdict(outcome.verdict),
            "tests": [asdict(result) for result in outcome.results.values()],
            "modules": [
                {
                    "module": r.module,
                    "seconds": round(r.seconds, 1),
                    "leftovers": r.leftovers,
                    "output": r.output,
                }
                for r in outcome.runs
            ],
        }
        for outcome in outcomes
    ]
    path.write_text(json.dumps(report, indent=1) + "\n")
