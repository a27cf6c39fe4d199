"""Puts the recorded figures into README.md, between markers; the only way they get there.

    python benches/compare/readme.py            # rewrites the blocks, one for each suite
    python benches/compare/readme.py --check    # fails if README says something else

The figures are those of the files in benches/results: times of the oldest CPython among them,
and the ratio for each.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from catalogue import SUITES, Suite
from report import rivals
from results import Row, Run, grouped, quantity, times

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benches" / "results"


class ReadmeError(Exception):
    """A block cannot be made, or there is no place for it."""


def markers(suite: Suite) -> tuple[str, str]:
    """What stands before and behind the block of a suite."""
    name = "bench" if suite.name == "greenlet" else f"bench:{suite.name}"
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def recorded(suite: Suite, folder: Path) -> list[Run]:
    """The recorded runs of a suite, the oldest CPython first."""
    runs = [Run.load(path) for path in folder.glob(f"{suite.name}-*.json")]
    if quick := [run.stem for run in runs if run.quick]:
        raise ReadmeError(f"made with --quick, not for publication: {', '.join(quick)}")
    return sorted(runs, key=lambda run: [int(part) for part in run.series.split(".")])


def block(suite: Suite, runs: list[Run]) -> str:
    """What stands between the markers."""
    first = runs[0]
    others_shown = rivals(first)
    machine = first.machine
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"
    others = [{row.name: row for row in run.rows} for run in runs[1:]]
    heads = [
        suite.stock_and(first.versions[suite.stock]),
        f"weft {first.versions['weft']}",
        *(f"{name} {first.versions[name]}" for name in others_shown),
        *(f"CPython {run.series}" for run in runs),
    ]
    lines = [
        f"![Times better than {suite.replaces}](benches/results/{first.stem}.svg)",
        "",
        "| | " + " | ".join(heads) + " |",
        "| :--- |" + " ---: |" * len(heads),
    ]
    for group, rows in grouped(first.rows):
        lines.append(f"| **{group}** |" + " |" * len(heads))
        for row in rows:
            ratios = [row, *(other.get(row.name) for other in others)]
            figures = [
                quantity(row.stock, row.unit),
                quantity(row.weft, row.unit),
                *(
                    quantity(row.rivals[name], row.unit) if name in row.rivals else ""
                    for name in others_shown
                ),
                *(ratio(one) for one in ratios),
            ]
            lines.append(f"| {row.title} | " + " | ".join(figures) + " |")
    lines += [
        "",
        f"{suite.caption} on CPython {first.python}, and how",
        f"many times weft is better ({where}, {str(machine['recorded'])[:10]}).",
        "[What is measured, and how](benches/README.md).",
    ]
    return "\n".join(lines)


def ratio(row: Row | None) -> str:
    return "" if row is None else f"**{times(row.ratio)}**"


def replaced(text: str, suite: Suite, content: str) -> str:
    """`text` with `content` between the markers of a suite."""
    begin, end = markers(suite)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ReadmeError(f"README.md needs one {begin} and, below it, one {end}")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{content}\n{end}{after}"


def has_figures(text: str, suite: Suite) -> bool:
    """Whether something stands between the markers of a suite."""
    begin, end = markers(suite)
    return begin in text and bool(text.split(begin)[1].split(end)[0].strip())


def with_figures(text: str, folder: Path) -> str:
    """`text` with the figures of every suite. One that was never recorded has an empty place, or none."""
    for suite in SUITES.values():
        runs = recorded(suite, folder)
        if runs:
            text = replaced(text, suite, block(suite, runs))
        elif has_figures(text, suite):
            raise ReadmeError(f"{folder} has no run of {suite.name}; make one with benches/compare/run.py")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it would")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args()
    try:
        old = options.readme.read_text()
        new = with_figures(old, options.results)
    except (ReadmeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if old == new:
        print(f"{options.readme.name} has the recorded figures")
        return 0
    if options.check:
        sys.stdout.writelines(
            difflib.unified_diff(
                old.splitlines(keepends=True),
                new.splitlines(keepends=True),
                options.readme.name,
                "recorded",
            )
        )
        print(
            f"error: {options.readme.name} differs from the record; run benches/compare/readme.py",
            file=sys.stderr,
        )
        return 1
    options.readme.write_text(new)
    print(f"{options.readme.name} rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
