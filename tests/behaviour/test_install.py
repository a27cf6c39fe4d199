"""`weft.install`: what `import greenlet` means afterwards, here and in children."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import weft
from interpreter import environment, prints, python
from weft import _install, _patches, _support

needs_greenlet = pytest.mark.skipif(
    importlib.util.find_spec("greenlet") is None, reason="the greenlet package is not installed"
)

# How a child says whether its greenlet is weft's.
ASK = "import greenlet, weft.greenlet as ours; print('weft' if ours is greenlet else 'stock')"


# By module of ours: the module that it changes, and how.
OURS = {
    replacement.rpartition(".")[0]: (
        stock,
        [row for row in rows if row[0] != "()" and row[1].count(".") == replacement.count(".")],
    )
    for stock, rows in _patches.IN_PLACE["multiprocessing"].items()
    for _, replacement in rows
    if replacement.rpartition(".")[0] != "weft._sentinel"
}


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A folder with a package `greenlet` that is not weft's, and a module that uses it."""
    (tmp_path / "greenlet").mkdir()
    (tmp_path / "greenlet" / "__init__.py").write_text("class greenlet: pass\n")
    (tmp_path / "user.py").write_text("from greenlet import greenlet\nclass Task(greenlet): pass\n")
    return tmp_path


class TestOneModule:
    """`greenlet` and `weft.greenlet` are one object, whichever is imported first."""

    CHECK = """
import greenlet, greenlet._greenlet, weft.greenlet, weft.greenlet._greenlet as native
from weft import greenlet as third
assert greenlet is third is weft.greenlet is sys.modules["greenlet"] is sys.modules["weft.greenlet"]
assert native is greenlet._greenlet is sys.modules["greenlet._greenlet"]
assert native is sys.modules["weft.greenlet._greenlet"]
assert (greenlet.__name__, greenlet.__package__, greenlet.__spec__.name) == ("greenlet",) * 3
assert greenlet.__spec__.loader is greenlet.__loader__
assert greenlet.__file__ == greenlet.__spec__.origin
assert greenlet.__path__ == [os.path.dirname(greenlet.__file__)]
assert native.__file__ == native.__spec__.origin == weft._native.__file__
assert greenlet.greenlet(lambda x: x + 1).switch(1) == 2
print("one")
"""

    @pytest.mark.parametrize(
        "first",
        [
            "weft.install()",
            "weft.install(); import greenlet",
            "weft.install(); import weft.greenlet",
            "weft.install(); from weft.greenlet import getcurrent",
            "weft.install(); import weft.greenlet._greenlet",
            "weft.install(); weft.greenlet",
            "weft.install(); import weft.greenlet; del sys.modules['weft.greenlet']",
            "import weft.greenlet; weft.install()",
            "weft.greenlet; weft.install(); weft.install()",
        ],
    )
    def test_imported_in_any_order(self, first):
        assert prints("-c", f"import os, sys, weft; {first}\n{self.CHECK}") == ["one"]

    def test_not_installed_it_is_weft_s_alone(self, stock):
        code = "import sys, weft.greenlet; print(weft.greenlet.__name__, 'greenlet' in sys.modules)"
        assert prints("-c", code, cwd=stock) == ["weft.greenlet False"]
        code = "import weft.greenlet, greenlet; print(weft.greenlet is greenlet)"
        assert prints("-c", code, cwd=stock) == ["False"]

    def test_installing_imports_no_face(self):
        code = "import sys, weft; weft.install(); print([n for n in sys.modules if 'greenlet' in n])"
        names = prints("-c", code)[0]
        assert "'greenlet'" not in names and "weft.greenlet" not in names

    @pytest.mark.parametrize("first", ["weft.install(); import greenlet", "import weft.greenlet as greenlet"])
    def test_reload(self, first):
        code = f"""import importlib, sys, weft; {first}
before = greenlet.greenlet, greenlet._greenlet
assert importlib.reload(greenlet) is greenlet is weft.greenlet
print((greenlet.greenlet, greenlet._greenlet) == before)"""
        assert prints("-c", code) == ["True"]

    def test_imported_again_after_its_removal(self):
        code = """import sys, weft; weft.install(); import greenlet as before
del sys.modules["greenlet"], sys.modules["greenlet._greenlet"]
import greenlet, greenlet._greenlet
print(greenlet is before, greenlet.greenlet is before.greenlet, greenlet._greenlet is before._greenlet)"""
        assert prints("-c", code) == ["False True True"]

    def test_missing_submodules_are_missing(self):
        code = """import weft; weft.install()
for name in "greenlet.nothing", "weft.greenlet.nothing", "greenlet._greenlet.nothing", "weft.nothing":
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error.name)"""
        assert prints("-c", code) == [
            "greenlet.nothing",
            "weft.greenlet.nothing",
            "greenlet._greenlet.nothing",
            "weft.nothing",
        ]

    def test_tools_find_their_way(self):
        code = """import importlib.util, inspect, pickle, pkgutil, weft; weft.install(); import greenlet
assert importlib.util.find_spec("greenlet").origin == greenlet.__file__
assert inspect.getsourcefile(greenlet) == greenlet.__file__
assert inspect.getmodule(greenlet.get_include) is inspect.getmodule(greenlet.greenlet) is greenlet
assert "3.5.6" in inspect.getsource(greenlet)
for value in greenlet.get_include, greenlet.greenlet, greenlet.GreenletExit, greenlet.error, greenlet.getcurrent:
    assert pickle.loads(pickle.dumps(value)) is value
assert [m.name for m in pkgutil.iter_modules(greenlet.__path__)] == []
assert "greenlet" in [m.name for m in pkgutil.iter_modules(weft.__path__)]
print(type(greenlet._C_API).__name__, greenlet.__version__)"""
        assert prints("-c", code) == ["PyCapsule 3.5.6"]

    def test_capsule(self):
        code = """import ctypes, weft; weft.install()
load = ctypes.pythonapi.PyCapsule_Import
load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
table = ctypes.cast(load(b"greenlet._C_API", 0), ctypes.POINTER(ctypes.c_void_p))
import greenlet
print(table[0] == id(greenlet.greenlet), table[1] == id(greenlet.error), table[2] == id(greenlet.GreenletExit))
print(all(table[i] for i in range(12)))"""
        assert prints("-c", code) == ["True True True", "True"]

    @needs_greenlet
    def test_public_names_are_the_stock_s(self):
        code = (
            "import greenlet; print(greenlet.__version__, sorted(greenlet.__all__), sorted(vars(greenlet)))"
        )
        version, names, everything = (eval(part) for part in _split(prints("-c", code)[0]))
        ours = [eval(part) for part in _split(prints("-m", "weft", "-c", code)[0])]
        if ours[0] != version:
            pytest.skip(f"installed is greenlet {version}")
        assert ours[1] == names
        assert set(everything) - set(ours[2]) <= {"__cached__"}

    @needs_greenlet
    def test_the_stock_s_tests_run_on_it(self):
        code = """import sys, weft; weft.install()
import greenlet.tests, greenlet.tests._test_extension as extension
from greenlet import tests
from greenlet.tests import test_version
assert tests is greenlet.tests and tests.RawGreenlet is greenlet.greenlet
assert extension.test_switch(greenlet.greenlet(lambda: 50)) == 50
stock = tests.__file__.replace("tests/", "")
assert not [m for m in sys.modules.values() if getattr(m, "__file__", None) == stock]
assert greenlet._greenlet.__spec__.origin == weft._native.__file__
print(tests.__name__)"""
        assert prints("-c", code) == ["greenlet.tests"]

    def test_threads_agree(self):
        code = """import sys, threading, weft
sys.setswitchinterval(1e-5)
gate, found = threading.Barrier(16), []
def work(number):
    gate.wait()
    weft.install()
    gate.wait()
    if number % 3 == 0:
        import greenlet
    elif number % 3 == 1:
        import weft.greenlet as greenlet
    else:
        from weft.greenlet._greenlet import getcurrent
        from weft import greenlet
    found.append(greenlet.getcurrent and greenlet)
threads = [threading.Thread(target=work, args=[n]) for n in range(16)]
for t in threads: t.start()
for t in threads: t.join()
finders = [f for f in sys.meta_path if type(f).__module__ == "weft._install"]
import greenlet
print(len(found), all(f is greenlet for f in found), len(finders), sys.meta_path[0] in finders)"""
        assert prints("-c", code) == ["16 True 1 True"]


