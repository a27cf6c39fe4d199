"""The C API: a small extension, compiled against the header that weft ships, uses all twelve pointers."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import weft.greenlet as weft_greenlet
from programs import good

SOURCE = r"""
#include <Python.h>
#define GREENLET_MODULE
#undef GREENLET_MODULE
#include <greenlet/greenlet.h>

#define G(object) ((PyGreenlet *)(object))

static PyObject *types(PyObject *m, PyObject *u) {
    return Py_BuildValue("OOOn", &PyGreenlet_Type, PyExc_GreenletError, PyExc_GreenletExit,
                         (Py_ssize_t)sizeof(PyGreenlet));
}
static PyObject *make(PyObject *m, PyObject *args) {
    PyObject *run = NULL, *parent = NULL;
    if (!PyArg_ParseTuple(args, "|OO", &run, &parent)) return NULL;
    return (PyObject *)PyGreenlet_New(run == Py_None ? NULL : run, G(parent));
}
static PyObject *current(PyObject *m, PyObject *u) { return (PyObject *)PyGreenlet_GetCurrent(); }
static PyObject *throw_into(PyObject *m, PyObject *args) {
    PyObject *g, *type, *value = NULL, *tb = NULL;
    if (!PyArg_ParseTuple(args, "OO|OO", &g, &type, &value, &tb)) return NULL;
    return PyGreenlet_Throw(G(g), type, value, tb);
}
static PyObject *switch_to(PyObject *m, PyObject *args) {
    PyObject *g, *arguments = NULL, *keywords = NULL;
    if (!PyArg_ParseTuple(args, "O|OO", &g, &arguments, &keywords)) return NULL;
    return PyGreenlet_Switch(G(g), arguments == Py_None ? NULL : arguments, keywords);
}
static PyObject *set_parent(PyObject *m, PyObject *args) {
    PyObject *g, *parent;
    if (!PyArg_ParseTuple(args, "OO", &g, &parent)) return NULL;
    if (PyGreenlet_SetParent(G(g), G(parent)) < 0) return NULL;
    Py_RETURN_NONE;
}
static PyObject *get_parent(PyObject *m, PyObject *g) {
    PyObject *parent = (PyObject *)PyGreenlet_GetParent(G(g));
    if (!parent && !PyErr_Occurred()) Py_RETURN_NONE;
    return parent;
}
static PyObject *state(PyObject *m, PyObject *g) {
    int checked = PyGreenlet_Check(g) != 0;
    int main_ = PyGreenlet_MAIN(G(g)), started = PyGreenlet_STARTED(G(g)), active = PyGreenlet_ACTIVE(G(g));
    if (PyErr_Occurred()) return NULL;
    return Py_BuildValue("iiii", checked, main_, started, active);
}
static PyMethodDef methods[] = {
    {"types", types, METH_NOARGS, ""}, {"make", make, METH_VARARGS, ""}, {"current", current, METH_NOARGS, ""},
    {"throw", throw_into, METH_VARARGS, ""}, {"switch", switch_to, METH_VARARGS, ""},
    {"set_parent", set_parent, METH_VARARGS, ""}, {"get_parent", get_parent, METH_O, ""},
    {"state", state, METH_O, ""}, {NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "uses_capi", NULL, -1, methods};
PyMODINIT_FUNC PyInit_uses_capi(void) {
    PyGreenlet_Import();
    if (!_PyGreenlet_API) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, "no C API");
        return NULL;
    }
    return PyModule_Create(&definition);
}
"""

PRELUDE = """
import gc, weft
weft.install(only="greenlet") if "greenlet" not in sys.modules or sys.modules["greenlet"] is not greenlet else None
import uses_capi as c
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `import uses_capi` finds the extension."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    folder: Path = tmp_path_factory.mktemp("capi")
    (folder / "uses_capi.c").write_text(SOURCE)
    target = folder / f"uses_capi{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = [f"-I{sysconfig.get_path('include')}", f"-I{weft_greenlet.get_include()}"]
    warnings = ["-Wall", "-Werror", "-Wno-unused-function", "-Wno-missing-field-initializers"]
    command = [compiler, "-shared", "-fPIC", *warnings, *headers, "-o", target, folder / "uses_capi.c"]
    subprocess.run(command, check=True)
    return {"PYTHONPATH": str(folder)}


def uses(text: str, extension: dict[str, str]) -> list[str]:
    """What a program prints that has the extension as `c`."""
    from textwrap import dedent

    return good(PRELUDE + dedent(text), environment=extension)


