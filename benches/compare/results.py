"""A recorded run: the rounds as they were measured, and what follows from them.

The file holds the raw rounds; medians, ratios and verdicts are worked out here, so that every
table and chart that is made of a file says the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median


@dataclass
class Row:
    """One scenario: what it is, what is required, and in each round a value for each side and rival."""

    name: str
    group: str
    title: str
    unit: str
    must_ratio: float | None
    must_below: float | None
    rounds: list[dict[str, float]]
    # What was measured on a side, where the side alone does not say.
    subjects: dict[str, str] = field(default_factory=dict)
    # The share of a processor that a server under load used, by side: the least of the rounds.
    busy: dict[str, float] = field(default_factory=dict)
    # Of a rival's rate, at least so much.
    must_share: tuple[str, float] | None = None

    @property
    def stock(self) -> float:
        return median(values["stock"] for values in self.rounds)

    @property
    def weft(self) -> float:
        return median(values["weft"] for values in self.rounds)

    @property
    def rivals(self) -> dict[str, float]:
        """The values of the other packages, by their names."""
        names = [name for name in self.rounds[0] if name not in ("stock", "weft")]
        return {name: median(values[name] for values in self.rounds) for name in sorted(names)}

    @property
    def ratio(self) -> float:
        """How many times weft is better."""
        return self.stock / self.weft

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest ratio of a single round."""
        ratios = [values["stock"] / values["weft"] for values in self.rounds]
        return min(ratios), max(ratios)

    @property
    def met(self) -> bool | None:
        """Whether the requirement is met; None without one."""
        if self.must_ratio is None and self.must_below is None and self.must_share is None:
            return None
        return (
            (self.must_ratio is None or self.ratio >= self.must_ratio)
            and (self.must_below is None or self.weft < self.must_below)
            and (self.must_share is None or self.share(self.must_share[0]) >= self.must_share[1])
        )

    def share(self, rival: str) -> float:
        """Weft's rate by that of a rival."""
        return self.rivals[rival] / self.weft


@dataclass
class Run:
    suite: str
    python: str  # as in 3.11.9
    versions: dict[str, str]  # of the packages
    machine: dict[str, object]
    quick: bool
    seconds: float  # that it took
    rows: list[Row]

    @property
    def series(self) -> str:
        """As in 3.11."""
        return ".".join(self.python.split(".")[:2])

    @property
    def stem(self) -> str:
        return f"{self.suite}-{self.series}"

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        fields = json.loads(path.read_text())
        fields["rows"] = [Row(**row) for row in fields["rows"]]
        return cls(**fields)


def grouped(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.items())


# -- Figures as they are written


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits, without an exponent, with thousands separated."""
    if value >= 10 ** (digits - 1):
        return f"{round(value):,}"
    decimals = digits - 1
    while decimals and value >= 10 ** (digits - decimals):
        decimals -= 1
    return f"{value:.{decimals}f}"


def quantity(value: float, unit: str) -> str:
    if unit == "B":
        return f"{round(value):,} B"
    if unit == "1":
        return significant(value)
    for name, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{significant(value / size)} {name}"
    return f"{significant(value / 1e-9)} ns"


def times(ratio: float) -> str:
    """A ratio: 7.1×, 280×."""
    return f"{ratio:.2f}×" if ratio < 2 else f"{significant(ratio, 2)}×"


def requirement(row: Row) -> str:
    parts = []
    if row.must_ratio is not None:
        parts.append(f"≥ {row.must_ratio:g}×")
    if row.must_below is not None:
        parts.append(f"< {quantity(row.must_below, row.unit)}")
    if row.must_share is not None:
        rival, share = row.must_share
        parts.append(f"≥ {share:.0%} of {rival} (is {row.share(rival):.0%})")
    return ", ".join(parts)


def verdict(row: Row) -> str:
    return {None: "", True: "met", False: "missed"}[row.met]
