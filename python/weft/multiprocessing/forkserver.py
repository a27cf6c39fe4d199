"""The template process, seen from those who have children started by it.

It is executed on demand, imports the main module and the named preloads once, and forks children from then on
(`_template` is its own side). Its socket is inherited and has no name. A template's child asks the same template
for children of its own; so does a process that was forked off a client.

An import may leave threads, of which a forked child has none. Libraries that stop their threads around a fork (OpenBLAS,
as numpy brings it) do no harm; the template finds that out by forking once. If threads remain, it is given up, children are
spawned, and a RuntimeWarning says why, once.

A template that was killed is noticed at the next start, which executes another one. Children that run then
go on; their exit code reads as 255, as in the standard library.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings

from weft._native import _process
from weft.multiprocessing import _payload
from weft.multiprocessing._running import this_process
from weft.multiprocessing._stock import environ, process, resource_tracker, spawn, util
from weft.multiprocessing.popen_spawn_posix import package_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

__all__ = ["ensure_running", "get_inherited_fds", "set_forkserver_preload"]

# As the standard library: what it sends along counts, too.
MAXFDS_TO_SEND = 256
_OWN_FDS = 4

# How often a request is made again that got no answer: each spare that is being killed may still take one with it.
_ATTEMPTS = 32
# How often another template is executed for it.
_TEMPLATES = 3

_PROGRAM = (
    "import sys; sys.path.insert(0, {path!r}); from weft.multiprocessing._template import main; "
    "del sys.path[0]; main({numbers})"
)

# In front of what the child gets: nothing more to know, or a pickled `Extra` comes first.
PLAIN = b"\0"
WITH_EXTRA = b"\1"


class Extra:
    """What a child has to know only if it is not as in the template."""

    def __init__(self, environ: dict[bytes, bytes | None]) -> None:
        self.environ = environ  # changes; None deletes


class ForkServer:
    """The handle on the template; the standard library's `ForkServer`, as far as others reach into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._lock._at_fork_reinit)  # type: ignore[attr-defined]
        self._preload_modules: list[str] = ["__main__"]
        self._inherited_fds: list[int] | None = None
        self._forkserver_pid: int | None = None
        self._link: _process.Link | None = None
        # The lifeline that the template hangs on: a forked process that is a root of its own has to have another one.
        self._lifeline = 0
        self._environ: dict[bytes, bytes] = {}
        self._unfit_for: list[str] | None = None

    @property
    def _forkserver_address(self) -> None:
        """There is none: the socket has no name."""

    @property
    def _forkserver_alive_fd(self) -> int | None:
        """The clients' end of the template's socket."""
        return None if self._link is None else self._link.fileno()

    # --- what the documentation knows -------------------------------------------------------------------------

    def set_forkserver_preload(self, modules_names: list[str]) -> None:
        """Name the modules that the next template imports; '__main__' is the main module.

        What cannot be imported is left to the children. TypeError unless all are strings.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        self._preload_modules = modules_names

    def get_inherited_fds(self) -> list[int] | None:
        """The descriptors that came with this process; None if no template forked it."""
        return self._inherited_fds

    def ensure_running(self) -> None:
        """Execute a template unless one is there, and wait until it has imported what it should."""
        with self._lock:
            _process.lifeline_ensure()
            resource_tracker.ensure_running()
            if self._link is not None and self._is_ours() and self._link.is_alive():
                return
            self._forget()
            self._execute()

    # --- starting children ------------------------------------------------------------------------------------

    def is_usable(self) -> bool:
        """Whether children can be forked by a template; executes one if there is none."""
        if self._link is None or not self._is_ours():
            if self._unfit_for == self._preload_modules:
                return False
            self.ensure_running()
        return self._link is not None

    def start(self, payload: bytes, fds: Sequence[int]) -> _process.Child:
        """Have a child started that gets these bytes and descriptors, and behind them the resource tracker's.

        The template has none of its own: whoever stops the tracker waits until nobody has its pipe any more.
        """
        if len(fds) + _OWN_FDS >= MAXFDS_TO_SEND:
            raise ValueError("too many fds")
        templates_gone = 0
        for _ in range(_ATTEMPTS):
            if self._link is None:
                self.ensure_running()
            link = self._link
            if link is None:
                break
            extra = self._extra()
            head = PLAIN if extra is None else WITH_EXTRA + pickle.dumps(extra)
            try:
                return link.start(head + payload, [*fds, _tracker()], this_process())
            except _process.NoAnswer:
                continue
            except _process.TemplateGone:
                with self._lock:
                    if self._link is link:
                        self._forget()
                templates_gone += 1
                if templates_gone == _TEMPLATES:
                    break
        raise RuntimeError(
            "the template process, or the process it had ready, ended each time that a child was asked of it; "
            "is there a limit on memory or processes?"
        )

    def _is_ours(self) -> bool:
        return _process.lifeline_role() != "forked" and _process.lifeline_identity() == self._lifeline

    def _extra(self) -> Extra | None:
        present: dict[bytes, bytes] = environ._data
        if present == self._environ:
            return None
        changed: dict[bytes, bytes | None] = {
            name: value for name, value in present.items() if self._environ.get(name) != value
        }
        changed.update((name, None) for name in self._environ if name not in present)
        return Extra(changed)

    # --- the template -----------------------------------------------------------------------------------------

    def _execute(self) -> None:
        # What it prints comes after what was printed before.
        util._flush_std_streams()
        preload = list(self._preload_modules)
        order = _order(preload)
        link, socket, table = _process.Link.create()
        try:
            inherited = [socket, table, _process.lifeline_ensure(), resource_tracker.getfd()]
            executable = spawn.get_executable()
            program = _PROGRAM.format(path=package_root(), numbers=", ".join(map(str, inherited)))
            line = [executable, *util._args_from_interpreter_flags(), "-c", program]
            # It ignores Ctrl-C from its first line on; until then, it must not get one.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                pid: int = util.spawnv_passfds(executable, line, inherited)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        finally:
            os.close(socket)
            os.close(table)
        try:
            link.prepare(pid, pickle.dumps(order))
            ready = pickle.loads(link.wait_ready())
        except _process.TemplateGone:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            raise RuntimeError(
                f"the template process ended with exit code {code} while it imported the main module "
                f"and the preloads {preload}; does one of them end the process?"
            ) from None
        except BaseException:
            _end(pid)
            raise
        if ready.threads:
            _end(pid)
            self._unfit_for = list(self._preload_modules)
            warnings.warn(
                f"importing {_named(preload)} leaves threads that a forked process would not have "
                f"({', '.join(ready.threads)}); children are spawned instead of forked from a template, which takes longer",
                RuntimeWarning,
                stacklevel=_level_of_the_program(),
            )
            return
        self._unfit_for = None
        self._adopt(link, ready.environ)
        self._forkserver_pid = pid

    def _adopt(self, link: _process.Link, environ: dict[bytes, bytes]) -> None:
        """Use this template from now on, whose own environment this is."""
        self._environ = environ
        self._lifeline = _process.lifeline_identity()
        self._link = link

    def _forget(self) -> None:
        """Let go of the template, which is gone or somebody else's."""
        self._link = None
        pid, self._forkserver_pid = self._forkserver_pid, None
        if pid is not None:
            try:
                os.waitpid(pid, 0 if self._is_ours() else os.WNOHANG)
            except ChildProcessError:
                pass  # it was the child of a process that this one was forked off

    def _stop(self) -> None:
        """End the template once nobody but this process uses it, and wait for that. For tests."""
        with self._lock:
            self._stop_unlocked()

    def _stop_unlocked(self) -> None:
        self._forget()


