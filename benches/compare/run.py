"""weft beside what it takes the place of, in one run a suite.

    python benches/compare/run.py                    # everything, recorded in benches/results
    python benches/compare/run.py multiprocessing    # one suite
    python benches/compare/run.py --quick            # a rough look, recorded nowhere
    python benches/compare/run.py --only pair --rounds 3

The interpreter that runs this needs weft and all others; weft[bench] names them. See
benches/README.md.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import chart
import machine
import programs
import report
from catalogue import SUITES, Scenario, Suite
from results import Row, Run
from rivals import version_of
from sides import Effort, MeasurementError, measure, sides

RESULTS = Path(__file__).parents[1] / "results"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"{' or '.join(SUITES)} (default: all)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 7; with --quick 3")
    parser.add_argument(
        "--quick", action="store_true", help="short measurements, without what needs much memory"
    )
    parser.add_argument("--large", action="store_true", help="also what takes minutes")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="these scenarios (a pattern; may be repeated)",
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="record there (default: benches/results, and nowhere with --quick or --only)",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    options.suites = options.suites or list(SUITES)
    if options.rounds is None:
        options.rounds = 3 if options.quick else 7
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.output is None and not (options.quick or options.only):
        options.output = RESULTS
    return options


def choose(suite: Suite, options: argparse.Namespace) -> list[Scenario]:
    """The scenarios to run; says on stderr which ones there is no memory for."""
    chosen = []
    for scenario in suite.scenarios:
        if options.only and not any(fnmatchcase(scenario.name, o) for o in options.only):
            continue
        if options.quick and not scenario.in_quick:
            continue
        if scenario.large and not (options.large or scenario.name in (options.only or ())):
            continue
        if scenario.needs_memory > machine.available_memory():
            need = scenario.needs_memory / 1e9
            print(f"left out: {scenario.name} needs {need:.0f} GB of free memory", file=sys.stderr)
            continue
        chosen.append(scenario)
    return chosen


def run_rounds(
    suite: Suite, chosen: list[Scenario], rounds: int, effort: Effort
) -> tuple[list[Row], list[MeasurementError]]:
    """Measure everything once a round, the sides in turn; a scenario that errs is dropped.

    A round visits all scenarios before the next begins: a bad minute of the machine spoils one
    round of each instead of all rounds of one.
    """
    rows = {
        s.name: Row(s.name, s.group, s.title, s.unit, s.must_ratio, s.must_below, [], must_share=s.must_share)
        for s in chosen
    }
    limits = {s.name: min(rounds, s.most_rounds or rounds) for s in chosen}
    columns = {s.name: sides(suite, s) for s in chosen}
    progress = report.Progress(sum(limits[name] * len(columns[name]) for name in columns))
    errors = []
    for number in range(rounds):
        for index, name in enumerate(list(rows)):
            if number >= limits[name]:
                continue
            values = {}
            try:
                order = columns[name] if (number + index) % 2 == 0 else reversed(columns[name])
                for side in order:
                    progress.step(f"round {number + 1} of {rounds}: {name} on {side.package}")
                    measured = measure(side, suite, name, effort)
                    values[side.key] = measured.value
                    if measured.subject is not None:
                        rows[name].subjects[side.key] = measured.subject
                    if measured.busy is not None:
                        least = rows[name].busy.get(side.key, measured.busy)
                        rows[name].busy[side.key] = min(least, measured.busy)
            except MeasurementError as error:
                progress.clear()
                print(f"error: {error}", file=sys.stderr)
                errors.append(error)
                del rows[name]
            else:
                rows[name].rounds.append(values)
    progress.clear()
    return list(rows.values()), errors


def record(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run.save(folder / f"{run.stem}.json")
    (folder / f"{run.stem}.md").write_text(report.markdown(run))
    (folder / f"{run.stem}.svg").write_text(chart.svg(run))
    print(f"\nrecorded in {folder / run.stem}.json, .md and .svg")


def effort_for(suite: Suite, quick: bool) -> Effort:
    if quick:
        return Effort(suite.seconds / 3, max(2, suite.repeats // 2))
    return Effort(suite.seconds, suite.repeats)


def run_suite(suite: Suite, chosen: list[Scenario], options: argparse.Namespace) -> int:
    """Measure and show a suite, and record it if all went well; how many scenarios failed."""
    run = Run(
        suite=suite.name,
        python=platform.python_version(),
        versions={package: version_of(package) for package in (suite.stock, "weft", *suite.packages)},
        machine=machine.describe(),
        quick=options.quick,
        seconds=0,
        rows=[],
    )
    if machine.is_busy():
        print("the machine is busy: expect wide ranges", file=sys.stderr)
    started = time.monotonic()
    run.rows, errors = run_rounds(suite, chosen, options.rounds, effort_for(suite, options.quick))
    run.seconds = round(time.monotonic() - started, 1)
    if run.rows:
        print(report.terminal(run))
    if errors:
        print(f"\nscenarios that failed: {len(errors)}; nothing is recorded", file=sys.stderr)
    elif options.output is not None:
        record(run, options.output)
    return len(errors)


def main() -> int:
    options = parse()
    suites = [SUITES[name] for name in options.suites]
    if options.list:
        for suite in suites:
            width = max(len(scenario.name) for scenario in suite.scenarios)
            print(f"{suite.name}:")
            for scenario in suite.scenarios:
                print(f"  {scenario.name:{width}}  {scenario.group}: {scenario.title}")
        return 0
    chosen = {suite.name: choose(suite, options) for suite in suites}
    if not any(chosen.values()):
        print("no scenario to run; --list shows their names", file=sys.stderr)
        return 2
    with programs.folder():
        failed = sum(run_suite(suite, chosen[suite.name], options) for suite in suites if chosen[suite.name])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
