"""Carries `weft.install` into child processes; run by `weft_install.pth` when the interpreter starts.

The .pth line imports this module only if the environment variable WEFT_INSTALL is set, so an
interpreter that has nothing to do with weft pays for one look into `os.environ`. The work is done
by the import itself, because in a virtual environment `site` executes every .pth twice. The file
lies outside the package so that it can report a package that is missing or broken. The .pth's
name sorts behind `weft.pth`, the path entry of an editable install.
"""

import os
import sys


def _install() -> None:
    """Install what WEFT_INSTALL names; on failure say so in one line and let the program start."""
    try:
        from weft import _install

        _install.from_environment()
    except Exception as error:
        names = os.environ.get("WEFT_INSTALL")
        reason = " ".join(str(error).split()) or type(error).__name__
        if sys.stderr is not None:
            sys.stderr.write(f"weft: WEFT_INSTALL={names} has no effect in this process: {reason}\n")


_install()
