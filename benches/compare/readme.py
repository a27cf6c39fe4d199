"""Puts the recorded figures into README.md, between the markers; the only way they get there.

    python benches/compare/readme.py            # rewrites the block
    python benches/compare/readme.py --check    # fails if README says something else

The figures are those of the files in benches/results: times of the oldest CPython among them,
and the ratio for each.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from catalogue import SUITE
from results import Row, Run, grouped, quantity, times

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benches" / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


class ReadmeError(Exception):
    """The block cannot be made, or there is no place for it."""


def recorded(folder: Path) -> list[Run]:
    """The recorded runs, the oldest CPython first."""
    runs = [Run.load(path) for path in folder.glob(f"{SUITE}-*.json")]
    if not runs:
        raise ReadmeError(f"{folder} has no recorded run; make one with benches/compare/run.py")
    if quick := [run.stem for run in runs if run.quick]:
        raise ReadmeError(f"made with --quick, not for publication: {', '.join(quick)}")
    return sorted(runs, key=lambda run: [int(part) for part in run.series.split(".")])


def block(runs: list[Run]) -> str:
    """What stands between the markers."""
    first = runs[0]
    machine = first.machine
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"
    others = [{row.name: row for row in run.rows} for run in runs[1:]]
    heads = [
        f"greenlet {first.versions['greenlet']}",
        f"weft {first.versions['weft']}",
        *(f"CPython {run.series}" for run in runs),
    ]
    lines = [
        f"![Times better than greenlet](benches/results/{first.stem}.svg)",
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
                *(ratio(one) for one in ratios),
            ]
            lines.append(f"| {row.title} | " + " | ".join(figures) + " |")
    lines += [
        "",
        f"Time per operation and resident memory per greenlet on CPython {first.python}, and how",
        f"many times weft is better ({where}, {str(machine['recorded'])[:10]}).",
        "[What is measured, and how](benches/README.md).",
    ]
    return "\n".join(lines)


def ratio(row: Row | None) -> str:
    return "" if row is None else f"**{times(row.ratio)}**"


def replaced(text: str, content: str) -> str:
    """`text` with `content` between its markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReadmeError(f"README.md needs one {BEGIN} and, below it, one {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


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
        new = replaced(old, block(recorded(options.results)))
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
