"""What a loop, a watcher and a callback have, as interfaces. As gevent._interfaces."""

from __future__ import annotations

from typing import Any

from . import core
from .events import Attribute, Interface, implementer

__all__ = ["ICallback", "ILoop", "IWatcher"]

# Methods of interfaces have no `self`, and say nothing of types.
# mypy: disable-error-code="no-untyped-def, misc"


class ILoop(Interface):
    """What waits, and calls who waits."""

    default: Any = Attribute("Whether it is the main thread's.")
    approx_timer_resolution: Any = Attribute("About how exact timers are, in seconds.")

    def run(nowait=False, once=False):
        """Run until nothing can come any more, or for one turn."""

    def now():
        """The time of the turn, in seconds."""

    def update_now():
        """Read the clock."""

    def destroy():
        """Give everything back."""

    def io(fd, events, ref=True, priority=None):
        """A watcher of a descriptor."""

    def closing_fd(fd):
        """A descriptor is about to be closed."""

    def timer(after, repeat=0.0, ref=True, priority=None):
        """A watcher of the time."""

    def signal(signum, ref=True, priority=None):
        """A watcher of a signal."""

    def idle(ref=True, priority=None):
        """A watcher of turns with nothing else to do."""

    def prepare(ref=True, priority=None):
        """A watcher of turns that begin."""

    def check(ref=True, priority=None):
        """A watcher of turns that end."""

    def fork(ref=True, priority=None):
        """A watcher of forks, told in the child."""

    def async_(ref=True, priority=None):
        """A watcher that other threads have called."""

    def child(pid, trace=0, ref=True):
        """A watcher of the end of a child."""

    def stat(path, interval=0.0, ref=True, priority=None):
        """A watcher of a file."""

    def run_callback(func, *args):
        """Have a function called soon."""

    def run_callback_threadsafe(func, *args):
        """The same, from any thread."""


class IWatcher(Interface):
    """What has a function called each time something happens."""

    def start(callback, *args, **kwargs):
        """Have it called."""

    def stop():
        """Do not have it called any more."""

    def close():
        """Stop for good."""


class ICallback(Interface):
    """A function that is to be called once."""

    pending: Any = Attribute("Whether it is still to be called.")

    def stop():
        """Do not have it called."""

    def close():
        """The same."""


implementer(ILoop)(core.loop)
implementer(IWatcher)(core.watcher)
implementer(ICallback)(core.callback)
