"""Runs programs that use greenlets in processes of their own: a crash there is a result here."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import pytest

WEFT = "weft.greenlet"
STOCK = "greenlet"

# A stuck program is sent SIGABRT after this time, for which faulthandler prints all stacks.
PATIENCE_SECONDS = 300.0

PRELUDE = """\
import faulthandler, sys
faulthandler.enable()
import {package} as greenlet
from {package} import getcurrent, GreenletExit
Greenlet = greenlet.greenlet
main = getcurrent()
"""


def _stock_is_installed() -> bool:
    spec = importlib.util.find_spec(STOCK)
    # A folder of that name is found, too, as a namespace without an origin.
    return spec is not None and spec.origin is not None


needs_stock = pytest.mark.skipif(not _stock_is_installed(), reason="compares with the greenlet package")

# How many stacks a thread has: few make greenlets collide, so that they are moved to the heap all the time.
SLOTS = [1, 2, 3, None]
every_slot_count = pytest.mark.parametrize("slots", SLOTS, ids=lambda slots: f"slots={slots or 'default'}")


@dataclass(frozen=True)
class Ended:
    """How a program ended; `code` is negative for a signal."""

    code: int
    out: str
    err: str


def run(
    program: str,
    *arguments: str,
    package: str = WEFT,
    slots: int | None = None,
    flags: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Run `program` after the prelude that imports `package`; `before` runs in the child before it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WEFT_"))}
    if slots is not None:
        kept["WEFT_STACK_SLOTS"] = str(slots)
    kept.update(environment or {})
    process = subprocess.Popen(
        [
            sys.executable,
            *flags,
            "-c",
            PRELUDE.format(package=package) + textwrap.dedent(program),
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept,
        preexec_fn=before,
    )
    with process:
        try:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            out, err = process.communicate()
            pytest.fail(f"the program is stuck\n{out}\n{err}")
    return Ended(process.returncode, out, err)


def good(program: str, *arguments: str, **options: object) -> list[str]:
    """The lines that a program prints; it must end well and write nothing to stderr."""
    ended = run(program, *arguments, **options)
    assert (ended.code, ended.err) == (0, ""), f"{ended.code}\n{ended.out}\n{ended.err}"
    return ended.out.splitlines()


def without_addresses(text: str) -> str:
    """The text with every address replaced."""
    return re.sub(r"0x[0-9a-f]+|\(nil\)", "0x", text)
