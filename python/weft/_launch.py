"""Runs a program as `python` itself would, with weft installed before its first line.

The program's module is *the* `__main__`: the interpreter's own module object, emptied of what
`python -m weft` left in it, so that multiprocessing, pickle and `-i` find the user's names.
Modules, directories and zip files go through the same function of `runpy` that the interpreter
calls for them; scripts, `-c` and standard input follow pymain_run_python in CPython's
Modules/main.c. Exceptions leave through the interpreter, which knows about exit codes, SIGINT
and `-i`; only what `sys.excepthook` gets to see is cut down to the user's frames.

Little is imported here: a program that patches the standard library first finds it untouched.
"""

from __future__ import annotations

import builtins
import io
import marshal
import os
import runpy
import sys
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from importlib.util import MAGIC_NUMBER

from weft import __version__, _install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType, TracebackType
    from typing import NoReturn

USAGE = "usage: python -m weft [--only NAMES] [-m MODULE | -c CODE | SCRIPT | -] [ARGUMENT ...]"

HELP = f"""{USAGE}

Run a Python program on weft, unchanged: in it, and in every child process it starts, these
packages are weft's: {", ".join(_install.BY_DEFAULT)}.

  --only NAMES   replace only these, separated by commas: {", ".join(_install.FACES)}
  -m MODULE      run a module or package, as python -m does
  -c CODE        run the given code, as python -c does
  SCRIPT         run a file, a directory or a zip file, as python does
  -              run what standard input holds, up to its end
  -h, --help     show this and exit
  -V, --version  show the version and exit

Options of the interpreter go before weft: python -X dev -m weft SCRIPT.
"""

PYC_HEADER = 16  # bytes before the marshalled code


class Order:
    """What the command line asks for.

    `kind` is "module", "code", "script" or "stdin", `target` the module, code or path, and
    `arguments` what the program finds behind `sys.argv[0]`. `only` is None for everything.
    """

    def __init__(self, kind: str, target: str, arguments: list[str], only: list[str] | None) -> None:
        self.kind = kind
        self.target = target
        self.arguments = arguments
        self.only = only


class UsageError(Exception):
    """The command line makes no sense."""


def main(arguments: list[str]) -> None:
    """Run what `arguments`, the command line behind `python -m weft`, ask for."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(HELP, end="")
        return
    if arguments[:1] in (["-V"], ["--version"]):
        print(f"weft {__version__} (CPython {sys.version.split()[0]})")
        return
    try:
        order = parse(arguments)
    except UsageError as error:
        _fail(f"{error}\n{USAGE}\nTry `python -m weft --help`.")
    try:
        _install.install(order.only)
    except _install.InstallError as error:
        _fail(str(error))
    {"module": run_module, "code": run_code, "script": run_script, "stdin": run_stdin}[order.kind](order)


def parse(arguments: list[str]) -> Order:
    """Read the command line up to what belongs to the program; `UsageError` if it is wrong."""
    rest = list(arguments)
    only: list[str] | None = None
    while rest:
        word = rest.pop(0)
        if word == "--only" or word.startswith("--only="):
            names = word[7:] if "=" in word else _operand(rest, "--only", "names")
            try:
                only = _install.parse_names(names)
            except ValueError as error:
                raise UsageError(f"--only: {error}") from None
        elif word.startswith("-m"):
            return Order("module", word[2:] or _operand(rest, "-m", "a module"), rest, only)
        elif word.startswith("-c"):
            return Order("code", word[2:] or _operand(rest, "-c", "code"), rest, only)
        elif word == "-":
            return Order("stdin", "", rest, only)
        elif word.startswith("-") and word != "--":
            raise UsageError(f"unknown option {word}; options of the interpreter go before -m weft")
        else:
            return Order("script", _operand(rest, word, "a script") if word == "--" else word, rest, only)
    raise UsageError("nothing to run: give a script, -m MODULE or -c CODE")


def _operand(rest: list[str], option: str, what: str) -> str:
    if not rest:
        raise UsageError(f"{option} needs {what}")
    return rest.pop(0)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"weft: {message}\n")
    sys.exit(2)


def run_module(order: Order) -> None:
    """As `python -m`: the working directory is first in `sys.path` already."""
    sys.argv = ["-m", *order.arguments]
    _fresh_main()
    _as_main(order.target, True)


def run_code(order: Order) -> None:
    """As `python -c`."""
    sys.argv = ["-c", *order.arguments]
    _set_first_path("")
    main = _fresh_main()
    if sys.version_info >= (3, 13):
        _show_source(order.target, "<string>")
    _execute(main, order.target, "<string>")


def run_stdin(order: Order) -> None:
    """As `python -` with standard input not a terminal."""
    sys.argv = ["-", *order.arguments]
    _set_first_path("")
    main = _fresh_main(__file__="<stdin>", __cached__=None)
    source = sys.stdin.buffer.read() if sys.stdin is not None else b""
    _execute(main, source, "<stdin>")


def run_script(order: Order) -> None:
    """As `python FILE`: a script, a compiled file, or a place that has a `__main__` module."""
    sys.argv = [order.target, *order.arguments]
    filename = _absolute(order.target)
    if _has_importer(filename):
        _set_first_path(filename, always=True)
        _fresh_main()
        _as_main("__main__", False)
        return
    try:
        with io.open_code(filename) as file:
            content = file.read()
    except OSError as error:
        sys.stderr.write(
            f"{sys.executable}: can't open file {filename!r}: [Errno {error.errno}] {error.strerror}\n"
        )
        sys.exit(2)
    _set_first_path(os.path.dirname(os.path.realpath(filename)))
    compiled = filename.endswith(".pyc") or content[:4] == MAGIC_NUMBER
    loader = SourcelessFileLoader if compiled else SourceFileLoader
    main = _fresh_main(__file__=filename, __cached__=None, __loader__=loader("__main__", filename))
    _execute(main, content, filename, compiled)


def _fresh_main(**attributes: object) -> ModuleType:
    """The `__main__` module as the interpreter has it before a program's first line: the same one, if it is ours."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is None or spec.name != f"{__package__}.__main__":
        # A profiler's, say, which runs `weft` as a module and has work to do afterwards.
        main = sys.modules["__main__"] = type(sys)("__main__")
    namespace = vars(main)
    namespace.clear()
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=BuiltinImporter,
        __spec__=None,
        __annotations__={},
        __builtins__=builtins,
    )
    namespace.update(attributes)
    return main


