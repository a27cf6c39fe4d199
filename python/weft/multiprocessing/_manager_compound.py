"""What a manager's server does in one step that takes several calls, and what its standard methods do for objects that have none.

`update_with`, `add` and `batch` are carried out while nothing else touches a container: those who serve connections, and the threads of
callers, take one lock around their calls of containers, and the serving thread calls nothing directly while it is taken for such an
operation. Of other objects, whose methods may wait, a batch is only one message with several calls.
"""

from __future__ import annotations

import operator
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import managers as _managers
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from weft.multiprocessing import _manager_objects as objects
from weft.multiprocessing._manager_waits import CallerGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["Compound"]


class Compound:
    """The part of a server that carries out several operations as one."""

    # What the rest of the server has.
    desk: Any
    id_to_obj: dict[str, Any]
    fallback_mapping: Any
    carry_out: Any
    _compound: Any
    _leave_alone: Any

    def way_back(self, ident: str, method: str) -> Callable[[Any], None] | None:
        """What puts back what a call takes, if nobody gets it."""
        obj = self.id_to_obj.get(ident, (None,))[0]
        if method == "#BATCH" and type(obj) is objects.Queue:
            return partial(_put_back_all, obj)
        return obj.put_back if self._puts_back(obj, method) else None

    @staticmethod
    def _puts_back(obj: Any, method: str) -> bool:
        return method in objects.TAKING and type(obj) is objects.Queue

    def fall_back(self, ident: str, obj: Any, method: str, args: Any, kwds: Any) -> tuple[str, Any]:
        own = _OPERATIONS.get(method)
        try:
            if own is not None:
                return own(self, ident, obj, *args, **kwds)
            function = self.fallback_mapping[method]
            return "#RETURN", function(self, None, ident, obj, *args, **kwds)
        except Exception:
            return "#TRACEBACK", format_exc()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this lasts, no container is changed by anybody else."""
        with self._compound:
            self.desk.set_exclusive(True)
            try:
                yield
            finally:
                self.desk.set_exclusive(False)

    def _update_with(
        self, ident: str, obj: Any, key: Any, function: Any, args: Any, missing: Any
    ) -> tuple[str, Any]:
        exposed = self.id_to_obj[ident][1]
        setters = {_stock.Value: "set", _stock.Namespace: "__setattr__"}
        if setters.get(type(obj), "__setitem__") not in exposed:
            raise AttributeError(f"{type(obj)!r} object has no value to be updated, or does not expose it")
        with self._alone():
            try:
                if isinstance(obj, _stock.Value):
                    obj.value = result = function(obj.value, *args)
                elif isinstance(obj, _stock.Namespace):
                    before = getattr(obj, key) if not missing else getattr(obj, key, missing[0])
                    result = function(before, *args)
                    setattr(obj, key, result)
                else:
                    before = obj[key] if not missing or key in obj else missing[0]
                    obj[key] = result = function(before, *args)
                    self._leave_alone(ident, obj, "__setitem__", (key, result))
            except Exception as error:
                return "#ERROR", error
        return "#RETURN", result

    def _add(self, ident: str, obj: Any, key: Any, amount: Any, default: Any) -> tuple[str, Any]:
        return self._update_with(ident, obj, key, operator.add, (amount,), (default,))

    def _batch(self, ident: str, obj: Any, calls: list[tuple[str, Any, Any]]) -> tuple[str, Any]:
        """The answer: what the calls returned; the answer of the one that raised, if one did; which results go back to the object
        if nobody gets them."""
        gettypeid = self.id_to_obj[ident][2] or {}
        for method, _, _ in calls:
            if method in gettypeid:
                return "#ERROR", TypeError(
                    f"{method}() returns a shared object, and cannot be put into a batch"
                )
        results: list[Any] = []
        failure, taken = None, []
        # What can wait must not do so with everybody else's containers out of reach.
        with self._alone() if type(obj) in objects.CONTAINERS else nullcontext():
            try:
                for method, args, kwds in calls:
                    kind, result = self.carry_out(None, ident, method, args, kwds)
                    if kind != "#RETURN":
                        failure = kind, result
                        break
                    if self._puts_back(obj, method):
                        taken.append(len(results))
                    results.append(result)
            except CallerGone:
                _put_back_all(obj, (results, None, taken))
                raise
        return "#RETURN", (results, failure, taken)

    def _next(self, ident: str, obj: Any, most: int) -> tuple[str, Any]:
        kind, result = self.carry_out(None, ident, "__next__", (), {})
        return (kind, [result]) if kind == "#RETURN" else (kind, result)


def _put_back_all(obj: objects.Queue, answer: tuple[list[Any], Any, list[int]]) -> None:
    """Put back what a batch took that nobody has got, in its order."""
    results, _, taken = answer
    for index in reversed(taken):
        obj.put_back(results[index])


_OPERATIONS: dict[str, Callable[..., tuple[str, Any]]] = {
    "#UPDATE_WITH": Compound._update_with,
    "#BATCH": Compound._batch,
    "#ADD": Compound._add,
    "#NEXT": Compound._next,
}
