"""Who calls a manager's server: the threads of its clients, as it has them.

One that calls through a lane gets a thread of the server's when it first needs one; one that calls over a connection is
served by a thread from the beginning.
"""

from __future__ import annotations

import threading
from collections import deque
from traceback import format_exc
from typing import Any

from weft import _native
from weft.multiprocessing._manager_waits import Caller, CallerGone, Owner, waiting

__all__ = ["LaneCaller", "RemoteCaller"]


class LaneCaller(Caller):
    """One thread of a client that calls through a lane, and the thread of the server that works for it."""

    def __init__(self, server: Any, lane: int, owner: Owner) -> None:
        super().__init__(owner)
        self.lane = lane
        self._server = server
        self._work: deque[tuple[str, str, Any, Any]] = deque()
        self._bell = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def give(self, ident: str, method: str, args: Any, kwds: Any) -> None:
        """Let the caller's own thread carry out a call, and answer it. `args` may be a call that is still to be unpickled."""
        if self._thread is None:
            name = f"lane {self.lane} of process {self.owner[0]}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._work.append((ident, method, args, kwds))
        self._bell.release()

    def retire(self) -> None:
        """Nobody will call through this lane any more: end the thread, and what it waits for."""
        self.end_wait()
        self._bell.release()

    def _run(self) -> None:
        waiting.caller = self
        while True:
            self._bell.acquire()
            if not self._work:
                return
            ident, method, args, kwds = self._work.popleft()
            back = self._server.way_back(ident, method)
            try:
                if self.gone:
                    # What was not begun is not done: somebody may have been told that its sender died.
                    raise CallerGone
                answer = self._carry_out(ident, method, args, kwds)
            except CallerGone:
                answer = ("#RETURN", None)  # to nobody
                back = None
            except BaseException:
                # A method that raised SystemExit, say. It is the caller's to know, who would wait for ever, and not this thread's end.
                answer = "#TRACEBACK", format_exc()
            del args, kwds
            self._server.desk.answer(self.lane, *answer, back if answer[0] == "#RETURN" else None)
            del answer, back

    def _carry_out(self, ident: str, method: str, args: Any, kwds: Any) -> Any:
        if isinstance(args, _native.ManagerParcel):
            try:
                args, kwds = args.open()
            except Exception:
                return "#TRACEBACK", format_exc()
        if ident:
            return self._server.carry_out(self, ident, method, args, kwds)
        return self._server.answer_function(self, method, args, kwds)


class RemoteCaller(Caller):
    """One thread of a client that calls over a connection."""

    def __init__(self, owner: Owner, connection: Any) -> None:
        super().__init__(owner)
        self.connection = connection
        # Whether it has weft: then it says who it is, and when it ends normally.
        self.has_weft = False