class Order:
    """What a template is told to do first."""

    def __init__(self, data: dict[str, Any], preload: list[str]) -> None:
        self.data = data  # preparation data as a child gets it, without what is a child's own
        self.preload = preload


class Ready:
    """What a template says when it is ready."""

    def __init__(self, environ: dict[bytes, bytes], threads: list[str]) -> None:
        self.environ = environ
        self.threads = threads  # if there are any, it cannot be used


_FOR_A_TEMPLATE = ("sys_path", "sys_argv", "orig_dir", "dir", "init_main_from_name", "init_main_from_path")


def _order(preload: list[str]) -> Order:
    data = _payload.preparation_data("template")
    return Order({name: data[name] for name in _FOR_A_TEMPLATE if name in data}, preload)


def _tracker() -> int:
    """The resource tracker's pipe. A tracker that was killed is replaced by the first who has something to tell it."""
    known: int | None = resource_tracker._resource_tracker._fd
    return resource_tracker.getfd() if known is None else known


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _level_of_the_program() -> int:
    """The `stacklevel` of a warning in the caller that points to the code of the program that started a process."""
    ours = (package_root() + os.sep + "weft" + os.sep, os.path.dirname(process.__file__) + os.sep)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level


def _named(preload: list[str]) -> str:
    return ", ".join("the main module" if name == "__main__" else name for name in preload) or "nothing"


def take_over(stock: ModuleType) -> None:
    """Keep what was said to the standard library's forkserver before it was replaced by this one."""
    before = getattr(stock, "_forkserver", None)
    if before is not None and before is not _forkserver:
        _forkserver._preload_modules = before._preload_modules


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
set_forkserver_preload = _forkserver.set_forkserver_preload
