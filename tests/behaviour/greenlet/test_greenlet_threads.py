"""Greenlets and threads: ends of threads, deletion elsewhere, fork, and threads that Python did not start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import STOCK, WEFT, every_slot_count, good, needs_stock

# `ended(target)` runs `target` in a thread and returns when the system's thread is gone too.
SETUP = """
import gc, os, threading, weakref
def tasks():
    return set(os.listdir("/proc/self/task"))
def ended(target, *arguments):
    before = tasks()
    thread = threading.Thread(target=target, args=arguments)
    thread.start()
    thread.join()
    while tasks() - before:
        pass
def cleaned():
    while greenlet._greenlet.get_pending_cleanup_count():
        pass
    gc.collect()
class Marker: pass
"""


def program(text: str) -> str:
    """`text` after the set-up."""
    from textwrap import dedent

    return SETUP + dedent(text)


@every_slot_count
def test_a_second_thread_frees_what_an_ended_one_left(slots: int | None) -> None:
    # The thread's stacks are cleaned up by the main thread, which sleeps meanwhile: they outlive their greenlets.
    text = """
    keep = []
    def leaves():
        main = getcurrent()
        for _ in range(50):
            one = Greenlet(lambda: main.switch()); one.switch(); keep.append(one)
    def drops():
        ended(leaves)
        keep.clear()
        gc.collect()
        junk = [bytearray(b"x" * size) for size in range(100, 400) for _ in range(20)]
    for _ in range(10):
        thread = threading.Thread(target=drops); thread.start(); thread.join()
    cleaned()
    print("good")
    """
    assert good(program(text), slots=slots) == ["good"]


def test_variables_are_released_when_the_thread_ends() -> None:
    text = """
    markers = []
    def leaves():
        main = getcurrent()
        def run():
            marker = Marker(); markers.append(weakref.ref(marker))
            def nested():
                other = Marker(); markers.append(weakref.ref(other))
                main.switch()
            nested()
        one = Greenlet(run); one.switch()
    for _ in range(10):
        ended(leaves)
    cleaned()
    assert len(markers) == 20
    print(sum(reference() is not None for reference in markers))
    print(greenlet._greenlet.get_total_main_greenlets())
    """
    assert good(program(text)) == ["0", "1"]


@pytest.mark.parametrize("optional", [False, True])
def test_a_main_greenlet_that_only_a_running_function_refers_to(optional: bool) -> None:
    # The collector does not see what lies in a running function's variables.
    text = """
    greenlet.enable_optional_cleanup(sys.argv[1] == "True")
    def run():
        box.append(getcurrent()); given.set(); end.wait()
        if suspend:
            main = getcurrent()
            one = Greenlet(lambda: main.switch()); one.switch()
    def holds():
        before = tasks()
        thread = threading.Thread(target=run); thread.start(); given.wait()
        held = box.pop()
        end.set(); thread.join()
        while tasks() - before: pass
        cleaned()
        made = [Greenlet() for _ in range(100)]
        assert not any(held is one for one in made)
        assert type(held) is Greenlet and held.dead
    for suspend in (False, True, True):
        box, given, end = [], threading.Event(), threading.Event()
        holds()
    gc.collect()
    print("good")
    """
    assert good(program(text), str(optional)) == ["good"]


def test_without_optional_cleanup_nothing_breaks() -> None:
    text = """
    greenlet.enable_optional_cleanup(False)
    def leaves():
        main = getcurrent()
        one = Greenlet(lambda: main.switch()); one.switch()
    for _ in range(20):
        ended(leaves)
    cleaned()
    print(greenlet.get_clocks_used_doing_optional_cleanup())
    greenlet.enable_optional_cleanup(True)
    ended(leaves); cleaned()
    print(greenlet.get_clocks_used_doing_optional_cleanup() is None)
    """
    assert good(program(text)) == ["None", "False"]


@every_slot_count
def test_dropped_in_another_thread_ended_in_its_own(slots: int | None) -> None:
    text = """
    log = []
    here, there = threading.Event(), threading.Event()
    given = []
    def owns():
        main = getcurrent()
        def run(number):
            try:
                main.switch()
            finally:
                log.append((number, threading.current_thread() is thread, sys.exc_info()[0] is GreenletExit))
        for number in range(10):
            one = Greenlet(run); one.switch(number); given.append(one)
        del one
        here.set(); there.wait()
        assert not log
        getcurrent()
        assert len(log) == 10, log
    thread = threading.Thread(target=owns); thread.start()
    here.wait()
    given.clear()
    there.set(); thread.join()
    assert sorted(log) == [(number, True, True) for number in range(10)], log
    print("good")
    """
    assert good(program(text), slots=slots) == ["good"]


def test_dropped_elsewhere_after_the_thread_ended() -> None:
    text = """
    given = []
    def leaves():
        main = getcurrent()
        def run():
            marker = Marker(); given.append(weakref.ref(marker))
            main.switch()
        for _ in range(5):
            one = Greenlet(run); one.switch(); given.append(one)
    for _ in range(20):
        ended(leaves)
        references = given[::2]
        given.clear()
        assert not any(reference() for reference in references)
    cleaned()
    print("good")
    """
    assert good(program(text)) == ["good"]


@needs_stock
def test_a_started_one_reaches_no_parent_of_another_thread() -> None:
    text = """
    box, running, stop = [], threading.Event(), threading.Event()
    def other():
        box.append(getcurrent()); running.set(); stop.wait()
    thread = threading.Thread(target=other); thread.start(); running.wait()
    pending = Greenlet(lambda *a: print("runs in", threading.current_thread().name))
    dead = Greenlet(lambda: None); dead.switch()
    dead.parent = pending
    pending.parent = box[0]
    for use in (dead.switch, dead.throw, lambda: dead.throw(KeyError)):
        try:
            print(use())
        except BaseException as error:
            print(type(error).__name__, str(error).split("0x")[0])
    stop.set(); thread.join()
    """
    assert good(program(text), package=WEFT) == good(program(text), package=STOCK)


FORK = """
import warnings
warnings.simplefilter("ignore")
def child(body):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@every_slot_count
def test_fork_inside_a_greenlet(slots: int | None) -> None:
    text = (
        FORK
        + """
def run():
    def body():
        assert main.gr_frame is not None
        for one in others:
            one.parent = getcurrent()
            assert one.switch("in the child") == "in the child"
        main.switch("child continues")
    return child(body)
others = [Greenlet(lambda: main.switch()) for _ in range(5)]
for one in others: one.switch()
parent = os.getpid()
code = Greenlet(run).switch()
if os.getpid() != parent:
    assert code == "child continues"
    os._exit(0)
print(code)
"""
    )
    assert good(SETUP + text, slots=slots) == ["0"]


