"""The suites: which modules they have, how one module is run, and what came out of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import launch

HERE = Path(__file__).resolve().parent
COLLECT = HERE / "collect.py"
CPYTHON = HERE / "cpython"  # wrappers of CPython's own tests, and what their processes import

METHODS = ("fork", "spawn", "forkserver")

# From best to worst; a test reported twice (subtests, tearDown) keeps the worst.
OUTCOMES = ("skip", "pass", "xfail", "unexpected-pass", "fail", "error", "crash", "timeout")
GOOD = ("pass", "xfail")


@dataclass(frozen=True)
class Suite:
    name: str
    package: str  # that holds the modules; empty if they are found by themselves
    mode: str  # of collect.py
    timeout: float  # seconds a module may take
    env: dict[str, str]
    face: str = "greenlet"  # the name that has to be weft's
    path: Path | None = None  # where modules lie that are no package
    wrappers: tuple[str, ...] = ()  # those modules
    beside: bool = False  # the tests import helpers that lie beside them by bare name
    timeouts: dict[str, float] = field(default_factory=dict)  # for modules known to hang
    # modules that would skip themselves: the variables to leave out for them
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)
    baseline: str = ""  # the suite whose baseline counts, if it is not its own


# What gevent.testing.testrunner sets for its children.
_GEVENT_ENVIRONMENT = {
    "GEVENTTEST_USE_RESOURCES": "-network",
    "GEVENTTEST_QUIET": "True",
    "PYTHONDEVMODE": "1",
    "PYTHONFAULTHANDLER": "true",
    "PYTHONWARNINGS": "default,default::DeprecationWarning,default::ResourceWarning,"
    "ignore:::site:,ignore:::pkgutil:,"
    "ignore:::importlib._bootstrap:,ignore:::importlib._bootstrap_external:",
}
_WITHOUT_DEVELOPMENT_MODE = {
    "test__monkey_sigchld": ("PYTHONDEVMODE",),
    "test__monkey_sigchld_2": ("PYTHONDEVMODE",),
    "test__monkey_sigchld_3": ("PYTHONDEVMODE",),
}

SUITES = {
    suite.name: suite
    for suite in (
        Suite("greenlet", "greenlet.tests", mode="tests", timeout=300, env={}),
        Suite(
            "gevent",
            "gevent.tests",
            mode="main",
            timeout=300,
            env=_GEVENT_ENVIRONMENT,
            beside=True,
            timeouts={"test__issue1686": 30},
            without=_WITHOUT_DEVELOPMENT_MODE,
        ),
        # The same tests with weft.gevent in the place of gevent. What passes on gevent has to pass.
        Suite(
            "hub",
            "gevent.tests",
            mode="main",
            timeout=120,
            env=_GEVENT_ENVIRONMENT,
            face="gevent",
            beside=True,
            timeouts={"test__issue1686": 30},
            without=_WITHOUT_DEVELOPMENT_MODE,
            baseline="gevent",
        ),
        # A "module" is a class under one start method: a hang costs no more than that.
        Suite(
            "multiprocessing",
            "",
            mode="class",
            timeout=300,
            env={"PYTHONFAULTHANDLER": "1"},
            face="multiprocessing",
            path=CPYTHON,
            wrappers=("mp_main", *(f"mp_{method}" for method in METHODS)),
        ),
        # The same of concurrent.futures, without the thread pools.
        Suite(
            "concurrent_futures",
            "",
            mode="class",
            timeout=300,
            env={"PYTHONFAULTHANDLER": "1"},
            face="multiprocessing",
            path=CPYTHON,
            wrappers=("cf_common", *(f"cf_{method}" for method in METHODS)),
        ),
    )
}

# Run by the interpreter under test, without weft.
_DESCRIBE = """
import glob, importlib.metadata, importlib.util, json, os, sys
package = sys.argv[1]
folder = os.path.dirname(importlib.util.find_spec(package).origin)
modules = sorted(os.path.basename(p)[:-3] for p in glob.glob(folder + "/test_*.py"))
alone = []
if package == "gevent.tests":
    from gevent.tests import known_failures as known
    modules = [m for m in modules if m + ".py" not in known.IGNORED_TESTS]
    alone = [m[:-3] for m in known.RUN_ALONE]
peers = {}
for name in ("greenlet", "gevent", "psutil", "objgraph", "zope.event", "zope.interface",
             "requests", "dnspython", "cffi"):
    try:
        peers[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "folder": folder,
                  "modules": modules, "alone": alone, "peers": peers}))
"""

# The same for CPython's tests: the classes of the wrappers that have tests.
_DESCRIBE_CLASSES = """
import importlib, json, os, sys, test, unittest
modules = []
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    names = unittest.defaultTestLoader.getTestCaseNames
    modules += [f"{name}.{known}" for known, found in vars(module).items()
                if isinstance(found, type) and issubclass(found, unittest.TestCase) and names(found)]
version = "%d.%d.%d" % sys.version_info[:3]
print(json.dumps({"python": version, "folder": os.path.dirname(test.__file__),
                  "modules": modules, "alone": [], "peers": {"CPython": version}}))
