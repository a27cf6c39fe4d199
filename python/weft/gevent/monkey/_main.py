"""`python -m gevent.monkey`: patch, then run a program."""

from __future__ import annotations

import inspect
import runpy
import sys
from typing import Any

from . import patch_all

_HELP = """gevent.monkey - monkey patch the standard modules to use gevent.

USAGE: ``python -m gevent.monkey [MONKEY OPTIONS] [--module] (script|module) [SCRIPT OPTIONS]``

Without options everything is patched, as by `patch_all()`. `--no-MODULE` leaves a module out; with `--MODULE` only those
that are named are patched. The script may be whatever `runpy.run_path` runs; with `--module`, a module is run.

MONKEY OPTIONS: ``--verbose {options}``
"""


def main() -> Any:
    """Read the command line, patch, and run the program."""
    parameters = inspect.signature(patch_all).parameters
    modules = [
        name
        for name, parameter in parameters.items()
        if isinstance(parameter.default, bool) and hasattr(sys.modules[patch_all.__module__], f"patch_{name}")
    ]
    known = {name for name, parameter in parameters.items() if isinstance(parameter.default, bool)}
    text = _HELP.format(options=", ".join(f"--[no-]{name}" for name in modules))
    wanted: dict[str, bool] = {}
    run: Any = runpy.run_path
    verbose = False
    arguments = sys.argv[1:]
    while arguments and arguments[0].startswith("--"):
        option = arguments.pop(0)[2:]
        if option == "verbose":
            verbose = True
        elif option == "module":
            run = runpy.run_module
        elif option.startswith("no-") and option[3:] in known:
            wanted[option[3:]] = False
        elif option in known:
            if option in modules:
                for name in modules:
                    wanted.setdefault(name, False)
            wanted[option] = True
        else:
            sys.exit(f"{text}\nCannot patch {option!r}")
    if verbose:
        given = ", ".join(f"{name}={value}" for name, value in wanted.items())
        print(f"gevent.monkey.patch_all({given})\nsys.version={sys.version}\nsys.path={sys.path}")
    if not arguments:
        print(text)
        return None
    sys.argv[:] = arguments
    patch_all(**wanted)
    return run(arguments[0], run_name="__main__")
