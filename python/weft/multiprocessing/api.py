"""`weft.Process`: a process as a new program wants it.

It is a `multiprocessing.process.BaseProcess` like all others, and works with everything that takes one. What is different:

* it starts from the template process unless told otherwise;
* a daemonic process may have children; its own daemonic children end with it, however it ends;
* with the package cloudpickle installed, lambdas, closures and functions of a
  main module that cannot be imported work with every start method.
"""

from __future__ import annotations

import os
from collections import ChainMap
from io import BytesIO
from multiprocessing import process
from multiprocessing.reduction import DupFd, ForkingPickler
from pickle import PicklingError

from weft._native import _process
from weft._sentinel import Signals, sentinel
from weft._unpicklable import INSTALL, UnpicklableError, explained, of_process
from weft.multiprocessing import _payload, context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from weft.multiprocessing._popen import Popen

__all__ = ["Process"]

_METHODS: dict[str, type[context._Process]] = {
    "template": context.ForkServerProcess,
    "forkserver": context.ForkServerProcess,
    "spawn": context.SpawnProcess,
    "fork": context.ForkProcess,
}

_DAEMON = "weft_daemon"

_REMEDY = (
    f"; lambdas, closures and local classes reach a process if the package cloudpickle is there ({INSTALL})"
)


class Process(Signals, process.BaseProcess):
    """An activity that runs in a process of its own; see `multiprocessing.Process`.

    `start_method` is "template" (the default; "forkserver" is the same), "spawn" or "fork". ValueError for another one.
    """

    _sentinel = sentinel

    if TYPE_CHECKING:
        _config: dict[str, Any]
        _popen: object
        _target: object

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        start_method: str = "template",
    ) -> None:
        if group is not None:
            raise ValueError("there are no groups of processes; group must be None")
        if target is not None and not callable(target):
            raise TypeError(f"target must be a callable, not {target!r}")
        if start_method not in _METHODS:
            raise ValueError(f"cannot start by {start_method!r}; the methods are {', '.join(_METHODS)}")
        self._method = start_method
        # The reading end of a lifeline to the daemonic process that starts this daemonic one.
        self._bond: Any = None
        super().__init__(None, target, name, args, kwargs or {}, daemon=daemon)

    @property
    def _start_method(self) -> str | None:
        """What becomes the default in the child."""
        return _METHODS[self._method]._start_method

    @property
    def daemon(self) -> bool:
        """Whether the process ends with the one that started it. Can be set before the start."""
        return bool(self._config.get(_DAEMON, False))

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        # Not under the name that BaseProcess knows, by which it forbids daemonic processes to have children.
        assert self._popen is None, "process has already started"
        self._config[_DAEMON] = daemonic

    def start(self) -> None:
        """Start the process; a daemonic process may do so too."""
        if self.daemon and process.current_process().daemon:
            self._bond = _bond()
        super().start()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._bond is not None:
            state["_bond"] = DupFd(self._bond)
        return state

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        if self._bond is not None:
            bond = self._bond if isinstance(self._bond, int) else self._bond.detach()
            _process.lifeline_also(bond)  # stays open as long as this process
            self._bond = None
        code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc]
        return code

    def _Popen(self, process_obj: process.BaseProcess) -> Popen:
        method: Any = _METHODS[self._method]
        popen: Popen = method._Popen(process_obj)
        return popen

    def _after_fork(self) -> None:
        _METHODS[self._method]._after_fork()

    def _weft_dump(self, file: BytesIO) -> None:
        """Pickle this object, by cloudpickle if code in it has to be."""
        if self._needs_cloudpickle() and self._dumped_by_value(file):
            return
        position = file.tell()
        try:
            ForkingPickler(file, None).dump(self)
        except TypeError as error:
            # No matter of code: cloudpickle would refuse it as well, or, as an open file, make something else of it.
            raise self._refusal(error) from error
        except (PicklingError, AttributeError) as error:
            file.seek(position)
            file.truncate()
            if not self._dumped_by_value(file):
                raise self._refusal(error) from error

    def _dumped_by_value(self, file: BytesIO) -> bool:
        try:
            return _dump_by_value(self, file)
        except (TypeError, PicklingError, AttributeError) as error:
            raise self._refusal(error, _can_be_dumped_by_value) from error

    def _refusal(self, error: Exception, takes: Callable[[object], bool] | None = None) -> UnpicklableError:
        name, part = of_process(self, takes)
        return explained(error, part, "cannot pass {}, to a process", name, _REMEDY, takes)

    def _needs_cloudpickle(self) -> bool:
        """Whether this refers to the main module by name, and children cannot import that."""
        if _payload.main_can_be_imported():
            return False
        named = (self._target, type(self))
        return any(getattr(part, "__module__", None) == "__main__" for part in named)


_bond_ends: tuple[int, int] | None = None


def _bond() -> int:
    """The reading end of a pipe of which this process alone has the writing end: its death ends who is armed on it."""
    global _bond_ends
    if _bond_ends is None:
        _bond_ends = os.pipe()
    return _bond_ends[0]


def _drop_bond() -> None:
    """In a forked child: the bond was its parent's."""
    global _bond_ends
    ends, _bond_ends = _bond_ends, None
    if ends is not None:
        os.close(ends[1])


os.register_at_fork(after_in_child=_drop_bond)


def _can_be_dumped_by_value(obj: object) -> bool:
    try:
        return _dump_by_value(obj, BytesIO())
    except Exception:
        return False


def _dump_by_value(obj: object, file: BytesIO) -> bool:
    """Pickle code by value; False if cloudpickle is not installed."""
    try:
        from cloudpickle import CloudPickler  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return False

    # What multiprocessing and other libraries know to reduce: descriptors, locks, connections, tensors. The pickler
    # looks for it when it is made.
    table = ChainMap(vars(ForkingPickler)["_extra_reducers"], CloudPickler.dispatch_table)
    pickler: Any = type("Pickler", (CloudPickler,), {"dispatch_table": table})
    pickler(file).dump(obj)
    return True
