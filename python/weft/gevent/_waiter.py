"""The meeting of one greenlet with what it waits for."""

from __future__ import annotations

from . import _hub

__all__ = ["Waiter"]


class Waiter(_hub.WaiterBase):
    """A meeting of one greenlet with what it waits for, in either order.

    `get` parks the greenlet that calls it until `switch` or `throw` is called, in the hub. If that came
    first, `get` returns or raises at once.
    """

    __slots__ = ()


class MultipleWaiter(Waiter):
    """The same for many values, each of which one `get` returns, in their order."""

    __slots__ = ("_values",)

    def __init__(self, hub: object = None) -> None:
        super().__init__(hub)
        self._values: list[object] = []

    def switch(self, value: object = None) -> None:
        """Bring one more value."""
        self._values.append(value)
        super().switch(True)

    def get(self) -> object:
        """The next value, waiting for it."""
        if not self._values:
            super().get()
            self.clear()
        return self._values.pop(0)
