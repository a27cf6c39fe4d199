"""What a run shows in the terminal and writes as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

from catalogue import SUITES
from results import Run, grouped, quantity, requirement, times, verdict

Align = Callable[..., str]
LEFT: Align = str.ljust
RIGHT: Align = str.rjust


def rivals(run: Run) -> list[str]:
    """The packages beside the two sides; each has a column."""
    return sorted({name for row in run.rows for name in row.rivals})


def columns(run: Run) -> list[Align]:
    return [LEFT, RIGHT, RIGHT, *(RIGHT for _ in rivals(run)), RIGHT, RIGHT, RIGHT, LEFT]


def heads(run: Run) -> list[str]:
    suite = SUITES[run.suite]
    return [
        "",
        suite.stock_and(run.versions[suite.stock]),
        f"weft {run.versions['weft']}",
        *(f"{name} {run.versions[name]}" for name in rivals(run)),
        "ratio",
        "range",
        "must",
        "",
    ]


def cells(run: Run) -> list[tuple[str, list[list[str]]]]:
    return [
        (
            group,
            [
                [
                    row.title,
                    quantity(row.stock, row.unit),
                    quantity(row.weft, row.unit),
                    *(
                        quantity(row.rivals[name], row.unit) if name in row.rivals else ""
                        for name in rivals(run)
                    ),
                    times(row.ratio),
                    " … ".join(times(ratio) for ratio in row.spread),
                    requirement(row),
                    verdict(row),
                ]
                for row in rows
            ],
        )
        for group, rows in grouped(run.rows)
    ]


def summary(run: Run) -> str:
    verdicts = [row.met for row in run.rows if row.met is not None]
    return f"{sum(verdicts)} of {len(verdicts)} requirements met"


def setting(run: Run) -> list[str]:
    """Where the figures come from, in lines."""
    machine = run.machine
    load = " ".join(f"{value:.2f}" for value in machine["load"])  # type: ignore[attr-defined]
    shown = {"CPython", "weft", SUITES[run.suite].stock, *rivals(run)}
    others = [f"{name} {version}" for name, version in run.versions.items() if name not in shown]
    rounds = max((len(row.rounds) for row in run.rows), default=0)
    subjects = [
        f"{group}: {key} is {', '.join(sorted(found))}"
        for group, rows in grouped(run.rows)
        for key in ("stock", "weft")
        if (found := {row.subjects[key] for row in rows if key in row.subjects})
    ]
    return [
        ", ".join([f"CPython {run.python}", *others]),
        f"{machine['cpu']}, {machine['cores']} cores, {machine['architecture']}",
        f"{machine['kernel']}, {machine['libc']}, transparent huge pages: {machine['huge_pages']}",
        f"{machine['recorded']}, load at the start {load}",
        f"{rounds} rounds in {run.seconds:.0f} s" + (", quick: not for comparison" * run.quick),
        *subjects,
        *servers(run),
    ]


def servers(run: Run) -> list[str]:
    """How busy servers were under load, a line for each group that has them."""
    lines = []
    for group, rows in grouped(run.rows):
        sides = dict.fromkeys(side for row in rows for side in row.busy)
        least = [f"{side} {min(row.busy[side] for row in rows if side in row.busy):.0%}" for side in sides]
        if least:
            named = ", ".join(least).replace("stock", SUITES[run.suite].stock)
            lines.append(f"{group}: the server used, of one processor and at least, {named}")
    return lines


def terminal(run: Run) -> str:
    table = cells(run)
    lines = [heads(run), *(line for _, lines in table for line in lines)]
    aligns = columns(run)
    widths = [max(len(line[column]) for line in lines) for column in range(len(aligns))]
    widths[0] += 2  # rows stand below their group

    def line(texts: list[str]) -> str:
        return "  ".join(
            align(text, width) for align, text, width in zip(aligns, texts, widths, strict=True)
        ).rstrip()

    shown = [*setting(run), "", line(heads(run))]
    for group, rows in table:
        shown += ["", group, *(line(["  " + row[0], *row[1:]]) for row in rows)]
    if any(row.met is not None for row in run.rows):
        shown += ["", summary(run)]
    return "\n".join(shown)


def markdown(run: Run) -> str:
    marks = {LEFT: ":---", RIGHT: "---:"}
    rules = [marks[align] for align in columns(run)]
    lines = [
        f"# {run.suite} and weft on CPython {run.series}",
        "",
        f"Written by `benches/compare/run.py`. {SUITES[run.suite].caption}:",
        "medians of the rounds. The ratio says how many times weft is better, the range beside it",
        "what single rounds gave.",
        "",
        *(f"- {line}" for line in setting(run)),
        "",
        f"![How many times faster than {SUITES[run.suite].replaces}]({run.stem}.svg)",
        "",
        "| " + " | ".join(heads(run)) + " |",
        "| " + " | ".join(rules) + " |",
    ]
    for group, rows in cells(run):
        lines.append(f"| **{group}** |" + " |" * (len(heads(run)) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"{summary(run)}.", ""])


class Progress:
    """One line on a terminal that says what is being measured; silent elsewhere."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._done = 0
        self._stream = stream if stream.isatty() else None

    def step(self, what: str) -> None:
        self._done += 1
        if self._stream is not None:
            self._stream.write(f"\r\x1b[K[{self._done}/{self._total}] {what}")
            self._stream.flush()

    def clear(self) -> None:
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