def test_types_and_errors(extension: dict[str, str]) -> None:
    text = """
    kind, error, exit, size = c.types()
    print(kind is Greenlet, error is greenlet.error, exit is GreenletExit, size, kind.__basicsize__)
    """
    assert uses(text, extension) == ["True True True 40 40"]


def test_new_and_current(extension: dict[str, str]) -> None:
    text = """
    assert c.current() is main
    one = c.make(lambda: c.current())
    assert one.parent is main and one.switch() is one
    two = c.make(None, one)
    assert two.parent is one and not hasattr(two, "run")
    three = c.make(); three.run = lambda: 3
    assert three.switch() == 3
    for bad in (5, "x"):
        try: c.make(None, bad)
        except TypeError: pass
        else: raise AssertionError
    print("good")
    """
    assert uses(text, extension) == ["good"]


def test_switch(extension: dict[str, str]) -> None:
    text = """
    log = []
    def run(*arguments, **keywords):
        log.append((arguments, keywords))
        while True: log.append(main.switch("back"))
    one = c.make(run)
    sent = [((1, 2), {"a": 3}), ((), None), ((5,), None), ((5, 6), None), ((), {"k": 1}), ((5,), {"k": 1}), (None, None)]
    for arguments, keywords in sent:
        got = c.switch(one, arguments, keywords) if keywords is not None else c.switch(one, arguments)
        assert got == "back"
    assert log == [((1, 2), {"a": 3}), (), 5, (5, 6), {"k": 1}, ((5,), {"k": 1}), ()], log
    assert c.switch(one) == "back"
    try: c.switch(c.make(lambda: 1 / 0))
    except ZeroDivisionError: print("good")
    """
    assert uses(text, extension) == ["good"]


def test_throw(extension: dict[str, str]) -> None:
    text = """
    def run():
        while True:
            try: main.switch()
            except KeyError as error: main.switch(error.args)
    one = c.make(run); one.switch()
    assert c.throw(one, KeyError, 5) == (5,)
    one.switch()
    assert c.throw(one, KeyError(6, 7)) == (6, 7)
    one.switch()
    try: c.throw(one, 5)
    except TypeError as error: print(error)
    try: c.throw(one, ValueError, "x", 5)
    except TypeError as error: print(error)
    assert isinstance(c.throw(one, GreenletExit), GreenletExit)
    print(one.dead)
    """
    assert uses(text, extension) == [
        "exceptions must be classes, or instances, not int",
        "throw() third argument must be a traceback object",
        "True",
    ]


def test_parents_and_states(extension: dict[str, str]) -> None:
    text = """
    class Derived(Greenlet): pass
    fresh, waiting, dead = c.make(), Derived(lambda: main.switch()), c.make(lambda: 0)
    waiting.switch(); dead.switch()
    print(c.state(main), c.state(fresh), c.state(waiting), c.state(dead))
    assert c.get_parent(main) is None and c.get_parent(fresh) is main
    c.set_parent(fresh, waiting)
    assert c.get_parent(fresh) is waiting
    for parent, error in ((fresh, ValueError), (5, TypeError)):
        try: c.set_parent(fresh, parent)
        except error: pass
        else: raise AssertionError
    try: c.set_parent(main, fresh)
    except AttributeError: pass
    else: raise AssertionError
    """
    assert uses(text, extension) == ["(1, 1, 1, 1) (1, 0, 0, 0) (1, 0, 1, 1) (1, 0, 1, 0)"]


def test_what_is_no_greenlet_is_refused(extension: dict[str, str]) -> None:
    text = """
    for use in (c.state, c.get_parent, lambda o: c.switch(o), lambda o: c.throw(o, ValueError)):
        try: use(5)
        except TypeError: pass
        else: raise AssertionError(use)
    print("good")
    """
    assert uses(text, extension) == ["good"]


def test_references_are_kept_exactly(extension: dict[str, str]) -> None:
    text = """
    value, counts = object(), []
    for _ in range(5):
        one = c.make(lambda *a, **k: main.switch(*a, **k))
        c.switch(one, (value,), {"k": value}); c.switch(one, (value, value))
        two = c.make(lambda: main.switch(), one); c.switch(two); c.get_parent(two); c.current()
        try: c.throw(two, KeyError, value)
        except KeyError: pass
        try: c.make(lambda: 0, 5)
        except TypeError: pass
        del one, two
        gc.collect()
        counts.append((sys.getrefcount(value), sys.getrefcount(main), sys.getrefcount(None) > 0))
    assert len(set(counts[1:])) == 1, counts
    print("good")
    """
    assert uses(text, extension) == ["good"]