class TestNames:
    @pytest.mark.parametrize(
        "only",
        ["", "'greenlet'", "['greenlet']", "iter(('greenlet',))", "only={'greenlet'}", "'multiprocessing'"],
    )
    def test_accepted(self, only):
        code = f"import os, weft; print(weft.install({only}), weft.install(), os.environ['WEFT_INSTALL'])"
        first = "multiprocessing" if "multiprocessing" in only else "greenlet"
        (line,) = prints("-c", code)
        assert line.startswith(f"None None {first},")
        assert set(line.removeprefix("None None ").split(",")) == set(_install.BY_DEFAULT)

    @pytest.mark.parametrize("only", ["numpy", ["greenlet", "numpy"], "greenlet,numpy", ("numpy",)])
    def test_unknown(self, only):
        with pytest.raises(ValueError, match="cannot replace 'numpy'; what it can: greenlet"):
            weft.install(only)

    def test_none_at_all(self):
        with pytest.raises(ValueError, match="no name given; what weft can replace: greenlet"):
            weft.install([])

    def test_an_unknown_name_changes_nothing(self):
        before = list(sys.meta_path), dict(os.environ), set(_install._installed)
        with pytest.raises(ValueError):
            weft.install(["greenlet", "numpy"])
        assert (list(sys.meta_path), dict(os.environ), set(_install._installed)) == before

    def test_the_table_is_usable(self):
        for name, face in _install.FACES.items():
            assert face.rpartition(".")[2] == name
            assert importlib.util.find_spec(face) is not None

    def test_the_parents_names_are_kept_for_children(self):
        code = "import os, weft; weft.install(); print(os.environ['WEFT_INSTALL'])"
        found = python("-c", code, env={"WEFT_INSTALL": "later"})
        assert found.out == "later,greenlet,multiprocessing\n"


