"""What all scripts begin with: import it first."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import sys
from pathlib import Path

from weft.greenlet import greenlet

SHOW_STACKS = signal.SIGRTMAX  # the watchdog's request, as in arena.py

faulthandler.enable()
faulthandler.register(SHOW_STACKS, all_threads=True)


def say(line: str) -> None:
    """Tell the watchdog that the script is getting on."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def report(**result: object) -> None:
    """Say what was found."""
    say(json.dumps(result))


def descriptors() -> int:
    """How many descriptors this process has open, but the one that this is found out with."""
    return len(os.listdir("/proc/self/fd")) - 1


def belongings() -> dict[str, int]:
    """What could be more than before: greenlets that have not ended, objects, descriptors, resident kilobytes."""
    gc.collect()
    known = gc.get_objects()
    running = sum(issubclass(type(each), greenlet) and bool(each) for each in known)
    objects = len(known)
    del known
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "greenlets": running,
        "objects": objects,
        "descriptors": descriptors(),
        "resident": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
    }
