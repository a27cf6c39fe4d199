"""What runs and what waits, shown; and small helpers. As gevent.util."""

from __future__ import annotations

import functools
import pprint
import sys
import traceback
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from weft.greenlet import getcurrent

from ._greenlet_primitives import get_reachable_greenlets
from ._util import _NONE
from .hub import get_thread_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self, TextIO

__all__ = ["GreenletTree", "assert_switches", "format_run_info", "print_run_info", "wrap_errors"]

_RULE = "*" * 80


class wrap_errors:
    """A function that returns the errors which `func` raises, if they are of some kind: `wrap_errors(kinds, func)`."""

    def __init__(self, errors: Any, func: Callable[..., Any]) -> None:
        self.__errors = errors
        self.__func = func
        functools.update_wrapper(self, func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.__func(*args, **kwargs)
        except self.__errors as error:
            return error

    def __str__(self) -> str:
        return str(self.__func)

    def __repr__(self) -> str:
        return repr(self.__func)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func, name)


# --- all threads and greenlets ------------------------------------------------------------------------------


def print_run_info(
    thread_stacks: bool = True, greenlet_stacks: bool = True, limit: Any = _NONE, file: TextIO | None = None
) -> None:
    """Print what `format_run_info` gives, to standard error by default."""
    for line in format_run_info(thread_stacks, greenlet_stacks, limit):
        print(line, file=file or sys.stderr)


def format_run_info(
    thread_stacks: bool = True,
    greenlet_stacks: bool = True,
    limit: Any = _NONE,
    current_thread_ident: int | None = None,
) -> list[str]:
    """Lines that say which threads and greenlets there are, and, if wanted, where each of them is."""
    if limit is _NONE:
        limit = None
    if current_thread_ident is None:
        current_thread_ident = get_thread_ident()
    return [
        *_describe_threads(thread_stacks, limit, current_thread_ident),
        _RULE,
        "* Greenlets",
        _RULE,
        *_describe_trees(greenlet_stacks, limit),
    ]


dump_stacks = format_run_info


def _describe_threads(stacks: bool, limit: int | None, current: int) -> Iterator[str]:
    import threading

    known: dict[int | None, Any] = {thread.ident: thread for thread in threading.enumerate()}
    yield _RULE
    yield "* Threads"
    for ident, frame in sys._current_frames().items():
        yield _RULE
        thread = known.get(ident)
        idle = thread is None and is_idle_threadpool_worker(frame)
        name = "idle threadpool worker" if idle else getattr(thread, "name", None)
        monitor = getattr(thread, "gevent_monitoring_thread", None)
        if monitor is not None:
            name = repr(monitor())
        if ident == current:
            name = f"{name}) (CURRENT"
        yield f"Thread 0x{ident:x} ({name})\n"
        if stacks and not idle:
            yield "".join(traceback.format_stack(frame, limit))
        elif not stacks:
            yield "\t...stack elided..."


def is_idle_threadpool_worker(frame: FrameType) -> bool:
    """Whether a thread that is there belongs to a pool and waits for work."""
    return bool(frame.f_locals and frame.f_locals.get("gevent_threadpool_worker_idle"))


def _describe_trees(stacks: bool, limit: int | None) -> Iterator[str]:
    trees = GreenletTree.forest()
    trees.sort(key=lambda tree: "" if tree.is_current_tree else repr(tree.greenlet))
    for tree in trees:
        yield "---- Thread boundary"
        # Of another thread's greenlets the stacks cannot be read: they change meanwhile.
        shown = stacks and tree.is_current_tree
        yield from tree.format_lines(details={"running_stacks": shown, "running_stack_limit": limit})