class TestTooLate:
    def test_says_what_is_imported_by_whom_and_what_to_do(self, stock):
        code = """import sys, os, user, weft
before = list(sys.meta_path)
try:
    weft.install()
except weft.InstallError as error:
    print(isinstance(error, RuntimeError), type(error).__module__)
    print(error)
print(sys.meta_path == before, "WEFT_INSTALL" in os.environ)
import greenlet
print(user.greenlet is greenlet.greenlet)"""
        kind, message, *rest = prints("-c", code, cwd=stock)
        assert kind == "True weft"
        assert message == (
            f"greenlet was imported before weft could take its place (from {stock}/greenlet/__init__.py; "
            "in use by user). Types that others hold or were compiled against cannot be exchanged any more. "
            "Start the program with `python -m weft`, or call weft.install() before anything imports greenlet."
        )
        assert rest == ["True False", "True"]

    def test_names_the_first_few_users(self, stock):
        for number in range(6):
            (stock / f"user{number}.py").write_text("import greenlet")
        code = "import user0, user1, user2, user3, user4, user5, weft; weft.install()"
        found = python("-c", code, cwd=stock)
        assert "weft.InstallError: greenlet was imported" in found.err
        assert "in use by user0, user1, user2, user3, 2 more)" in found.err

    def test_a_subclass_counts_as_use(self, stock):
        (stock / "hidden.py").write_text("import user\nclass Own(user.Task): pass\ndel user")
        found = python("-c", "import hidden, weft; weft.install()", cwd=stock)
        assert "in use by user, hidden)" in found.err or "in use by hidden, user)" in found.err

    def test_nobody_to_name(self, stock):
        found = python("-c", "__import__('greenlet'); import weft; weft.install()", cwd=stock)
        assert "in use by no module that can be named)" in found.err

    def test_proxies_are_left_alone(self, stock):
        (stock / "lazy.py").write_text(
            "class Proxy:\n"
            "    @property\n"
            "    def __class__(self): raise SystemExit('touched')\n"
            "    def __getattr__(self, name): raise SystemExit('touched')\n"
            "proxy = Proxy()\n"
            "import sys; sys.modules['strange'] = 42\n"
        )
        found = python("-c", "import lazy, user, weft; weft.install()", cwd=stock)
        assert "in use by user)" in found.err

    def test_launcher(self, stock):
        (stock / "sitecustomize.py").write_text("import user")
        found = python("-m", "weft", "-c", "print(1)", env={"PYTHONPATH": str(stock)})
        assert (found.code, found.out) == (2, "")
        assert found.err.startswith("weft: greenlet was imported before") and found.err.count("\n") == 1