@every_slot_count
def test_the_child_of_a_fork_uses_and_drops_greenlets_of_lost_threads(slots: int | None) -> None:
    text = (
        FORK
        + """
kept, running, stop = [], threading.Semaphore(0), threading.Event()
def deep(depth):
    a = b = c = d = depth
    if depth:
        return deep(depth - 1)
    getcurrent().parent.switch()
def thread():
    def suspended():
        marker = [1, 2]
        deep(50)
    def runs():
        # Deep when it is suspended, flat when the process forks.
        deep(800)
        running.release(); stop.wait()
    for run in (suspended, suspended, runs):
        one = Greenlet(run); kept.append(one); one.switch()
    one.switch()
threads = [threading.Thread(target=thread) for _ in range(20)]
for one in threads: one.start(); running.acquire()
def body():
    for one in kept:
        try: one.switch()
        except greenlet.error: pass
        else: raise AssertionError
    for one in kept:
        assert one.dead
        repr(one); one.gr_frame
    kept.clear(); gc.collect()
    def sums(depth):
        here = [depth]
        if depth: return sums(depth - 1) + here[0]
        main.switch()
        return 0
    made = [Greenlet(sums) for _ in range(30)]
    for one in made: one.switch(400)
    for one in made: assert one.switch() == 400 * 401 // 2
    ended(lambda: Greenlet(lambda: 0).switch())
    assert child(lambda: Greenlet(sums).switch(5)) == 0
print(child(body))
stop.set()
for one in threads: one.join()
"""
    )
    assert good(SETUP + text, slots=slots) == ["0"]


def test_fork_while_a_thread_ends() -> None:
    text = (
        FORK
        + """
def leaves():
    main = getcurrent()
    one = Greenlet(lambda: main.switch()); one.switch()
for _ in range(30):
    thread = threading.Thread(target=leaves); thread.start()
    def body():
        for _ in range(3):
            ended(leaves)
        cleaned()
    assert child(body) == 0
    thread.join()
print("good")
"""
    )
    assert good(SETUP + text) == ["good"]


FOREIGN = r"""
#include <Python.h>
#include <pthread.h>
static PyObject *callback;
static int rounds;
static pthread_key_t key;
static int at_the_end;

static void call(int round) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = PyObject_CallFunction(callback, "i", round);
    if (!result) PyErr_Print();
    Py_XDECREF(result);
    PyGILState_Release(state);
}
static void ending(void *value) { call(-1); }
static void *work(void *unused) {
    if (at_the_end) pthread_setspecific(key, (void *)1);
    for (int i = 0; i < rounds; i++) call(i);
    return NULL;
}
static PyObject *run(PyObject *module, PyObject *arguments) {
    pthread_t thread;
    if (!PyArg_ParseTuple(arguments, "Oii", &callback, &rounds, &at_the_end)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    pthread_create(&thread, NULL, work, NULL);
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}
static PyMethodDef methods[] = {{"run", run, METH_VARARGS, ""}, {NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "foreign", NULL, -1, methods};
PyMODINIT_FUNC PyInit_foreign(void) { pthread_key_create(&key, ending); return PyModule_Create(&definition); }
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `import foreign` finds a module that starts threads in C."""
    import sysconfig

    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder: Path = tmp_path_factory.mktemp("foreign")
    (folder / "foreign.c").write_text(FOREIGN)
    target = folder / f"foreign{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    command = [compiler, "-shared", "-fPIC", f"-I{include}", "-o", target, folder / "foreign.c", "-lpthread"]
    subprocess.run(command, check=True)
    return {"PYTHONPATH": str(folder)}


