"""Being a spawned process: what the command line of `popen_spawn_posix` calls."""

from __future__ import annotations

import os
import sys

from weft._native import _process
from weft.multiprocessing import _payload
from weft.multiprocessing._stock import resource_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(payload: int, parent: int, tracker: int, lifeline: int, go: int) -> NoReturn:
    """Run the process object in `payload` and exit with its code. All are descriptors this process inherited."""
    _process.lifeline_join(lifeline)
    resource_tracker._resource_tracker._fd = tracker
    told = os.read(go, 1)
    os.close(go)
    if not told:
        sys.exit(1)  # whoever started this process was interrupted, and knows nothing of it
    with open(payload, "rb") as file:
        target = _payload.load_all(file)
    sys.exit(_payload.UNGUARDED if target is None else target._bootstrap(parent))
