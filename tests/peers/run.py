"""Run another project's own test suite, from its installed package, against weft or the stock.

    python tests/peers/run.py greenlet
    python tests/peers/run.py gevent --part --retries 1
    python tests/peers/run.py gevent --impl stock --record
    python tests/peers/run.py multiprocessing --method spawn --classes '*Queue' 'Test*'

See README.md in this folder.
"""

from __future__ import annotations

import argparse
import fnmatch
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import launch
import suites
import verdict as verdicts
from report import Outcome, print_module, print_problems, print_table, write_report
from suites import GOOD, HERE, Installed, ModuleRun, Result, Suite
from verdict import Verdict


@dataclass(frozen=True)
class Options:
    suite: Suite
    impl: str
    pythons: list[str]
    report: Path | None
    only: str | None
    methods: list[str]
    classes: list[str]
    part: bool
    jobs: int
    retries: int
    record: bool

    @property
    def match(self) -> str | None:
        """A pattern from --only for the names of tests inside modules."""
        pattern = self.only.partition("::")[2] if self.only else ""
        return f"*{pattern}*" if pattern else None

    def select(self, modules: list[str]) -> list[str]:
        """The modules --only asks for: the one of that name, else all that contain or match it."""
        if self.methods or self.classes:
            modules = [m for m in modules if self._in_methods_and_classes(m)]
        pattern = self.only.partition("::")[0] if self.only else ""
        if pattern in modules:
            return [pattern]
        return [m for m in modules if pattern in m or fnmatch.fnmatchcase(m, pattern)]

    def _in_methods_and_classes(self, module: str) -> bool:
        wrapper, _, name = module.partition(".")
        return (not self.methods or wrapper.partition("_")[2] in self.methods) and (
            not self.classes or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.classes)
        )


def parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("suite", choices=sorted(suites.SUITES))
    parser.add_argument("--impl", choices=("weft", "stock"), default="weft")
    parser.add_argument(
        "--python",
        action="append",
        dest="pythons",
        metavar="PATH",
        help="interpreter to test (default: this one); may be repeated",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all results as JSON")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="the module PATTERN, or all that contain or match it;\nMODULE::PATTERN selects tests by name",
    )
    parser.add_argument(
        "--method",
        action="append",
        dest="methods",
        default=[],
        choices=suites.METHODS,
        help="of CPython's suites: this start method only; may be repeated",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="of CPython's suites: these classes of tests",
    )
    parser.add_argument(
        "--part", action="store_true", help="the modules listed in part-SUITE.txt, if there is one"
    )
    parser.add_argument("--jobs", type=int, default=2, help="modules at a time (default 2)")
    parser.add_argument(
        "--retries",
        type=int,
        default=0,
        help="run a module with unexpected results again, up to N times; the best outcome counts",
    )
    parser.add_argument("--record", action="store_true", help="with --impl stock: write the baseline")
    given = vars(parser.parse_args(arguments))
    given["suite"] = suites.SUITES[given["suite"]]
    given["pythons"] = given["pythons"] or [sys.executable]
    options = Options(**given)
    selective = options.only or options.methods or options.classes
    if (options.methods or options.classes) and options.suite.path is None:
        parser.error("--method and --classes are for CPython's suites")
    if options.record and options.suite.baseline:
        parser.error(f"{options.suite.name} has the baseline of {options.suite.baseline}")
    if options.record and (options.impl != "stock" or selective or options.part):
        parser.error("--record needs --impl stock and the whole suite")
    return options


def choose_modules(options: Options, installed: Installed) -> list[str]:
    modules = options.select(installed.modules)
    listing = HERE / f"part-{options.suite.name}.txt"
    if options.part and listing.exists():
        lines = (line.partition("#")[0].strip() for line in listing.read_text().splitlines())
        wanted = [line.removesuffix(".py") for line in lines if line]
        if unknown := [w for w in wanted if not fnmatch.filter(installed.modules, w)]:
            raise SystemExit(f"{listing.name} lists modules that are not installed: {unknown}")
        modules = [m for m in modules if any(fnmatch.fnmatchcase(m, w) for w in wanted)]
    if not modules:
        raise SystemExit(f"no module of {options.suite.name} is selected")
    return modules


