"""After how many kills a queue stands still, for others' queues: the table of the documentation.

    python tests/faults/processes/hangs.py --runs 9 --kills 300
    python tests/faults/processes/hangs.py --api faster_fifo --kind Queue

Each run has its own seed, and ends at the first kill after which nothing is received for --silence seconds
(or after which a process dies of what it received). Three producers, three consumers, one random victim at a
time, replaced at once; the processes are forked.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import arena

KINDS = {"multiprocessing": ("Queue", "JoinableQueue", "SimpleQueue"), "faster_fifo": ("Queue",)}
VICTIMS = ("consumers", "producers", "both")


@dataclass
class Outcome:
    """How one run ended: `kills` that it stood, and what stopped it."""

    kills: int
    ending: str  # hang, error or finished
    lost: int = 0


def one_run(api: str, kind: str, victims: str, seed: int, kills: int, silence: float) -> Outcome:
    options = ["--api", api, "--kind", kind, "--victims", victims, "--hits", str(kills), "--seed", str(seed)]
    lines = []
    try:
        with arena.Play(arena.STOCK, "storm.py", *options, patience=silence) as play:
            for line in play.lines():
                lines.append(line)
    except arena.Hang:
        return Outcome(hits(lines), "hang")
    if play.returncode or not lines:
        return Outcome(hits(lines), "error")
    result = json.loads(lines[-1])
    return Outcome(hits(lines), "finished", result["lost"])


def hits(lines: list[str]) -> int:
    return sum(line.startswith("hit ") for line in lines)


def row(api: str, kind: str, victims: str, options: argparse.Namespace) -> str:
    outcomes = []
    for number in range(options.runs):
        outcomes.append(one_run(api, kind, victims, options.seed + number, options.kills, options.silence))
    # A run stopped by its n-th kill printed n - 1 lines.
    ended = sorted(o.kills + 1 for o in outcomes if o.ending != "finished")
    stood = len(outcomes) - len(ended)
    every = sorted(ended + [options.kills] * stood)
    middle = f"{median(every):g}" if median(every) < options.kills else f"over {options.kills}"
    span = f"{every[0]} … {every[-1] if not stood else f'over {options.kills}'}"
    errors = sum(o.ending == "error" for o in outcomes)
    lost = max((o.lost for o in outcomes), default=0)
    cells = [api, kind, victims, middle, span, f"{stood} of {len(outcomes)}", str(errors), str(lost or "")]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--api", choices=tuple(KINDS), action="append")
    parser.add_argument("--kind", action="append")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--kills", type=int, default=300, help="at which a run counts as survived")
    parser.add_argument("--silence", type=float, default=5, help="seconds that count as a hang")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = [f"CPython {platform.python_version()}"]
    for api in options.api or ["multiprocessing"]:
        if api != "multiprocessing":
            try:
                names.append(f"{api} {version(api.replace('_', '-'))}")
            except PackageNotFoundError:
                parser.error(f"{api} is not installed")
    print(f"{', '.join(names)}; {options.runs} runs, seeds from {options.seed}\n")
    print(
        "| queue of | class | killed | kills until it stands (median) | range | stood them all | died | lost |"
    )
    print("| :--- | :--- | :--- | ---: | :--- | ---: | ---: | ---: |")
    for api in options.api or ["multiprocessing"]:
        for kind in options.kind or KINDS[api]:
            for victims in VICTIMS:
                print(row(api, kind, victims, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