def _absolute(path: str) -> str:
    """`path` as the interpreter makes it absolute: joined, but not normalised."""
    if os.path.isabs(path):
        return path
    return os.getcwd() if path in ("", ".") else os.path.join(os.getcwd(), path)


def _set_first_path(entry: str, always: bool = False) -> None:
    """Replace the working directory, which `python -m weft` put first in `sys.path`.

    With `-P`, `-I` or PYTHONSAFEPATH it is not there, and `entry` is left out too unless `always`.
    """
    if not sys.flags.safe_path:
        try:
            if sys.path[:1] == [os.getcwd()]:
                del sys.path[0]
        except FileNotFoundError:
            pass  # the interpreter could not name it either
    if always or not sys.flags.safe_path:
        sys.path.insert(0, entry)


def _has_importer(path: str) -> bool:
    """Whether `path` could be an entry of `sys.path`: a directory, a zip file."""
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _as_main(name: str, alter_argv: bool) -> None:
    try:
        runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]
    except BaseException as error:
        _hide_own_frames(error)
        raise


def _execute(main: ModuleType, content: str | bytes, filename: str, compiled: bool = False) -> None:
    try:
        exec(_code(content, filename, compiled), vars(main))
    except BaseException as error:
        _hide_own_frames(error)
        raise


def _code(content: str | bytes, filename: str, compiled: bool) -> CodeType:
    if not compiled:
        return compile(content, filename, "exec", dont_inherit=True)
    assert isinstance(content, bytes)
    if content[:4] != MAGIC_NUMBER:
        raise RuntimeError("Bad magic number in .pyc file")
    code: CodeType = marshal.loads(content[PYC_HEADER:])
    return code


def _show_source(source: str, filename: str) -> None:
    """Let tracebacks quote the code given by `-c`, as they do from 3.13 on."""
    import linecache

    lines = [f"{line}\n" for line in source.splitlines()]
    linecache.cache[filename] = (len(source), None, lines, filename)


def _hide_own_frames(error: BaseException) -> None:
    """Let the interpreter, which is about to report `error`, show the user's frames only."""
    hook = getattr(sys, "excepthook", None)
    if hook is None or isinstance(error, SystemExit):
        return

    def report(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        trace = _users_part(trace)
        value.__traceback__ = sys.last_traceback = trace
        hook(kind, value, trace)

    sys.excepthook = report


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    part = trace
    while part is not None and part.tb_frame.f_globals is not globals():
        part = part.tb_next
    if part is None:
        return trace
    while part is not None and part.tb_frame.f_globals is globals():
        part = part.tb_next
    return part