class TestChildren:
    """Programs started by one that installed weft, whichever way, have it too."""

    @pytest.mark.parametrize("flags", [[], ["-I"], ["-E"], ["-P"], ["-s"], ["-O", "-X", "dev"]])
    def test_subprocess(self, flags):
        command = [sys.executable, *flags, "-c", ASK]
        code = f"import subprocess, weft; weft.install(); subprocess.run({command!r}, check=True)"
        assert prints("-c", code) == ["weft"]

    def test_grandchildren(self):
        inner = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {ASK!r}], check=True)"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {inner!r}], check=True)"
        assert prints("-m", "weft", "-c", code) == ["weft"]

    def test_exec(self):
        code = (
            f"import os, sys, weft; weft.install(); os.execv(sys.executable, [sys.executable, '-c', {ASK!r}])"
        )
        assert prints("-c", code) == ["weft"]

    def test_fork(self):
        code = f"""import os, weft; weft.install()
if os.fork() == 0:
    exec({ASK!r})
else:
    os.wait()"""
        assert prints("-W", "ignore", "-c", code) == ["weft"]

    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_multiprocessing(self, tmp_path, method):
        script = tmp_path / "script.py"
        script.write_text(f"""
import multiprocessing
def work():
    exec({ASK!r}, {{}})
if __name__ == "__main__":
    import weft; weft.install()
    child = multiprocessing.get_context({method!r}).Process(target=work)
    child.start()
    child.join()
""")
        assert prints(script) == ["weft"]

    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_queues_of_before_go_on(self, tmp_path, method):
        script = tmp_path / "script.py"
        script.write_text(f"""
import concurrent.futures.process, multiprocessing
def work(*queues):
    for queue in queues:
        queue.put(type(queue).__mro__[-2].__name__)
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    queues = [context.Queue(), context.JoinableQueue(), context.SimpleQueue()]
    pool = context.Pool(1)
    executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    import weft; weft.install()
    child = context.Process(target=work, args=queues)
    child.start()
    print(*[queue.get() for queue in queues])
    child.join()
    print(pool.apply(abs, (-1,)), executor.submit(abs, -2).result())
    pool.close()
    pool.join()
    executor.shutdown()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as later:
        print(later.submit(abs, -3).result())
""")
        assert prints(script) == ["Queue Queue SimpleQueue", "1 2", "3"]

    @pytest.mark.parametrize("ours", sorted(OURS))
    @pytest.mark.parametrize("first", ["ours", "stock", "installed"])
    def test_whatever_is_imported_first(self, ours, first):
        """A name that is looked up after `install` is ours, also if our module that has it was imported before."""
        stock, rows = OURS[ours]
        steps = {"ours": f"import {ours}", "stock": f"import {stock}", "installed": "weft.install()"}
        code = f"import weft; {steps.pop(first)}; {'; '.join(steps.values())}; import sys\n"
        for attribute, replacement in rows:
            source, _, name = replacement.rpartition(".")
            code += f"assert sys.modules[{stock!r}].{attribute} is sys.modules[{source!r}].{name}, {attribute!r}\n"
        assert prints("-c", f"{code}print('ours')") == ["ours"]

    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_locks_of_before_go_on(self, tmp_path, method):
        script = tmp_path / "script.py"
        script.write_text(f"""
import multiprocessing
from multiprocessing.synchronize import Lock
def work(lock, semaphore, condition, event, barrier, made_later):
    with lock, semaphore, condition, made_later:
        event.set()
    barrier.wait()
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    locks = (context.RLock(), context.Semaphore(), context.Condition(), context.Event(), context.Barrier(2))
    import weft; weft.install()
    child = context.Process(target=work, args=(*locks, context.Lock()))
    child.start()
    locks[-1].wait()
    child.join()
    print(child.exitcode, locks[3].is_set(), isinstance(context.Lock(), Lock))
""")
        assert prints(script) == ["0 True False"]

    def test_the_variable_alone_does(self):
        assert prints("-c", ASK, env={"WEFT_INSTALL": "greenlet"}) == ["weft"]


