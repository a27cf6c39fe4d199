"""`weft.Process` and the exceptions about processes that have died."""

from __future__ import annotations

import importlib.util
import pickle

import pytest
import weft
from started import METHODS, begin, finish, prints

needs_cloudpickle = pytest.mark.skipif(
    importlib.util.find_spec("cloudpickle") is None, reason="the package cloudpickle is not installed"
)


def test_it_starts_from_the_template(tmp_path):
    code = """
def look():
    print(os.getppid() == int(os.environ["TEMPLATE"]))

def main():
    _forkserver.ensure_running()
    os.environ["TEMPLATE"] = str(_forkserver._forkserver_pid)
    process = weft.Process(target=look)
    process.start()
    process.join()
    assert isinstance(process, mp.process.BaseProcess) and process.exitcode == 0
"""
    assert prints(tmp_path, code) == ["True"]


@pytest.mark.parametrize("method", METHODS)
def test_a_daemon_may_have_children(tmp_path, method):
    code = f"""
import multiprocessing

def child(where):
    print(where, weft.multiprocessing.current_process().daemon, flush=True)

def daemon():
    assert multiprocessing.current_process().daemon
    for process in (
        weft.Process(target=child, args=("weft",), start_method={method!r}),
        multiprocessing.get_context({method!r}).Process(target=child, args=("stock",)),
    ):
        process.start()
        process.join()
        assert process.exitcode == 0

def main():
    process = weft.Process(target=daemon, daemon=True, start_method={method!r})
    assert process.daemon
    process.start()
    process.join()
    print(process.exitcode)
"""
    assert prints(tmp_path, code) == ["weft True", "stock False", "0"]


def test_daemons_end_with_the_program(tmp_path):
    code = """
def main():
    for method in METHODS:
        weft.Process(target=time.sleep, args=(1000,), daemon=True, start_method=method).start()
"""
    assert prints(tmp_path, code) == []


@needs_cloudpickle
@pytest.mark.parametrize("method", METHODS)
def test_closures(tmp_path, method):
    code = f"""
def main():
    reader, writer = mp.Pipe(duplex=False)

    class Local:
        number = 41

    process = weft.Process(
        target=lambda n: writer.send(Local.number + n), args=(1,), start_method={method!r}
    )
    process.start()
    print(reader.recv())
    process.join()
"""
    assert prints(tmp_path, code) == ["42"]


@needs_cloudpickle
def test_functions_of_a_main_module_that_cannot_be_imported(tmp_path):
    code = """
import subprocess
INNER = '''
import weft
def work():
    print("worked")
for method in "template", "spawn", "fork":
    process = weft.Process(target=work, start_method=method)
    process.start()
    process.join()
'''

def main():
    for options, text in ((["-c", INNER], None), (["-"], INNER)):
        ended = subprocess.run([sys.executable, *options], input=text, capture_output=True, text=True)
        print(ended.stdout.count("worked"), ended.stderr)
"""
    assert prints(tmp_path, code) == ["3 ", "3 "]


def test_without_cloudpickle_the_error_says_what_is_missing(tmp_path):
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('not here')\n")
    code = """
def main():
    try:
        weft.Process(target=lambda: 0).start()
    except weft.UnpicklableError as error:
        print(error)
    try:
        weft.Process(target=print, args=([lambda: 0],)).start()
    except weft.UnpicklableError as error:
        print(error, isinstance(error, (AttributeError, pickle.PicklingError)))
    try:
        weft.multiprocessing.get_context("spawn").Process(target=print, args=([lambda: 0],)).start()
    except (AttributeError, pickle.PicklingError) as error:
        print(*error.__notes__, isinstance(error, weft.UnpicklableError))
"""
    install = "if the package cloudpickle is there (pip install cloudpickle)"
    own, argument, compatible = prints(tmp_path, "import pickle\n" + code)
    assert own.startswith("cannot pass target, a builtins.function, to a process: ")
    assert own.endswith("lambdas, closures and local classes reach a process " + install)
    assert argument.startswith("cannot pass args[0][0], a builtins.function, to a process: ")
    assert argument.endswith(install + " True")
    assert compatible.startswith("It is args[0][0], a builtins.function. weft.Process takes lambdas")
    assert compatible.endswith(install + ". False")


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_an_attribute_that_cannot_be_pickled_is_named(tmp_path, method):
    code = f"""
class Own(weft.Process):
    def __init__(self, parts, **options):
        super().__init__(start_method={method!r}, **options)
        self.parts = parts

def main():
    for process in (Own({{"lock": threading.Lock()}}), Own(threading.Lock(), target=lambda: 0)):
        try:
            process.start()
        except weft.UnpicklableError as error:
            print(str(error).partition(": ")[0], isinstance(error, TypeError))
"""
    assert prints(tmp_path, "import threading\n" + code) == [
        "cannot pass self.parts['lock'], a _thread.lock, to a process True",
        "cannot pass self.parts, a _thread.lock, to a process True",
    ]