@every_slot_count
def test_a_foreign_thread_makes_and_ends_greenlets(slots: int | None, foreign: dict[str, str]) -> None:
    text = """
    import foreign
    log = []
    def callback(round):
        main = getcurrent()
        made = [Greenlet(lambda: main.switch(1) and 2) for _ in range(5)]
        log.extend(one.switch() for one in made)
        log.extend(one.switch(True) for one in made)
    foreign.run(callback, 4, 0)
    assert log == ([1] * 5 + [2] * 5) * 4, log
    cleaned()
    print("good")
    """
    assert good(program(text), slots=slots, environment=foreign) == ["good"]


@every_slot_count
def test_greenlets_of_a_lost_thread_state_cannot_be_resumed(
    slots: int | None, foreign: dict[str, str]
) -> None:
    # The thread leaves Python, and its thread state goes; a suspended greenlet's C frames point to it.
    text = """
    import foreign
    kept, log = [], []
    def callback(round):
        main = getcurrent()
        def run():
            try:
                raise KeyError
            except KeyError:
                while True:
                    main.switch(sys.exc_info()[0])
        if round == 0:
            one = Greenlet(run); one.switch(); kept.append(one)
        else:
            junk = [bytearray(b"x" * size) for size in range(100, 400) for _ in range(20)]
            try:
                kept[0].switch()
            except greenlet.error as error:
                log.append(str(error))
            assert Greenlet(lambda: 5).switch() == 5
    foreign.run(callback, 4, 0)
    kept.clear()
    cleaned()
    print(len(log))
    """
    assert good(program(text), slots=slots, environment=foreign) == ["3"]


def test_greenlets_in_the_last_moments_of_a_thread(foreign: dict[str, str]) -> None:
    text = """
    import foreign
    log = []
    def callback(round):
        try:
            log.append(Greenlet(lambda: round).switch())
        except RuntimeError as error:
            log.append("refused")
    foreign.run(callback, 2, 1)
    assert log[:2] == [0, 1], log
    assert log[2:] in ([-1], ["refused"]), log
    cleaned()
    print("good")
    """
    assert good(program(text), environment=foreign) == ["good"]


DAEMONS = """
import threading, time
started = threading.Semaphore(0)
def busy():
    started.release()
    while True:
        time.sleep(0)
def in_a_greenlet():
    Greenlet(busy).switch()
def in_a_tracer():
    main = getcurrent()
    greenlet.settrace(lambda *a: time.sleep(0))
    def run():
        while True: main.switch()
    one = Greenlet(run)
    started.release()
    while True: one.switch()
def in_a_deletion():
    main = getcurrent()
    def run():
        try: main.switch()
        finally: busy()
    one = Greenlet(run); one.switch()
    del one
def in_a_lookup():
    class Looks(Greenlet):
        def __getattribute__(self, name):
            return busy() if name == "run" else super().__getattribute__(name)
    Looks().switch()
def switching():
    main = getcurrent()
    made = [Greenlet(lambda: [main.switch() for _ in iter(int, 1)]) for _ in range(5)]
    started.release()
    while True:
        for one in made: one.switch()
places = [in_a_greenlet, in_a_tracer, in_a_deletion, in_a_lookup, switching]
for place in places * 4:
    threading.Thread(target=place, daemon=True).start()
for place in places * 4:
    started.acquire()
print("end")
"""


@every_slot_count
def test_daemon_threads_in_greenlets_at_the_end_of_the_program(slots: int | None) -> None:
    for _ in range(5):
        assert good(DAEMONS, slots=slots) == ["end"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts mappings")
def test_an_ended_threads_stacks_are_unmapped() -> None:
    text = """
    def mappings():
        return open("/proc/self/maps").read().count("\\n")
    def uses():
        main = getcurrent()
        made = [Greenlet(lambda: main.switch()) for _ in range(100)]
        for one in made: one.switch()
        for one in made: one.switch()
    ended(uses); cleaned()
    before = mappings()
    for _ in range(20):
        ended(uses); cleaned()
    assert mappings() < before + 50, (before, mappings())
    print("good")
    """
    assert good(program(text)) == ["good"]