class TestAtStart:
    """The .pth: nothing unless asked for, and never in the way."""

    LOADED = "import sys; print([n for n in sys.modules if 'weft' in n])"

    @pytest.mark.parametrize("env", [{}, {"WEFT_INSTALL": ""}])
    def test_inert(self, env):
        assert prints("-c", self.LOADED, env=env) == ["[]"]

    def test_active(self):
        assert "_weft_pth" in prints("-c", self.LOADED, env={"WEFT_INSTALL": "greenlet"})[0]

    def test_without_site_there_is_none(self):
        assert prints("-S", "-c", self.LOADED, env={"WEFT_INSTALL": "greenlet"}) == ["[]"]

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            ("raise ImportError('two\\nlines')", "two lines"),
            ("import no_such_module", "No module named 'no_such_module'"),
            ("1 +", "invalid syntax (__init__.py, line 1)"),
            ("raise RuntimeError", "RuntimeError"),
            ("", "cannot import name '_install' from 'weft'"),
        ],
    )
    def test_a_broken_weft_is_one_line(self, tmp_path, broken, reason):
        (tmp_path / "weft").mkdir()
        (tmp_path / "weft" / "__init__.py").write_text(broken)
        env = {"WEFT_INSTALL": "greenlet", "PYTHONPATH": str(tmp_path)}
        found = python("-c", "print('on it goes')", env=env)
        assert (found.code, found.out) == (0, "on it goes\n")
        expected = f"weft: WEFT_INSTALL=greenlet has no effect in this process: {reason}"
        assert found.err.startswith(expected) and found.err.count("\n") == 1

    def test_an_unknown_name_is_one_line(self):
        found = python("-c", "print('on it goes')", env={"WEFT_INSTALL": "numpy"})
        assert (found.code, found.out) == (0, "on it goes\n")
        assert found.err == (
            "weft: WEFT_INSTALL=numpy has no effect in this process: "
            "weft cannot replace 'numpy'; what it can: greenlet, multiprocessing, gevent\n"
        )

    def test_standard_error_may_be_closed(self):
        command = ["sh", "-c", f"exec {sys.executable} -c 'print(1)' 2>&-"]
        env = environment(WEFT_INSTALL="numpy")
        ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
        assert (ended.returncode, ended.stdout) == (0, "1\n")


class TestInterpreters:
    @pytest.mark.parametrize("minor", [11, 12, 13])
    def test_supported(self, minor):
        assert _support.refusal("cpython", (3, minor), "") is None
        assert _support.refusal("cpython", (3, minor), "d") is None

    @pytest.mark.parametrize(
        ("interpreter", "reason"),
        [
            (("cpython", (3, 10), ""), "weft needs CPython 3.11 to 3.13; this interpreter is CPython 3.10"),
            (("cpython", (3, 14), ""), "weft needs CPython 3.11 to 3.13; this interpreter is CPython 3.14"),
            (("pypy", (3, 11), ""), "weft needs CPython 3.11 to 3.13; this interpreter is pypy"),
            (
                ("cpython", (3, 13), "t"),
                "weft does not support free-threaded builds yet; this interpreter is CPython 3.13t",
            ),
        ],
    )
    def test_refused(self, interpreter, reason):
        assert _support.refusal(*interpreter) == reason

    def test_without_a_native_module_for_it(self, tmp_path):
        ours = Path(weft.__file__).parent
        shutil.copytree(ours, tmp_path / "weft", ignore=shutil.ignore_patterns("_native.*", "__pycache__"))
        (tmp_path / "weft" / "_native.cpython-39-x86_64-linux-gnu.so").touch()
        found = python("-c", "import weft", env={"PYTHONPATH": str(tmp_path)})
        assert (
            "ImportError: weft is installed without a native module for this interpreter "
            f"({sys.implementation.cache_tag} on {sys.platform}); {tmp_path}/weft has "
            "_native.cpython-39-x86_64-linux-gnu.so. Install it with this interpreter, from weft's source: "
        ) in found.err

    def test_with_a_damaged_native_module(self, tmp_path):
        ours = Path(weft.__file__).parent
        shutil.copytree(ours, tmp_path / "weft", ignore=shutil.ignore_patterns("_native.*", "__pycache__"))
        (tmp_path / "weft" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"junk")
        found = python("-c", "import weft", env={"PYTHONPATH": str(tmp_path)})
        assert "ImportError: weft's native module cannot be loaded: " in found.err

    def test_refused_in_subinterpreters(self):
        code = """import weft
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
try:
    failure = interpreters.run_string(interpreters.create(), "import weft")
    print(failure.formatted)
except RuntimeError as error:
    print(error)"""
        found = "\n".join(prints("-W", "ignore", "-c", code))
        assert "weft works in the main interpreter only; sub-interpreters are not supported yet" in found