def test_a_target_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="target must be a callable, not 'work'"):
        weft.Process(target="work")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [weft.Process, weft.multiprocessing.Process])
def test_what_was_not_started_cannot_be_ended(make):
    process = make(target=print)
    for name in ("interrupt", "terminate", "kill"):
        with pytest.raises(AttributeError, match=f"can only {name} a started process"):
            getattr(process, name)()
    process.close()
    with pytest.raises(ValueError, match="process object is closed"):
        process.terminate()


def test_a_wrong_method_or_group():
    with pytest.raises(ValueError, match="cannot start by 'thread'; the methods are template"):
        weft.Process(start_method="thread")
    with pytest.raises(ValueError, match="group must be None"):
        weft.Process(1)  # type: ignore[arg-type]


def test_an_uncaught_exception_is_the_child_s_own(tmp_path):
    status, lines, err = finish(
        begin(
            tmp_path,
            """
def fail():
    1 / 0

def main():
    process = weft.Process(target=fail)
    process.start()
    process.join()
    print(process.exitcode)
""",
        )
    )
    assert (status, lines) == (0, ["1"])
    assert err.startswith("Process Process-1:\nTraceback") and "ZeroDivisionError" in err


class TestDeaths:
    @pytest.mark.parametrize(
        ("arguments", "text", "signal"),
        [
            ((5, "worker", -9), "process worker 5 ended (killed by SIGKILL)", 9),
            ((5, None, 3), "process 5 ended (exit code 3)", None),
            ((5, "w", -40), "process w 5 ended (killed by signal 40)", 40),
            ((None,), "process of unknown id ended (how is not known)", None),
        ],
    )
    def test_what_they_say(self, arguments, text, signal):
        error = weft.ProcessDied(*arguments)
        assert str(error) == text and error.signal == signal
        again = pickle.loads(pickle.dumps(error))
        assert (again.pid, again.name, again.exitcode) == (error.pid, error.name, error.exitcode)

    def test_the_owner_of_a_lock(self):
        error = weft.OwnerDied(5, "w", 1)
        assert isinstance(error, weft.ProcessDied)
        assert str(error) == "process w 5 ended while it held the lock (exit code 1)"


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_an_argument_that_cannot_be_pickled_is_named(tmp_path, method):
    code = f"""
def main():
    for arguments in ({{"args": (1, {{"x": [threading.Lock()]}})}}, {{"kwargs": {{"file": open(__file__)}}}}):
        process = weft.Process(target=print, start_method={method!r}, **arguments)
        try:
            process.start()
        except weft.UnpicklableError as error:
            print(str(error).partition(": ")[0], error.__cause__ is not None, *getattr(error, "__notes__", ()))
"""
    assert prints(tmp_path, "import threading\n" + code) == [
        "cannot pass args[1]['x'][0], a _thread.lock, to a process True",
        "cannot pass kwargs['file'], a _io.TextIOWrapper, to a process True",
    ]


def test_all_public_names_can_be_completed():
    assert set(weft.__all__) <= set(dir(weft))
