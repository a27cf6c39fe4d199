"""What all scripts begin with, in the program and in its children: import it first."""

from __future__ import annotations

import faulthandler
import signal
import sys

SHOW_STACKS = signal.SIGRTMAX  # the watchdog's request, as in arena.py

# Import takes care of spawned children, inheritance of forked ones.
faulthandler.enable()
faulthandler.register(SHOW_STACKS, all_threads=True)


def say(line: str) -> None:
    """Tell the watchdog that the script is getting on."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
