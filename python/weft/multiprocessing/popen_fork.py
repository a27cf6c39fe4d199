"""Starting a process by forking this one."""

from __future__ import annotations

import os
from functools import partial

from weft._native import _process
from weft.multiprocessing import _popen
from weft.multiprocessing._running import run_and_exit, this_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft.multiprocessing._stock import AnyProcess

__all__ = ["Popen"]


class Popen(_popen.Popen):
    """A forked process: it has everything that this one had, and runs on from there."""

    method = "fork"

    def _launch(self, process_obj: AnyProcess) -> None:
        _process.lifeline_ensure()
        parent = this_process()
        self.pid = os.fork()
        if self.pid == 0:
            run_and_exit(partial(_run, process_obj, parent))


def _run(process_obj: AnyProcess, parent: int) -> int:
    _process.lifeline_arm()
    code: int = process_obj._bootstrap(parent_sentinel=parent)
    return code
