"""Run one test module of another project in this process and record every result.

    collect.py FACE MODE MODULE OUT IMPL [unittest arguments]

MODE `main` runs MODULE as `python -m MODULE` would; `tests` hands MODULE to `unittest.main`;
`class` does so with one class of a module, MODULE being `module.Class`.
OUT receives one JSON object a line, written as it happens, so that a crash loses nothing.
FACE is the name weft plays, `greenlet`, `multiprocessing` or `gevent`, and IMPL is `weft` or `stock`:
whose this process must be using.

The recorder enters through `unittest.runner` when the module under test imports it, never
earlier: modules that patch the standard library first must find it as untouched as under `-m`.
For the same reason this file imports next to nothing.
"""

from __future__ import annotations

import faulthandler
import json
import os
import runpy
import sys
import time
from importlib.machinery import PathFinder

GUARD_FAILED = 97
MESSAGE_TAIL = 2000


class Journal:
    """Appends events to a file; only the process which created it writes.

    The file is reopened for each event: some tests close every descriptor they find.
    The functions are kept from before any patching.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = os.getpid()
        self._open, self._write, self._close, self._getpid = os.open, os.write, os.close, os.getpid

    def write(self, event: str, **fields: object) -> None:
        if self._getpid() != self._pid:
            return
        line = json.dumps({"event": event, **fields}) + "\n"
        descriptor = self._open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        try:
            self._write(descriptor, line.encode())
        finally:
            self._close(descriptor)


def wrong_greenlets(impl: str, module: str) -> str | None:
    """Why the greenlets in this process are not those of `impl`, or None."""
    import greenlet

    if impl == "weft":
        import weft.greenlet as ours

        for name in ("greenlet", "getcurrent", "GreenletExit", "settrace"):
            if getattr(greenlet, name) is not getattr(ours, name):
                return f"greenlet.{name} is not weft.greenlet.{name}"
        expected = ours.greenlet
    else:
        home = os.path.dirname(greenlet.__file__)
        extension = getattr(greenlet._greenlet, "__file__", None) or ""
        if "weft" in sys.modules:
            return "weft is imported in a run of the stock"
        if os.path.dirname(extension) != home:
            return f"greenlet._greenlet is not the installed extension: {extension!r}"
        expected = greenlet._greenlet.greenlet
    if not isinstance(greenlet.getcurrent(), expected):
        return f"getcurrent() is a {type(greenlet.getcurrent())!r}"
    if module.startswith("gevent."):
        import gevent

        if not issubclass(gevent.Greenlet, expected):
            return f"gevent.Greenlet does not derive from {expected!r}"
    return None


def wrong_gevent(impl: str) -> str | None:
    """Why gevent in this process, with all of it that is imported, is not that of `impl`, or None."""
    import gevent

    if impl == "weft":
        import weft.gevent as ours

        if gevent is not ours:
            return f"gevent is not weft.gevent, but {gevent!r}"
    elif "weft" in sys.modules:
        return "weft is imported in a run of the stock"
    home = os.path.dirname(gevent.__file__)
    foreign = os.sep + "weft" + os.sep
    if (foreign in home + os.sep) != (impl == "weft"):
        return f"gevent comes from {home}"
    for name, module in list(sys.modules.items()):
        # The tests, and what they are made of, are the installed package's.
        if name.partition(".")[0] != "gevent" or name.startswith(("gevent.tests", "gevent.testing")):
            continue
        place = getattr(module, "__file__", None)
        if name != "gevent._hub" and place is not None and not place.startswith(home + os.sep):
            return f"{name} comes from {place}, gevent from {home}"
    return wrong_greenlets(impl, "gevent.tests")


def wrong_face(face: str, impl: str, module: str) -> str | None:
    """Why what this process knows as `face` is not that of `impl`, or None."""
    if face == "greenlet":
        return wrong_greenlets(impl, module)
    if face == "gevent":
        return wrong_gevent(impl)
    import mp_impl  # beside the wrappers, on PYTHONPATH: children ask it as well

    return mp_impl.wrong_multiprocessing(impl)


def record_results(runner: object, journal: Journal, module: str, face: str, impl: str) -> None:
    """Make every runner of the module `unittest.runner` report to the journal."""
    clock = time.monotonic

    def name_of(test: object) -> str:
        test = getattr(test, "test_case", test)  # a subtest counts for its test
        name = test.id()
        for prefix in ("__main__.", module + "."):
            name = name.removeprefix(prefix).replace(f"({prefix}", "(")
        return name

    class RecordingResult(runner.TextTestResult):
        _started = 0.0

        def _note(self, test: object, outcome: str, message: str = "") -> None:
            journal.write(
                "result",
                test=name_of(test),
                outcome=outcome,
                seconds=round(clock() - self._started, 3),
                message=message[-MESSAGE_TAIL:],
            )

        def startTestRun(self) -> None:
            journal.write("begin")
            super().startTestRun()

        def stopTestRun(self) -> None:
            super().stopTestRun()
            # Only now is all imported that the tests have used.
            if face == "gevent" and (problem := wrong_gevent(impl)) is not None:
                journal.write("guard", problem=problem)
            journal.write("end", successful=self.wasSuccessful())

        def startTest(self, test: object) -> None:
            self._started = clock()
            journal.write("start", test=name_of(test))
            super().startTest(test)

        def stopTest(self, test: object) -> None:
            super().stopTest(test)
            journal.write("stop", test=name_of(test))

        def addSuccess(self, test: object) -> None:
            super().addSuccess(test)
            self._note(test, "pass")

        def addError(self, test: object, err: tuple) -> None:
            super().addError(test, err)
            self._note(test, "error", self.errors[-1][1])

        def addFailure(self, test: object, err: tuple) -> None:
            super().addFailure(test, err)
            self._note(test, "fail", self.failures[-1][1])

        def addSubTest(self, test: object, subtest: object, err: tuple | None) -> None:
            super().addSubTest(test, subtest, err)
            if err is not None:
                self._note(test, "fail", self._exc_info_to_string(err, test))

        def addSkip(self, test: object, reason: str) -> None:
            super().addSkip(test, reason)
            self._note(test, "skip", reason)

        def addExpectedFailure(self, test: object, err: tuple) -> None:
            super().addExpectedFailure(test, err)
            self._note(test, "xfail")

        def addUnexpectedSuccess(self, test: object) -> None:
            super().addUnexpectedSuccess(test)
            self._note(test, "unexpected-pass")

    runner.TextTestRunner.resultclass = RecordingResult


class RunnerHook:
    """A finder that lets `record_results` at `unittest.runner` once that is imported."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != "unittest.runner":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module: object) -> None:
            execute(module)
            record_results(module, *self._arguments)

        spec.loader.exec_module = exec_module
        return spec


def main() -> None:
    face, mode, module, out, impl, *arguments = sys.argv[1:]
    here = os.path.dirname(os.path.abspath(__file__))
    # As `-m` has it: the working directory first, this script's not at all.
    sys.path[:] = [os.getcwd()] + [p for p in sys.path if p and os.path.abspath(p) != here]
    faulthandler.enable()
    journal = Journal(out)
    problem = wrong_face(face, impl, module)
    journal.write("guard", problem=problem)
    if problem is not None:
        print("guard:", problem, file=sys.stderr)
        sys.exit(GUARD_FAILED)
    if mode == "guard":
        return
    if "unittest.runner" in sys.modules:
        record_results(sys.modules["unittest.runner"], journal, module, face, impl)
    else:
        sys.meta_path.insert(0, RunnerHook(journal, module, face, impl))
    if mode in ("tests", "class"):
        import unittest

        name, _, chosen = module.rpartition(".") if mode == "class" else (module, "", "")
        unittest.main(module=name, argv=[name, "-v", *arguments, *([chosen] if chosen else [])])
    else:
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
