"""What a run shows in the terminal and writes as Markdown."""

from __future__ import annotations

import sys
from typing import TextIO

from results import Run, grouped, quantity, requirement, times, verdict

LEFT, RIGHT = str.ljust, str.rjust
COLUMNS = (LEFT, RIGHT, RIGHT, RIGHT, RIGHT, RIGHT, LEFT)


def heads(run: Run) -> list[str]:
    return [
        "",
        f"greenlet {run.versions['greenlet']}",
        f"weft {run.versions['weft']}",
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
    rounds = max((len(row.rounds) for row in run.rows), default=0)
    return [
        f"CPython {run.python}, gevent {run.versions['gevent']}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['architecture']}",
        f"{machine['kernel']}, {machine['libc']}, transparent huge pages: {machine['huge_pages']}",
        f"{machine['recorded']}, load at the start {load}",
        f"{rounds} rounds in {run.seconds:.0f} s" + (", quick: not for comparison" * run.quick),
    ]


def terminal(run: Run) -> str:
    table = cells(run)
    lines = [heads(run), *(line for _, lines in table for line in lines)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    widths[0] += 2  # rows stand below their group

    def line(texts: list[str]) -> str:
        return "  ".join(
            align(text, width) for align, text, width in zip(COLUMNS, texts, widths, strict=True)
        ).rstrip()

    shown = [*setting(run), "", line(heads(run))]
    for group, rows in table:
        shown += ["", group, *(line(["  " + row[0], *row[1:]]) for row in rows)]
    if any(row.met is not None for row in run.rows):
        shown += ["", summary(run)]
    return "\n".join(shown)


def markdown(run: Run) -> str:
    marks = {LEFT: ":---", RIGHT: "---:"}
    rules = [marks[align] for align in COLUMNS]
    lines = [
        f"# greenlet and weft on CPython {run.series}",
        "",
        "Written by `benches/compare/run.py`. Time per operation, resident memory per greenlet:",
        "medians of the rounds. The ratio says how many times weft is better, the range beside it",
        "what single rounds gave.",
        "",
        *(f"- {line}" for line in setting(run)),
        "",
        f"![How many times faster than greenlet]({run.stem}.svg)",
        "",
        "| " + " | ".join(heads(run)) + " |",
        "| " + " | ".join(rules) + " |",
    ]
    for group, rows in cells(run):
        lines.append(f"| **{group}** |" + " |" * (len(COLUMNS) - 1))
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
