"""Starting a process from the template process."""

from __future__ import annotations

from weft.multiprocessing import _payload, _popen, forkserver, popen_spawn_posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft.multiprocessing._stock import AnyProcess

__all__ = ["Popen"]


class _DupFd:
    """A descriptor as its place among those that come with the request."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        """The descriptor, in the child."""
        inherited = forkserver.get_inherited_fds()
        if inherited is None:
            raise RuntimeError("this process was not started from a template")
        return inherited[self.ind]


class Popen(_popen.Popen):
    """A process forked by the template.

    If the template cannot be forked safely, this makes a spawned process instead: see `forkserver`.
    """

    method = "forkserver"
    DupFd = _DupFd

    def __new__(cls, process_obj: AnyProcess) -> _popen.Popen:  # type: ignore[misc]
        if not forkserver._forkserver.is_usable():
            return popen_spawn_posix.Popen(process_obj)
        return super().__new__(cls)

    def __init__(self, process_obj: AnyProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: AnyProcess) -> None:
        content = _payload.dump_all(self, process_obj)
        self._child = forkserver._forkserver.start(content, self._fds)