PROGRAM_IN_C = r"""
#include <greenlet/greenlet.h>
#include <stddef.h>

_Static_assert(sizeof(PyGreenlet) == sizeof(PyObject) + 3 * sizeof(void *), "size");
_Static_assert(offsetof(PyGreenlet, weakreflist) == sizeof(PyObject), "weakreflist");
_Static_assert(offsetof(PyGreenlet, dict) == sizeof(PyObject) + sizeof(void *), "dict");
_Static_assert(PyGreenlet_API_pointers == 12, "table");

static PyObject *demo(PyObject *self, PyObject *run) {
    PyGreenlet *current = PyGreenlet_GetCurrent();
    PyGreenlet *made = PyGreenlet_New(run, current);
    PyGreenlet *thrown = PyGreenlet_New(run, NULL);
    if (!current || !made || !thrown) return NULL;
    int before = PyGreenlet_STARTED(made) + PyGreenlet_ACTIVE(made) + PyGreenlet_MAIN(made);
    PyGreenlet *parent = PyGreenlet_GetParent(made);
    int same = parent == current && PyGreenlet_SetParent(made, parent) == 0;
    PyObject *arguments = Py_BuildValue("(i)", 20);
    PyObject *got = PyGreenlet_Switch(made, arguments, NULL);
    PyObject *exit = PyGreenlet_Throw(thrown, PyExc_GreenletExit, NULL, NULL);
    if (!got || !exit) return NULL;
    return Py_BuildValue("iiiNNOOi", before, same, PyGreenlet_ACTIVE(made), got, exit,
                         (PyObject *)&PyGreenlet_Type, PyExc_GreenletError,
                         PyGreenlet_Check(current) && !PyGreenlet_Check(run) && PyGreenlet_MAIN(current));
}

static PyMethodDef methods[] = {{"demo", demo, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "incident", NULL, -1, methods};

PyMODINIT_FUNC PyInit_incident(void) {
    PyGreenlet_Import();
    return _PyGreenlet_API ? PyModule_Create(&module) : NULL;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_an_extension_compiled_with_the_header(tmp_path):
    import weft.greenlet

    (tmp_path / "incident.c").write_text(PROGRAM_IN_C)
    includes = [f"-I{folder}" for folder in (weft.greenlet.get_include(), sysconfig.get_path("include"))]
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", *includes, "incident.c", "-o", "incident.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    code = """import incident, greenlet
before, same, active, got, left, kind, error, checks = incident.demo(lambda x: x + 1)
print(before, same, active, got, type(left) is greenlet.GreenletExit)
print(kind is greenlet.greenlet, error is greenlet.error, checks)"""
    assert prints("-m", "weft", "-c", code, cwd=tmp_path) == ["0 1 0 21 True", "True True 1"]


def _split(line: str) -> tuple[str, str, str]:
    version, _, rest = line.partition(" ")
    names, _, everything = rest.partition("] [")
    return repr(version), names + "]", "[" + everything


def test_two_implementations_in_one_process_are_warned_of() -> None:
    code = """
import warnings
import greenlet
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import weft.greenlet
[warning] = caught
print(warning.category.__name__, "weft.install()" in str(warning.message))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "RuntimeWarning True\n"


@pytest.mark.parametrize("setting", ["8M", "-5", "0", "99999999999999999999"])
@pytest.mark.parametrize("name", ["WEFT_STACK_SIZE", "WEFT_STACK_SLOTS"])
def test_nonsense_in_a_setting_is_refused(name: str, setting: str) -> None:
    environment = {**os.environ, name: setting}
    ended = subprocess.run(
        [sys.executable, "-c", "import weft"], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 1
    assert f"ImportError: {name}='{setting}' is no number of" in ended.stderr
