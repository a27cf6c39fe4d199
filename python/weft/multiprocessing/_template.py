"""The template process: what it does before it forks, and what its children do first.

The loop in between is the engine's, `weft._native._process.Template.run`.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
import sys
import threading
import traceback
from functools import partial

from weft._native import _process
from weft.multiprocessing import _payload, context, forkserver
from weft.multiprocessing._running import run_and_exit
from weft.multiprocessing._stock import context as stock
from weft.multiprocessing._stock import environ, process, resource_tracker, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def main(socket: int, table: int, lifeline: int, tracker: int) -> NoReturn:
    """Be a template until no client is left. All are descriptors that this process inherited."""
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    _process.lifeline_join(lifeline)
    resource_tracker._resource_tracker._fd = tracker
    os.set_inheritable(tracker, False)
    template = _process.Template(socket, table)
    preparation = template.receive_preparation()
    if preparation is None:
        os._exit(0)
    _import_all(pickle.loads(preparation))
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    util._close_stdin()
    util._flush_std_streams()
    baseline = dict(environ._data)
    rehearse = _rehearsal()
    # Only the imports could need it; children get one with their orders.
    resource_tracker._resource_tracker._fd = None
    os.close(tracker)
    gc.collect()
    gc.freeze()
    template.ready(pickle.dumps(forkserver.Ready(baseline, _threads())))
    job = template.run(rehearse)
    if job is None:
        os._exit(0)
    run_and_exit(partial(_run, job, on_interrupt, baseline), job.say)


def _import_all(order: forkserver.Order) -> None:
    data = order.data
    sys.path[:] = data["sys_path"]
    sys.argv[:] = data["sys_argv"]
    process.ORIGINAL_DIR = data["orig_dir"]
    current = process.current_process()
    if "__main__" in order.preload:
        current._inheriting = True
        try:
            if "init_main_from_name" in data:
                spawn._fixup_main_from_name(data["init_main_from_name"])
            elif "init_main_from_path" in data:
                spawn._fixup_main_from_path(data["init_main_from_path"])
        except BaseException:
            # Each child imports it again, and reports what happens then, as children without a template would.
            pass
        finally:
            del current._inheriting
    for name in order.preload:
        try:
            __import__(name)
        except ImportError:
            pass
        except Exception:
            traceback.print_exc()


def _threads() -> list[str]:
    """The names of threads that a child would miss, and their libraries would not know."""
    if not _process.other_threads():
        return []
    # A library that is prepared for forks stops its threads before one, and starts them again when it needs them.
    _process.probe_fork()
    left = _process.other_threads()
    if not left:
        return []
    known = {thread.native_id for thread in threading.enumerate()}
    named = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    native = len(left) - (len(known) - 1)
    return named + [f"{native} not started by Python"] * (native > 0)


def _rehearsal() -> Callable[[], object]:
    """What a process that is forked in advance does before it waits, so as not to do it for the first time later.

    It goes the way that a child goes, as far as that changes nothing: most of a child's time is first touches of
    memory that it shares with the template.
    """
    sample = io.BytesIO()
    stock.set_spawning_popen(sample)  # keys may be pickled while there is any
    try:
        _payload.dump(spawn.get_preparation_data("rehearsal"), sample)
        _payload.dump(context.ForkServerProcess(target=_nothing, name="rehearsal"), sample)
    finally:
        stock.set_spawning_popen(None)
    content = sample.getvalue()

    def rehearse() -> None:
        _diversify()
        payload = io.BytesIO(content)
        data = pickle.load(payload)
        # These would not be overwritten by what the child is told.
        data.pop("log_to_stderr")
        data.pop("log_level", None)
        spawn.prepare(data)
        target = pickle.load(payload)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        util._close_stdin()
        process._ParentProcess(target.name, os.getppid(), None)
        target.run()
        process.active_children()
        util.info("rehearsed")
        util._flush_std_streams()

    return rehearse


def _diversify() -> None:
    """Give this process random numbers of its own, where its template has none that the program asked for.

    The `random` module does so by itself after each fork. numpy does not, so that its global generator, unless the
    program seeded it, would be the same in all children.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None or not hasattr(numpy_random, "get_bit_generator"):
        return
    # None once the program called numpy.random.seed.
    if getattr(numpy_random.get_bit_generator(), "seed_seq", None) is not None:
        numpy_random.seed()


def _nothing() -> None:
    """The target of a rehearsal."""


def _run(job: _process.Job, on_interrupt: Any, baseline: dict[bytes, bytes]) -> int:
    """In a child: be the process that was asked for; returns its exit code."""
    signal.signal(signal.SIGINT, on_interrupt)
    server = forkserver._forkserver
    server._adopt(job.link, baseline)
    fds = job.descriptors
    resource_tracker._resource_tracker._fd = fds.pop()
    payload = io.BytesIO(job.payload)
    if payload.read(1) == forkserver.WITH_EXTRA:
        extra: forkserver.Extra = pickle.load(payload)
        _change_environ(extra.environ)
    server._inherited_fds = fds
    target = _payload.load_all(payload)
    if target is None:
        return _payload.UNGUARDED
    code: int = target._bootstrap(job.parent)
    return code


def _change_environ(changes: dict[bytes, bytes | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environb.pop(name, None)
        else:
            os.environb[name] = value