"""


@dataclass(frozen=True)
class Installed:
    """A suite as one interpreter has it installed."""

    python: str  # its version, 3.11.7
    folder: str
    modules: list[str]
    alone: list[str]  # modules that must not run beside others
    peers: dict[str, str]

    @property
    def version(self) -> str:
        return self.python.rpartition(".")[0]


@dataclass
class Result:
    test: str  # module::Class.method, or the bare module for what concerns it as a whole
    outcome: str
    message: str = ""
    seconds: float = 0.0
    retried: bool = False  # this is not the outcome of the first attempt


@dataclass
class ModuleRun:
    module: str
    results: dict[str, Result] = field(default_factory=dict)
    seconds: float = 0.0
    guard: str | None = None  # what the guard complains of
    leftovers: list[str] = field(default_factory=list)
    output: str = ""


def describe(suite: Suite, python: str) -> Installed:
    arguments = [_DESCRIBE, suite.package] if suite.package else [_DESCRIBE_CLASSES, *suite.wrappers]
    answer = subprocess.run(
        [python, "-c", *arguments],
        env=_environment(suite),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Installed(**json.loads(answer.stdout))


def guard(suite: Suite, python: str, impl: str) -> str | None:
    """Whether a process and its child use the face of `impl`: a complaint or None."""
    spawn = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    check = [str(COLLECT), suite.face, "guard", suite.package, os.devnull, impl]
    for command in (check, ["-c", spawn, *check]):
        ended = subprocess.run(
            [*_interpreter(suite, python, impl), *command],
            env=_environment(suite),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode:
            where = "in a child process" if command is not check else "in the process itself"
            return f"{where}: {ended.stdout.strip()[-500:]}"
    return None


def run_module(
    suite: Suite, installed: Installed, module: str, python: str, impl: str, match: str | None
) -> ModuleRun:
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as scratch:
        journal = Path(scratch, "results.jsonl")
        command = [*_interpreter(suite, python, impl), str(COLLECT), suite.face]
        full_name = f"{suite.package}.{module}" if suite.package else module
        command += [suite.mode, full_name, str(journal), impl]
        if match is not None:
            command += ["-k", match]
        env = _environment(suite, installed.folder)
        env["TMPDIR"] = scratch
        env["PEERS_IMPL"] = impl
        for name in suite.without.get(module, ()):
            del env[name]
        timeout = suite.timeouts.get(module, suite.timeout)
        ended = launch.run(command, env, Path(scratch), timeout)
        lines = journal.read_text().splitlines() if journal.exists() else []
    run = ModuleRun(module, seconds=ended.seconds, leftovers=ended.leftovers, output=ended.output)
    _read_journal(run, [json.loads(line) for line in lines], ended)
    return run


def _interpreter(suite: Suite, python: str, impl: str) -> list[str]:
    return [python, "-u", "-m", "weft", "--only", suite.face] if impl == "weft" else [python, "-u"]


def _environment(suite: Suite, folder: str | None = None) -> dict[str, str]:
    """This process's environment without what would steer the suites, plus the suite's own."""
    steering = ("WEFT_", "PYTHON", "GEVENT", "GREENLET_", "GITHUB_", "TRAVIS", "APPVEYOR")
    env = {k: v for k, v in os.environ.items() if not k.startswith(steering) and k != "CI"}
    env.update(suite.env)
    if suite.beside and folder is not None:
        env["PYTHONPATH"] = folder
    if suite.path is not None:
        env["PYTHONPATH"] = str(suite.path)
    return env


def _read_journal(run: ModuleRun, events: list[dict[str, Any]], ended: launch.Ended) -> None:
    begun = finished = False
    guarded = False
    open_test: str | None = None

    def note(test: str | None, outcome: str, message: str = "", seconds: float = 0.0) -> None:
        name = f"{run.module}::{test}" if test else run.module
        known = run.results.get(name)
        if known is None or OUTCOMES.index(outcome) > OUTCOMES.index(known.outcome):
            run.results[name] = Result(name, outcome, message, seconds)

    for event in events:
        match event["event"]:
            case "guard":
                guarded = True
                run.guard = event["problem"]
            case "begin":
                begun, finished = True, False
            case "end":
                finished = True
            case "start":
                open_test = event["test"]
            case "stop":
                open_test = None
            case "result":
                note(event["test"], event["outcome"], event["message"], event["seconds"])

    if not guarded:
        run.guard = "the guard did not run: " + ended.output.strip()[-500:]
    if run.guard is not None:
        return
    tail = ended.output.strip()[-1500:]
    if ended.timed_out:
        note(open_test, "timeout", ended.stacks or tail, ended.seconds)
    elif open_test is not None or ended.returncode < 0 or (begun and not finished):
        note(open_test, "crash", f"{_ending(ended.returncode)}\n{tail}", ended.seconds)
    elif not begun:
        outcome = "pass" if ended.returncode == 0 else "error"
        note(None, outcome, tail if outcome == "error" else "", ended.seconds)
    else:
        bad = any(OUTCOMES.index(r.outcome) > OUTCOMES.index("xfail") for r in run.results.values())
        # 5: no test ran, or all were skipped (Python 3.12 on)
        if ended.returncode not in ((1,) if bad else (0, 5)):
            note(None, "error", f"after the tests: {_ending(ended.returncode)}\n{tail}")
        elif not run.results:
            note(None, "skip", "no tests")


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
