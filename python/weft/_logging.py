"""`weft.forward_logging`: what children log reaches the handlers of their parent.

A queue of weft's leads from all children to a thread in the process that asked for it. In a child the handlers that it has
inherited, or made itself when it imported the main module, are replaced by one that puts records into that queue, before
the child's own code runs; its loggers get the levels that they have in the parent. How a child gets to know it: a
forked one by a hook of `multiprocessing.util`; the others find it in the configuration that every process object hands
down to the next one, and install it as it is unpickled, after the main module was imported.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import sys
import threading
from multiprocessing import current_process, util
from typing import TYPE_CHECKING, Any

from weft._queue import Queue

if TYPE_CHECKING:
    from types import TracebackType

    _Levels = tuple[int, dict[str, tuple[int, bool]]]

__all__ = ["LogForwarding", "forward_logging"]

_CONFIG = "weft_logging"  # in the configuration of processes
# Of what is run at exit: after the children have been joined.
_AFTER_CHILDREN = -1000

_DEEPEST = 5  # containers in containers that are looked into
_PLAIN = (str, int, float, bool, type(None))
_STOP = None

_current: LogForwarding | None = None


class _Forwarder:
    """What a child gets: where its records go, and from which levels on."""

    def __init__(self, queue: Queue[Any], levels: _Levels | None = None) -> None:
        self.queue = queue
        self.levels = levels

    def __reduce__(self) -> Any:
        return _arrive, (self.queue, _levels())

    def install(self) -> None:
        """Let all loggers of this process put their records into the queue."""
        root = logging.getLogger()
        handler = _ForwardHandler(self.queue)
        for logger in _loggers():
            if logger.handlers and not logger.propagate:
                logger.handlers[:] = [handler]
            else:
                logger.handlers.clear()
        root.handlers[:] = [handler]
        if self.levels is not None:
            disabled, levels = self.levels
            logging.disable(disabled)
            for name, (level, propagate) in levels.items():
                logger = logging.getLogger(name or None)
                logger.setLevel(level)
                if not propagate:
                    # What it logs goes no further in the parent, but it goes there.
                    logger.propagate = False
                    logger.handlers[:] = [handler]


def _loggers() -> list[logging.Logger]:
    """All that there are, but for the root."""
    known = list(logging.getLogger().manager.loggerDict.values())
    return [logger for logger in known if isinstance(logger, logging.Logger)]


def _levels() -> _Levels:
    """The levels that are not the default, by the loggers' names, and whether a logger's records go on to its parent."""
    root = logging.getLogger()
    levels = {
        logger.name: (logger.level, logger.propagate)
        for logger in _loggers()
        if logger.level != logging.NOTSET or not logger.propagate
    }
    return root.manager.disable, {**levels, "": (root.level, True)}


def _arrive(queue: Queue[Any], levels: _Levels) -> _Forwarder:
    """In a child: install what the parent sent."""
    forwarder = _Forwarder(queue, levels)
    forwarder.install()
    util.register_after_fork(forwarder, _Forwarder.install)
    return forwarder


class _ForwardHandler(logging.Handler):
    """Puts records into a queue. When `emit` returns, the record is there, whatever becomes of this process."""

    def __init__(self, queue: Queue[Any]) -> None:
        super().__init__()
        self.queue = queue

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put(vars(_portable(record)))
        except Exception:
            self.handleError(record)


def _portable(record: logging.LogRecord) -> logging.LogRecord:
    """The record with its message made, the traceback as text, and nothing in it that cannot be pickled."""
    made = copy.copy(record)
    made.msg = made.message = record.getMessage()
    made.args = None
    if record.exc_info and not record.exc_text:
        made.exc_text = logging.Formatter().formatException(record.exc_info)
    made.exc_info = None
    for name, value in list(vars(made).items()):
        # What the program itself added to the record may be anything, also what only this process can make sense of.
        if not _is_plain(value):
            setattr(made, name, repr(value))
    return made


def _is_plain(value: object, depth: int = 0) -> bool:
    """Whether it is made of text and numbers only."""
    if type(value) in _PLAIN:
        return True
    if depth == _DEEPEST:
        return False
    if type(value) is dict:
        return all(_is_plain(part, depth + 1) for item in value.items() for part in item)
    return type(value) in (list, tuple) and all(_is_plain(part, depth + 1) for part in value)  # type: ignore[attr-defined]


class LogForwarding:
    """Children's logging on its way to this process; made by `forward_logging`. A context manager that stops it."""

    def __init__(self, logger: logging.Logger | None) -> None:
        self._logger = logger
        self._queue: Queue[Any] = Queue()
        self._forwarder = _Forwarder(self._queue)
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._stopped = False
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="weft-logging", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (state := self._queue.get()) is not _STOP:
            record = logging.makeLogRecord(state)
            try:
                logger = self._logger or logging.getLogger(None if record.name == "root" else record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            except Exception:
                # A handler's own error is the handler's business, as logging has it; the next record is none of it.
                if logging.raiseExceptions:
                    sys.excepthook(*sys.exc_info())

    def _pause(self) -> None:
        """Let the thread handle what is there, and end."""
        thread = self._thread
        if thread is None or thread is threading.current_thread() or os.getpid() != self._pid:
            return
        self._queue.put(_STOP)
        thread.join()
        self._thread = None

    def _resume(self) -> None:
        if self._thread is None and not self._stopped and os.getpid() == self._pid:
            self._start()

    def stop(self) -> None:
        """Handle all that was logged so far, and end the thread. What children log from now on reaches nobody.

        Calling it again does nothing. It is called at the exit of the program, after its children were joined.
        """
        global _current
        if self._stopped:
            return
        self._stopped = True
        self._pause()
        if _current is self:
            _current = None
            current_process()._config.pop(_CONFIG, None)  # type: ignore[attr-defined]

    def __enter__(self) -> LogForwarding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def forward_logging(logger: logging.Logger | None = None) -> LogForwarding:
    """Let what children log reach the handlers of this process. Returns an object with `stop()`.

    It is for processes made from now on, by whatever start method, and for their children in turn. In them every logger has
    the level that it has here, and a record is put into a queue instead of being handled; a thread here gives
    it to the logger of the same name, or to `logger` if that is given. Loggers here are free to drop it, by
    their levels and filters.

    A record arrives with its message made, a traceback as text (`exc_text`), and everything else in it that is not made of
    text and numbers as its `repr`. Nothing that was logged before a process ended, however it ended, is lost; a process that
    is killed while it logs loses that one record at most.

    The thread is not there while this process forks. Raises RuntimeError if logging is forwarded already.
    """
    global _current
    if _current is not None:
        raise RuntimeError("logging is forwarded already; stop() that first")
    forwarding = _current = LogForwarding(logger)
    forwarder = forwarding._forwarder
    current_process()._config[_CONFIG] = forwarder  # type: ignore[attr-defined]
    util.register_after_fork(forwarder, _Forwarder.install)
    util.Finalize(None, forwarding.stop, exitpriority=_AFTER_CHILDREN)
    # Before logging itself is shut down.
    exit_function: Any = util._exit_function  # type: ignore[attr-defined]
    atexit.unregister(exit_function)
    atexit.register(exit_function)
    return forwarding


def _before_fork() -> None:
    if _current is not None:
        _current._pause()


def _after_fork_in_parent() -> None:
    if _current is not None:
        _current._resume()


def _after_fork_in_child() -> None:
    global _current
    _current = None


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
