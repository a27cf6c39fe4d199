"""`python -m weft` against `python`: what a program sees of how it was started is the same."""

from __future__ import annotations

import py_compile
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from interpreter import Ended, environment, prints, python

# Prints everything a program can ask about its start.
OBSERVE = """
import sys
print(sys.argv, sys.path, sys.flags.safe_path, sys.flags.dev_mode, sys.warnoptions)
print(__name__, __package__, __doc__, __annotations__)
print(__spec__ and (__spec__.name, __spec__.origin, __spec__.cached, type(__spec__.loader)))
print(type(__loader__), __loader__ if isinstance(__loader__, type) else vars(__loader__))
print(globals().get("__file__"), globals().get("__cached__", "unset"), __builtins__)
print(sorted(globals()), sys.modules["__main__"].__dict__ is globals())
"""

RAISE = """
def inner():
    raise ValueError("from the program")
def outer():
    inner()
outer()
"""


def same(tmp_path: Path, *arguments: str | Path, before: tuple[str, ...] = (), **options: object) -> Ended:
    """Run `arguments` by `python` and by `python -m weft`: both must end the same way."""
    expected = python(*before, *arguments, cwd=tmp_path, **options)
    found = python(*before, "-m", "weft", *arguments, cwd=tmp_path, **options)
    assert found == expected
    return found


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A script that observes, below the working directory."""
    (tmp_path / "app").mkdir()
    script = tmp_path / "app" / "script.py"
    script.write_text(OBSERVE)
    return script


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `pack` with a `__main__` and a module `pack.part`, both observing."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "__init__.py").write_text("import sys; print('importing', sys.argv)")
    (folder / "__main__.py").write_text(OBSERVE)
    (folder / "part.py").write_text(OBSERVE)
    return folder


ISOLATION = pytest.mark.parametrize("before", [(), ("-P",), ("-I",), ("-X", "dev", "-W", "error")])


class TestStart:
    @ISOLATION
    @pytest.mark.parametrize("spelling", ["app/script.py", "./app/script.py", "app/../app/script.py"])
    def test_script(self, tmp_path, program, before, spelling):
        assert same(tmp_path, spelling, "a", "-b", "--only", before=before).code == 0

    def test_script_by_absolute_path(self, tmp_path, program):
        assert same(tmp_path, program, "-m", "x").code == 0

    def test_script_behind_a_symbolic_link(self, tmp_path, program):
        (tmp_path / "link.py").symlink_to(program)
        assert f"'{program.parent}'" in same(tmp_path, "link.py").out

    def test_compiled_script(self, tmp_path, program):
        py_compile.compile(str(program), cfile=str(tmp_path / "compiled.pyc"))
        (tmp_path / "renamed").write_bytes((tmp_path / "compiled.pyc").read_bytes())
        assert same(tmp_path, "compiled.pyc", "a").code == 0
        assert same(tmp_path, "renamed", "a").code == 0

    @ISOLATION
    def test_directory(self, tmp_path, program, before):
        program.rename(tmp_path / "app" / "__main__.py")
        assert same(tmp_path, "app", "a", before=before).code == 0

    @ISOLATION
    def test_zip_file(self, tmp_path, before):
        with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
            archive.writestr("__main__.py", OBSERVE)
        assert same(tmp_path, "app.pyz", "a", before=before).code == 0

    @pytest.mark.parametrize("name", ["pack", "pack.part", "pack.__main__"])
    def test_module(self, tmp_path, package, name):
        assert same(tmp_path, "-m", name, "a", "-b").code == 0
        assert same(tmp_path, f"-m{name}", "-c").code == 0

    def test_module_with_safe_path(self, tmp_path, package):
        env = {"PYTHONPATH": str(tmp_path)}
        assert same(tmp_path, "-m", "pack", before=("-P",), env=env).code == 0

    @ISOLATION
    def test_code(self, tmp_path, before):
        assert same(tmp_path, "-c", OBSERVE, "a", "-b", before=before).code == 0
        assert same(tmp_path, f"-c{OBSERVE}", "-c", before=before).code == 0

    @ISOLATION
    def test_standard_input(self, tmp_path, before):
        assert same(tmp_path, "-", "a", "-b", stdin=OBSERVE, before=before).code == 0

    def test_options_end_at_two_dashes(self, tmp_path, program):
        assert same(tmp_path, "--", "app/script.py", "--").code == 0

    def test_source_encoding(self, tmp_path):
        (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\r\nprint(ascii('\xe9'))\r\n")
        (tmp_path / "marked.py").write_bytes(b"\xef\xbb\xbfprint(ascii('\xc3\xa9'))\n")
        assert same(tmp_path, "latin.py").out == same(tmp_path, "marked.py").out == "'\\xe9'\n"

    def test_weft_leaves_its_future_imports_behind(self, tmp_path):
        assert same(tmp_path, "-c", "def f(x: int): pass\nprint(f.__annotations__)").code == 0

    def test_little_is_imported(self):
        before, after = (
            set(prints(*start, "-c", "import sys; print(*sys.modules, sep='\\n')"))
            for start in ((), ("-m", "weft"))
        )
        patched_by_others = {"threading", "socket", "select", "subprocess", "signal", "ssl", "queue"}
        assert not (after - before) & (patched_by_others | {"typing", "argparse", "greenlet", "re"})


class TestEnd:
    @pytest.mark.parametrize(
        "code",
        [
            "raise SystemExit",
            "raise SystemExit(3)",
            "raise SystemExit('a message')",
            "import sys; sys.exit(256 + 7)",
            "import os; os._exit(5)",
            "import os; os.abort()",
            "raise KeyboardInterrupt",
            "import signal; signal.raise_signal(signal.SIGINT)",
            "import signal; signal.raise_signal(signal.SIGTERM)",
            "import atexit; atexit.register(print, 'at exit'); raise SystemExit(4)",
            "import threading as t; t.Thread(target=lambda: t.main_thread().join() or print('late')).start()",
            "import sys; sys.excepthook = lambda *a: print('hook', a[:2], a[2].tb_lineno); 1 / 0",
            "import sys, atexit; atexit.register(lambda: print(sys.excepthook)); 1 / 0",
            "import sys; del sys.excepthook; raise SystemExit(6)",
            "try: 1 / 0\nexcept Exception as e: raise ValueError(2) from e",
            "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
        ],
    )
    def test_script(self, tmp_path, code):
        (tmp_path / "script.py").write_text(code)
        same(tmp_path, "script.py")

    def test_traceback_of_a_script(self, tmp_path):
        (tmp_path / "script.py").write_text(RAISE)
        assert "weft" not in same(tmp_path, "script.py").err.replace(str(tmp_path), "")

    def test_traceback_of_a_compiled_script(self, tmp_path):
        (tmp_path / "script.py").write_text(RAISE)
        py_compile.compile(str(tmp_path / "script.py"), cfile=str(tmp_path / "script.pyc"))
        same(tmp_path, "script.pyc")

    def test_traceback_of_a_module(self, tmp_path):
        (tmp_path / "script.py").write_text(RAISE)
        same(tmp_path, "-m", "script")

    def test_traceback_of_a_directory(self, tmp_path):
        (tmp_path / "__main__.py").write_text(RAISE)
        same(tmp_path, ".")

    def test_traceback_of_code(self, tmp_path):
        same(tmp_path, "-c", RAISE)

    def test_traceback_of_standard_input(self, tmp_path):
        same(tmp_path, "-", stdin=RAISE)

    @pytest.mark.parametrize("code", ["1 +", "if x:\npass", "print('", "\tx\n  y"])
    def test_syntax_error(self, tmp_path, code):
        (tmp_path / "script.py").write_text(code)
        found = same(tmp_path, "script.py")
        assert found.code == 1 and "Traceback" not in found.err.partition("SyntaxError")[0]

    def test_post_mortem_sees_the_users_frames_only(self, tmp_path):
        code = "import sys, traceback; traceback.print_tb(sys.last_traceback, file=sys.stdout)"
        (tmp_path / "script.py").write_text(
            f"import atexit\natexit.register(lambda: exec({code!r}))\n{RAISE}"
        )
        assert "outer" in same(tmp_path, "script.py").out

    def test_interactive_afterwards(self, tmp_path):
        (tmp_path / "script.py").write_text("value = 42\n1 / 0")
        found = python("-i", "-m", "weft", "script.py", stdin="print(value, __name__)", cwd=tmp_path)
        assert found.out == "42 __main__\n"

    def test_no_such_script(self, tmp_path):
        assert same(tmp_path, "missing.py").code == 2

    @pytest.mark.parametrize("name", ["missing", "missing.part", "json.missing", "xml", "json.tool.x"])
    def test_no_such_module(self, tmp_path, name):
        assert same(tmp_path, "-m", name).code == 1

    def test_directory_without_main(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert same(tmp_path, "empty").code == 1

    def test_compiled_for_another_version(self, tmp_path):
        (tmp_path / "old.pyc").write_bytes(b"\0" * 32)
        found = same(tmp_path, "old.pyc")
        assert "Bad magic number" in found.err

    def test_output_is_flushed(self, tmp_path):
        assert same(tmp_path, "-c", "import sys; sys.stdout.write('x' * 100000)").out == "x" * 100000


class TestCommandLine:
    def test_help(self):
        found = python("-m", "weft", "--help")
        assert found == python("-m", "weft", "-h")
        assert (found.code, found.err) == (0, "")
        assert found.out.startswith("usage: python -m weft") and "--only" in found.out

    def test_version(self):
        import weft

        expected = f"weft {weft.__version__} (CPython {sys.version.split()[0]})"
        assert prints("-m", "weft", "--version") == prints("-m", "weft", "-V") == [expected]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "nothing to run"),
            (("--only", "greenlet"), "nothing to run"),
            (("--only",), "--only needs names"),
            (("-m",), "-m needs a module"),
            (("-c",), "-c needs code"),
            (("--",), "-- needs a script"),
            (("--only", "numpy", "x.py"), "--only: weft cannot replace 'numpy'; what it can: greenlet"),
            (("--only=", "x.py"), "--only: weft cannot replace ''; what it can: greenlet"),
            (("-u", "x.py"), "unknown option -u; options of the interpreter go before -m weft"),
            (("--frob", "x.py"), "unknown option --frob"),
        ],
    )
    def test_bad_use(self, arguments, message):
        found = python("-m", "weft", *arguments)
        assert (found.code, found.out) == (2, "")
        assert found.err.startswith(f"weft: {message}") and "usage: python -m weft" in found.err

    @pytest.mark.parametrize(
        "only", [("--only", "greenlet"), ("--only=greenlet",), ("--only", " greenlet,greenlet")]
    )
    def test_only(self, only):
        code = (
            "import os, sys, greenlet; print(sys.argv, os.environ['WEFT_INSTALL'], greenlet.__spec__.origin)"
        )
        (line,) = prints("-m", "weft", *only, "-c", code, "--only")
        assert line.startswith("['-c', '--only'] greenlet ") and "weft" in line

    def test_inside_itself(self, tmp_path):
        (tmp_path / "script.py").write_text(OBSERVE + RAISE)
        expected = python("script.py", "a", cwd=tmp_path)
        assert python("-m", "weft", "-m", "weft", "script.py", "a", cwd=tmp_path) == expected

    def test_the_program_may_read_standard_input(self, tmp_path):
        assert same(tmp_path, "-c", "print(input())", stdin="a line\n").out == "a line\n"

    def test_script_from_a_pipe(self):
        command = ["bash", "-c", f"{sys.executable} -m weft <(echo 'print(__name__)')"]
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert (ended.stdout, ended.stderr) == ("__main__\n", "")


SPAWNING = """
import multiprocessing, sys
import greenlet
from weft import greenlet as ours
print(greenlet is ours, __name__, sys.argv[1:])

