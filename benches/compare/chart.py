"""The chart of a run: horizontal bars on a logarithmic scale, as SVG.

The colours are readable on a white and on a dark page; where the viewer says which it is, the
text follows.
"""

from __future__ import annotations

from html import escape
from math import floor, log10

from catalogue import SUITES
from results import Row, Run, grouped, quantity, times

WIDTH = 860
LABELS = 230  # where the bars begin
RIGHT = 190  # room for the figures behind the longest bar
BAR, STEP, HEADING = 14, 23, 34
TOP, BOTTOM = 88, 40

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #6e7781 }
  .title { font-size: 18px; font-weight: 600 }
  .strong { font-weight: 600 }
  .small { font-size: 11.5px }
  .bar { fill: #2f81c7 }
  .slower { fill: #c4682b }
  .grid { stroke: #8c959f; stroke-opacity: .28 }
  .one { stroke: #8c959f; stroke-opacity: .9 }
  @media (prefers-color-scheme: light) {
    text { fill: #59636e }
    .title, .strong, .label { fill: #1f2328 }
  }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .title, .strong, .label { fill: #d1d7e0 }
    .bar { fill: #4a9be0 }
  }
"""


class Scale:
    """Ratios on the page: whole decades, and always the 1."""

    def __init__(self, ratios: list[float]) -> None:
        low = min([1.0, *ratios])
        # Below 1 a part of a decade is enough: the bars to the left are short.
        self.low = 1.0 if low > 0.97 else min(0.5, low * 0.9)
        self.high = max([10.0, *ratios])
        self._unit = (WIDTH - LABELS - RIGHT) / (log10(self.high) - log10(self.low))

    def x(self, ratio: float) -> float:
        return LABELS + self._unit * (log10(max(ratio, self.low)) - log10(self.low))

    def ticks(self) -> list[float]:
        decades = range(floor(log10(self.low)), floor(log10(self.high)) + 1)
        every = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        return [tick for tick in every if self.low <= tick <= self.high]


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    shape = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shape}>{escape(content)}</text>'


def figures(x: float, y: float, row: Row) -> str:
    """The ratio, and behind it what it comes from."""
    values = f"{quantity(row.stock, row.unit)} → {quantity(row.weft, row.unit)}"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}"><tspan class="strong">{times(row.ratio)}</tspan>'
        f'<tspan class="small" dx="8">{escape(values)}</tspan></text>'
    )


def vertical(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="{kind}"/>'


def bar(row: Row, y: float, scale: Scale) -> list[str]:
    start, end = sorted((scale.x(1), scale.x(row.ratio)))
    kind = "bar" if row.ratio >= 0.97 else "slower"
    width = max(end - start, 2)
    middle = y + BAR / 2 + 4.5
    return [
        text(LABELS - 10, middle, row.title, "label", "end"),
        f'<rect x="{start:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2" class="{kind}"/>',
        figures(start + width + 7, middle, row),
    ]


def svg(run: Run) -> str:
    groups = grouped(run.rows)
    height = TOP + HEADING * len(groups) + STEP * len(run.rows) + BOTTOM
    scale = Scale([row.ratio for row in run.rows])
    end = height - BOTTOM + 6
    suite = SUITES[run.suite]
    title = f"Times better than {suite.replaces}"
    beside = f"beside {suite.stock} {run.versions[suite.stock]} on " if suite.stock != "CPython" else "on "
    parts = [
        text(16, 30, title, "title"),
        text(
            16,
            51,
            f"weft {run.versions['weft']} {beside}CPython {run.python}: {suite.measured}; logarithmic scale",
        ),
    ]
    for tick in scale.ticks():
        parts.append(vertical(scale.x(tick), TOP - 6, end, "one" if tick == 1 else "grid"))
        parts.append(text(scale.x(tick), TOP - 12, f"{tick:g}×", "small", "middle"))
    y = float(TOP)
    for group, rows in groups:
        parts.append(text(16, y + HEADING - 12, group, "strong"))
        y += HEADING
        for row in rows:
            parts += bar(row, y, scale)
            y += STEP
    machine = run.machine
    where = f"{machine['cpu']}, {machine['kernel']}, {str(machine['recorded'])[:10]}"
    parts.append(text(16, height - 12, where, "small"))
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"  <title>{title}, CPython {run.series}</title>\n"
        f"  <style>{STYLE}  </style>\n{body}\n</svg>\n"
    )