def run_modules(
    options: Options, installed: Installed, python: str, modules: list[str]
) -> Iterator[ModuleRun]:
    """Run the modules, several at a time, those that want to be alone last."""

    def run_one(module: str) -> ModuleRun:
        return suites.run_module(options.suite, installed, module, python, options.impl, options.match)

    together = [m for m in modules if m not in installed.alone]
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            yield from pool.map(run_one, together)
        except BaseException:  # an interrupt: end what runs, start nothing more
            pool.shutdown(wait=False, cancel_futures=True)
            launch.stop_all()
            raise
    yield from (run_one(m) for m in modules if m in installed.alone)


def merge_attempt(results: dict[str, Result], again: ModuleRun) -> None:
    """Take over from another attempt what is now better; a crash stays a crash."""
    for test, result in again.results.items():
        first = results.get(test)
        better = first is not None and first.outcome not in (*GOOD, "crash")
        if first is None or (better and result.outcome in GOOD):
            result.retried = True
            results[test] = result
    first = results.get(again.module)
    replaced = first is not None and first.outcome not in (*GOOD, "crash")
    if replaced and again.module not in again.results:
        del results[again.module]  # only complaints about a module as a whole have this name


def run_suite(options: Options, python: str) -> Outcome:
    started = time.monotonic()
    installed = suites.describe(options.suite, python)
    print(f"== {options.suite.name}, Python {installed.python}, {options.impl}", flush=True)
    if complaint := suites.guard(options.suite, python, options.impl):
        refused = Verdict()
        refused.complain(f"guard {complaint}")
        return Outcome(installed, {}, [], refused, time.monotonic() - started)

    if not installed.modules:
        print(f"note: CPython {installed.python} was installed without these tests", flush=True)
        return Outcome(installed, {}, [], Verdict(), time.monotonic() - started)
    modules = choose_modules(options, installed)
    baseline = verdicts.read_baseline(options.suite.baseline or options.suite.name, installed.version)
    expectations = verdicts.read_expectations(options.suite.name, installed.version, options.impl)
    if note := verdicts.other_peers(options.suite.baseline or options.suite.name, installed):
        print(f"note: {note}", flush=True)
    runs: list[ModuleRun] = []
    results: dict[str, Result] = {}

    def judge() -> Verdict:
        refused = {run.module for run in runs if run.guard}  # one complaint for these is enough
        selected = selector([m for m in modules if m not in refused], options.match)
        return verdicts.judge(results, baseline, expectations, options.impl, selected)

    for run in run_modules(options, installed, python, modules):
        print_module(run)
        runs.append(run)
        results.update(run.results)
    verdict = judge()
    for _ in range(options.retries):
        suspects = [m for m in modules if has_surprise(m, results, verdict, options.record)]
        if not suspects:
            break
        print(f"-- again: {', '.join(suspects)}", flush=True)
        for run in run_modules(options, installed, python, suspects):
            print_module(run)
            runs.append(run)
            merge_attempt(results, run)
        verdict = judge()
    if options.record:
        print("recorded", verdicts.record_baseline(options.suite.name, installed, results).name)
        baseline = verdicts.read_baseline(options.suite.baseline or options.suite.name, installed.version)
        verdict = judge()
    for run in runs:
        if run.guard:
            verdict.complain(f"guard: {run.guard}", run.module)
    return Outcome(installed, results, runs, verdict, time.monotonic() - started)


def selector(modules: list[str], match: str | None) -> Callable[[str], bool]:
    """Which test ids are part of this run."""
    chosen = set(modules)

    def selected(test: str) -> bool:
        module, _, name = test.partition("::")
        if module not in chosen or match is None:
            return module in chosen
        return fnmatch.fnmatchcase(name, match)

    return selected


def has_surprise(module: str, results: dict[str, Result], verdict: Verdict, record: bool) -> bool:
    """Whether a module is worth another attempt: any failure when recording, else any problem."""
    if record:
        mine = (r for r in results.values() if r.test.partition("::")[0] == module)
        return any(r.outcome not in (*GOOD, "skip") for r in mine)
    return any(p.test.partition("::")[0] == module for p in verdict.problems)


def main() -> int:
    options = parse(sys.argv[1:])
    # A background job of a shell ignores SIGINT, and its children would: some tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # The suites abort processes on purpose.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    outcomes = [run_suite(options, python) for python in options.pythons]
    for outcome in outcomes:
        print_problems(outcome)
    print_table(options.suite.name, options.impl, outcomes)
    if options.report is not None:
        write_report(options.report, options.suite.name, options.impl, outcomes)
    return 1 if any(outcome.verdict.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