class Item: pass

def work(item):
    assert type(item) is Item
    import greenlet as theirs
    return theirs is ours, theirs.greenlet is ours.greenlet, sys.argv[1:]

def main():
    for method in ("spawn", "forkserver", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, pool.apply(work, [Item()]))

if __name__ == "__main__":
    main()
"""


class TestMultiprocessing:
    """Children find the program's `__main__` again, and have weft's faces."""

    EXPECTED = [f"{method} (True, True, ['a'])" for method in ("spawn", "forkserver", "fork")]

    @staticmethod
    def parents(lines: list[str]) -> list[str]:
        # spawn runs the main module again in the child, as __mp_main__; forkserver may, before
        # the first child or in it.
        assert "True __main__ ['a']" in lines
        return [line for line in lines if "main__" not in line]

    def test_script(self, tmp_path):
        (tmp_path / "script.py").write_text(SPAWNING)
        assert self.parents(prints("-m", "weft", "script.py", "a", cwd=tmp_path)) == self.EXPECTED

    def test_module(self, tmp_path):
        (tmp_path / "pack").mkdir()
        (tmp_path / "pack" / "part.py").write_text(SPAWNING)
        assert self.parents(prints("-m", "weft", "-m", "pack.part", "a", cwd=tmp_path)) == self.EXPECTED

    @pytest.mark.parametrize("place", ["folder", "archive.pyz"])
    def test_directory_and_zip_file(self, tmp_path, place):
        main = "import work\nif __name__ == '__main__': work.main()"
        module = SPAWNING.replace("print(greenlet is ours, __name__, sys.argv[1:])", "")
        if place == "folder":
            (tmp_path / place).mkdir()
            (tmp_path / place / "__main__.py").write_text(main)
            (tmp_path / place / "work.py").write_text(module)
        else:
            with zipfile.ZipFile(tmp_path / place, "w") as archive:
                archive.writestr("__main__.py", main)
                archive.writestr("work.py", module)
        assert prints("-m", "weft", place, "a", cwd=tmp_path) == self.EXPECTED


@pytest.mark.parametrize("profiler", ["cProfile", "profile"])
def test_a_profiler_that_runs_it_keeps_its_own_module(profiler: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("def counted(): pass\nfor _ in range(5): counted()\nprint(__name__, 'here')\n")
    lines = prints("-m", profiler, "-m", "weft", program)
    assert lines[0] == "__main__ here"
    assert any("(counted)" in line and line.split()[0] == "5" for line in lines)