class _Text:
    """The lines of one node and what hangs from it; those that belong to the node itself are marked."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.lines: list[tuple[str, bool]] = []

    def label(self, text: str) -> None:
        self.lines.append((text, False))

    def data(self, text: str) -> None:
        """Lines about the node."""
        for line in text.splitlines():
            self.lines.append((f" {' ' if self.depth else ':'}    {line}", True))

    def child(self, child: _Text, last: bool) -> None:
        (head, _), *rest = child.lines
        self.lines.append((f" +--- {head}", False))
        for line, is_data in rest:
            if is_data:
                mark = " " if last or self.depth else ":"
                self.lines.append((f" {mark}    {line}", True))
            else:
                self.lines.append((f" {' ' if last else '|'}   {line}", False))


class GreenletTree:
    """Greenlets by who spawned them."""

    DEFAULT_DETAILS: dict[str, Any] = {
        "running_stacks": True,
        "running_stack_limit": None,
        "spawning_stacks": True,
        "locals": True,
    }

    is_current_tree = False

    def __init__(self, greenlet: Any) -> None:
        self.greenlet = greenlet
        self.child_trees: list[GreenletTree] = []

    def add_child(self, tree: GreenletTree) -> None:
        """Hang a tree below this one."""
        if tree is not self:
            self.child_trees.append(tree)

    @property
    def root(self) -> bool:
        """Whether it is the main greenlet of a thread."""
        return self.greenlet.parent is None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.greenlet, name)

    # --- which there are --------------------------------------------------------------------------------------

    @classmethod
    def forest(cls) -> list[GreenletTree]:
        """The trees of all threads."""
        return cls._forest()[0]

    @classmethod
    def current_tree(cls) -> GreenletTree:
        """The tree of this thread."""
        return cls._forest()[1]

    @classmethod
    def _forest(cls) -> tuple[list[GreenletTree], GreenletTree]:
        trees: dict[Any, GreenletTree] = {}
        roots: dict[Any, GreenletTree] = {}

        def tree_of(greenlet: Any) -> GreenletTree:
            found = trees.get(greenlet)
            if found is None:
                found = trees[greenlet] = cls(greenlet)
                if _root(greenlet) is greenlet:
                    roots[greenlet] = found
            return found

        here = tree_of(_root(getcurrent()))
        here.is_current_tree = True
        for each in get_reachable_greenlets():
            spawner = _spawner(each)
            tree_of(_root(each) if spawner is None else spawner).add_child(tree_of(each))
        return list(roots.values()), here

    # --- how it looks -----------------------------------------------------------------------------------------

    def format_lines(self, details: Any = True) -> list[str]:
        """The tree as lines. `details` is a truth, or says in a dict which there are to be."""
        if isinstance(details, dict):
            details = {**self.DEFAULT_DETAILS, **details}
        elif details:
            details = self.DEFAULT_DETAILS
        else:
            details = {}
        return [line for line, _ in self._render(details, 0).lines]

    def format(self, details: Any = True) -> str:
        """The same as one text."""
        return "\n".join(self.format_lines(details))

    def __str__(self) -> str:
        return self.format(False)

    def _render(self, details: dict[str, Any], depth: int) -> _Text:
        text = _Text(depth)
        text.label(self._label())
        if details:
            self._describe(text, details)
        children = sorted(
            self.child_trees,
            key=lambda tree: (
                getattr(tree, "minimal_ident", -1),
                bool(getattr(tree, "ready", lambda: False)()),
                id(tree.greenlet.parent),
            ),
        )
        for number, child in enumerate(children, 1):
            text.child(child._render(details, depth + 1), last=number == len(children))
        return text

    def _label(self) -> str:
        greenlet = self.greenlet
        label = repr(greenlet)
        if greenlet:
            return label
        if not getattr(greenlet, "ready", lambda: False)():
            return f"{label}; not running"
        if greenlet.value is not None:
            return f"{label}; finished with value {repr(greenlet.value)[:30]}"
        if getattr(greenlet, "exception", None) is not None:
            return f"{label}; finished with exception {greenlet.exception!r}"
        return f"{label}; finished"

    def _describe(self, text: _Text, details: dict[str, Any]) -> None:
        from .local import all_local_dicts_for_greenlet

        greenlet = self.greenlet
        text.data(f"Parent: {greenlet.parent!r}")
        monitor = getattr(greenlet, "gevent_monitoring_thread", None)
        if monitor is not None:
            text.data(f"Monitoring Thread:{monitor()!r}")
        if greenlet and details["running_stacks"]:
            text.data("Running:")
            text.data("".join(traceback.format_stack(greenlet.gr_frame, details["running_stack_limit"])))
        spawned_at = getattr(greenlet, "spawning_stack", None)
        if spawned_at and details["spawning_stacks"]:
            text.data("Spawned at:")
            text.data("".join(traceback.format_stack(spawned_at)))
        shared = getattr(greenlet, "spawn_tree_locals", None)
        if shared and shared is not getattr(_spawner(greenlet), "spawn_tree_locals", None):
            text.data("Spawn Tree Locals")
            text.data(pprint.pformat(shared))
        if not details["locals"]:
            return
        own = [(of, values) for of, values in all_local_dicts_for_greenlet(greenlet) if values]
        if own:
            text.data("Greenlet Locals:")
        for (kind, number), values in own:
            text.data(f"  Local {kind} at {number:#x}")
            text.data("\n".join(f"    {line}" for line in pprint.pformat(values).splitlines()))


def _spawner(greenlet: Any) -> Any:
    reference = getattr(greenlet, "spawning_greenlet", None)
    return None if reference is None else reference()


def _root(greenlet: Any) -> Any:
    while greenlet.parent is not None and not getattr(greenlet, "greenlet_tree_is_root", False):
        greenlet = greenlet.parent
    return greenlet


# --- whether anybody else runs ------------------------------------------------------------------------------


class _FailedToSwitch(AssertionError):
    """A block kept others from running for too long."""


class assert_switches:
    """A context manager: the block has to switch, at least every so many seconds, to any greenlet or to the hub
    (`hub_only`). AssertionError, with a report, if it does not."""

    tracer: Any = None

    def __init__(self, max_blocking_time: float | None = None, hub_only: bool = False) -> None:
        self.max_blocking_time = max_blocking_time
        self.hub_only = hub_only
        self._entered = 0.0

    def __enter__(self) -> Self:
        from . import _tracer
        from .hub import get_hub

        hub = get_hub()
        if not self.max_blocking_time:
            self.tracer = _tracer.GreenletTracer()
        else:
            kind = _tracer.HubSwitchTracer if self.hub_only else _tracer.MaxSwitchTracer
            self.tracer = kind(hub, self.max_blocking_time)
        self._entered = perf_counter()
        self.tracer.monitor_current_greenlet_blocking()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        from .hub import get_hub

        tracer, self.tracer = self.tracer, None
        tracer.kill()
        if kind is not None:
            return
        hub = get_hub()
        blocked = tracer.did_block_hub(hub)
        if not blocked:
            return
        whom = "hub" if self.hub_only else "any greenlet"
        most = f" (max allowed {self.max_blocking_time:.4f} seconds)" if self.max_blocking_time else ""
        report = tracer.did_block_hub_report(hub, blocked[1], {})
        raise _FailedToSwitch(
            "\n".join(
                [
                    f"To {'the ' if self.hub_only else ''}{whom} in "
                    f"{perf_counter() - self._entered:.4f} seconds{most}",
                    *report,
                ]
            )
        )


def clear_stack_frames(frame: FrameType | None) -> None:
    """Drop the variables of a frame, and of those that called it, as far as they do not run."""
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:
            # It runs. What it has in a dictionary, as modules have, can be dropped; fast variables cannot.
            if hasattr(frame.f_locals, "clear"):
                frame.f_locals.clear()
        frame = frame.f_back
