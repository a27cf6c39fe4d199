"""Exceptions that several modules raise, as in gevent.exceptions."""

from __future__ import annotations

from weft.greenlet import GreenletExit

__all__ = [
    "BlockingSwitchOutError",
    "ConcurrentObjectUseError",
    "GreenletExit",
    "HubDestroyed",
    "InvalidSwitchError",
    "InvalidThreadUseError",
    "LoopExit",
]


class LoopExit(Exception):
    """Nothing can happen any more that would wake the greenlet which waits.

    The arguments are a message, the hub, and lines that say who waits.
    """

    @property
    def hub(self) -> object:
        """The hub that has nothing left to do; None if it is not known."""
        return self.args[1] if len(self.args) > 1 else None

    def __repr__(self) -> str:
        if len(self.args) != 3:
            return super().__repr__()
        message, hub, details = self.args
        return "\n\t".join([str(message), f"Hub: {hub!r}", "Waiting:", *map(str, details)])

    def __str__(self) -> str:
        return repr(self) if len(self.args) == 3 else super().__str__()


class BlockingSwitchOutError(AssertionError):
    """A blocking function was called in the hub, as from a callback."""


class InvalidSwitchError(AssertionError):
    """A greenlet was switched to by somebody who is not what it waits for."""


class ConcurrentObjectUseError(AssertionError):
    """Two greenlets wait for the same thing where only one may."""


class InvalidThreadUseError(RuntimeError):
    """An object was used in a thread whose hub it does not belong to."""


class HubDestroyed(GreenletExit):
    """Thrown into the greenlets that a hub leaves behind."""

    def __init__(self, destroy_loop: bool) -> None:
        super().__init__(destroy_loop)
        self.destroy_loop = destroy_loop
