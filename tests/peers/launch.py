"""Run one command in a session of its own, under a watchdog, and leave nothing behind. Linux."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "WEFT_PEERS_TOKEN"
GRACE = 3.0  # seconds for a process to end by itself after its parent, or after SIGABRT
OUTPUT_TAIL = 4000
STACKS_SHOWN = 30_000
# The suites of processes have every interpreter print its stacks at this signal (cpython/sitecustomize.py).
SHOW_STACKS = signal.SIGRTMAX
STACKS_TAKE = 0.3  # seconds to let a process print them

_running: set[subprocess.Popen[bytes]] = set()


@dataclass
class Ended:
    """How a command ended. `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int
    timed_out: bool
    seconds: float
    output: str
    leftovers: list[str] = field(default_factory=list)
    stacks: str = ""  # of all its processes, at the timeout


def run(command: list[str], env: dict[str, str], cwd: Path, timeout: float) -> Ended:
    """Run `command` to its end or for `timeout` seconds; then end every process it left.

    At the timeout all its processes that know the signal SHOW_STACKS print theirs. SIGABRT comes
    next: faulthandler then prints every thread's stack of the command itself.
    """
    token = uuid.uuid4().hex
    log = cwd / "output.txt"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**env, TOKEN: token},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _running.add(process)
    timed_out = False
    stacks = ""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        stacks = _show_stacks(process.pid, token, log)
        process.send_signal(signal.SIGABRT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _running.discard(process)
        seconds = time.monotonic() - started
        leftovers = _end_leftovers(process.pid, token)
    with log.open("rb") as output:
        output.seek(max(0, log.stat().st_size - OUTPUT_TAIL))
        tail = output.read().decode(errors="replace")
    return Ended(process.returncode, timed_out, seconds, tail, leftovers, stacks)


def stop_all() -> None:
    """Kill what other threads are running; their `run` then returns."""
    for process in list(_running):
        process.kill()


def _show_stacks(session: int, token: str, log: Path) -> str:
    """What every process of a run is doing: its own account where it gives one, else the kernel's."""
    shown = []
    for pid in sorted(_processes_of(session, token)):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            account = f"in {Path(f'/proc/{pid}/wchan').read_text() or 'user code'}\n"
            before = log.stat().st_size
            if _catches(status, SHOW_STACKS):
                os.kill(pid, SHOW_STACKS)
                time.sleep(STACKS_TAKE)
                with log.open("rb") as output:
                    output.seek(before)
                    account += output.read().decode(errors="replace")
        except OSError:
            continue
        shown.append(f"-- process {pid}: {_command_line(pid)}\n{account}")
    return "\n".join(shown)[:STACKS_SHOWN]


def _catches(status: str, number: int) -> bool:
    """Whether /proc/PID/status says that a signal has a handler."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)


def _end_leftovers(session: int, token: str) -> list[str]:
    """Wait for the remaining processes of a run, kill those that stay; their command lines."""
    deadline = time.monotonic() + GRACE
    killed: list[str] = []
    while remaining := _processes_of(session, token):
        for pid in remaining:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                left = max(0.0, deadline - time.monotonic())
                if not poll.poll(left * 1000):
                    killed.append(_command_line(pid))
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    poll.poll(GRACE * 1000)
            except ProcessLookupError:
                pass
            finally:
                os.close(descriptor)
    return killed


def _processes_of(session: int, token: str) -> list[int]:
    """Living processes of the session, or which inherited the token in their environment."""
    marker = f"{TOKEN}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # pid (name) state ppid pgrp session ...; the name may hold spaces and brackets
            state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state in "ZX":
                continue
            if int(sid) == session or marker in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {pid}"
    return b" ".join(words).decode(errors="replace").strip()
