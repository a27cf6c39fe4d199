"""Being a started process: from the fork to the exit."""

from __future__ import annotations

import atexit
import os
import sys

from weft.multiprocessing._stock import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# Since 3.13, what `_bootstrap` did at the end is left to atexit, which a forked process therefore has to run.
_ATEXIT_RUNS_EXIT_FUNCTION = sys.version_info >= (3, 13)

_parent_descriptor: tuple[int, int] | None = None


def run_and_exit(run: Callable[[], int], say: Callable[[int], None] | None = None) -> NoReturn:
    """End this forked process with the exit code that `run` returns; 1 if it raises, after a traceback.

    `say` is called with it when nothing but the exit is left.
    """
    code = 1
    try:
        if _ATEXIT_RUNS_EXIT_FUNCTION:
            atexit._clear()
            atexit.register(util._exit_function)
        code = run()
    except Exception:
        sys.excepthook(*sys.exc_info())
        util._flush_std_streams()
    finally:
        if _ATEXIT_RUNS_EXIT_FUNCTION:
            atexit._run_exitfuncs()
        if say is not None:
            say(code)
        os._exit(code)


def this_process() -> int:
    """A descriptor that is ready when this process has ended: what its children see it by.

    One for all children. A forked child finds its parent's here, and gets its own.
    """
    global _parent_descriptor
    pid = os.getpid()
    if _parent_descriptor is None or _parent_descriptor[0] != pid:
        _parent_descriptor = pid, os.pidfd_open(pid)
    return _parent_descriptor[1]
