"""Runs a script in a session of its own, watches whether it moves, and finds all that it leaves behind.

A script says by lines on its standard output that it is getting on. Silence for `patience` seconds is a
hang: every process of the session then prints its stacks (`scripts/stage.py` prepares them for that), and
all are killed. The scripts are ordinary programs on `import multiprocessing`; a `Side` says whose that is.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

SCRIPTS = Path(__file__).parent / "scripts"
TOKEN = "WEFT_FAULTS_TOKEN"
SHOW_STACKS = signal.SIGRTMAX  # as in scripts/stage.py
STACKS_TAKE = 0.3  # seconds to let a process print them
PATIENCE = float(os.environ.get("WEFT_FAULTS_PATIENCE", "120"))  # seconds of silence until something hangs
GRACE = 20.0  # seconds for the rest to end after the program itself


@dataclass(frozen=True)
class Side:
    """Whose multiprocessing a script gets."""

    name: str
    command: tuple[str, ...]


STOCK = Side("stock", (sys.executable, "-u"))
WEFT = Side("weft", (sys.executable, "-u", "-m", "weft", "--only", "multiprocessing"))


class Hang(Exception):
    """A script fell silent; the message holds what all of its processes were doing."""


@dataclass
class Left:
    """What was still there after a script and its grace."""

    processes: list[str] = field(default_factory=list)
    shared_memory: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.processes or self.shared_memory or self.sockets or self.files)


class Play:
    """A running script: a context manager that ends it with all that it started.

    After the block, `returncode`, `errors` (the end of its standard error) and `left` are known.
    """

    def __init__(self, side: Side, script: str, *arguments: object, patience: float = PATIENCE) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.work = self.folder / "work"
        self.returncode: int | None = None
        self.errors = ""
        self.left = Left()
        self._patience = patience
        self._command = [*side.command, str(SCRIPTS / script), *map(str, arguments)]
        self._token = uuid.uuid4().hex
        self._buffer = b""

    def __enter__(self) -> Play:
        self._temporary = self.folder / "tmp"
        for folder in (self.work, self._temporary):
            folder.mkdir()
        self._shared_before = set(shared_memory())
        self._errors = (self.folder / "stderr").open("wb")
        cleared = {k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "PYTHON"))}
        self.process = subprocess.Popen(
            self._command,
            env={**cleared, TOKEN: self._token, "TMPDIR": str(self._temporary)},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            preexec_fn=_default_signals,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.process.poll() is None:
            self.process.kill()
        try:
            self.process.wait(self._patience)
        except subprocess.TimeoutExpired:
            stacks = self.stacks()
            self.process.kill()
            self.process.wait()
            kind = Hang
            raise Hang(f"it does not end\n{stacks}") from error
        finally:
            # After a failure nobody asks what would have ended by itself.
            self._clean_up(GRACE if kind is None else 0)

    def _clean_up(self, grace: float) -> None:
        self.returncode = self.process.wait()
        self.left = self._find_left(grace)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        self.errors = (self.folder / "stderr").read_text(errors="replace")[-4000:]
        shutil.rmtree(self.folder, ignore_errors=True)

    def line(self) -> str | None:
        """The next line it prints; None at the end of its output. Raises `Hang` if it is silent."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not wait_readable(descriptor, self._patience):
                raise Hang(f"silent for {self._patience:g} s\n{self.stacks()}")
            found = os.read(descriptor, 65536)
            if not found:
                return None
            self._buffer += found
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def lines(self) -> Iterator[str]:
        while (line := self.line()) is not None:
            yield line

    def expect(self, line: str) -> None:
        """Read the next line, which must be this one."""
        found = self.line()
        if found != line:
            errors = (self.folder / "stderr").read_text(errors="replace")
            raise AssertionError(f"expected {line!r}, got {found!r}\n{errors[-4000:]}")

    def stacks(self) -> str:
        """What every process of the session is doing."""
        shown = []
        log = self.folder / "stderr"
        for pid in sorted(self._living()):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                words = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                waits = Path(f"/proc/{pid}/wchan").read_text()
                before = log.stat().st_size
                if catches(status, SHOW_STACKS):
                    os.kill(pid, SHOW_STACKS)
                    time.sleep(STACKS_TAKE)
            except OSError:
                continue
            account = log.read_bytes()[before:].decode(errors="replace")
            shown.append(f"-- process {pid}, in {waits or 'user code'}: {words[:200]}\n{account}")
        return "\n".join(shown)

    def _living(self) -> list[int]:
        """Processes of the session, or which have its token in their environment."""
        marker = f"{TOKEN}={self._token}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state in "ZX":
                    continue
                if int(session) == self.process.pid or marker in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def _find_left(self, grace: float) -> Left:
        left = Left()
        deadline = time.monotonic() + grace
        while living := self._living():
            for pid in sorted(living, key=_is_tracker):
                # The resource tracker comes last: it unlinks what the others leave, and ends then.
                if not _ends_until(pid, time.monotonic() + GRACE if _is_tracker(pid) else deadline):
                    left.processes.append(_command_line(pid))
                    _kill(pid)
        while True:
            # Other programs on this machine have theirs, and some clean up late.
            left.shared_memory = sorted(unused(set(shared_memory()) - self._shared_before))
            if not left.shared_memory or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        left.sockets = [line for line in bound_sockets() if str(self.folder) in line]
        left.files = sorted(str(path.relative_to(self._temporary)) for path in self._temporary.rglob("*"))
        return left


def run(side: Side, script: str, *arguments: object, patience: float = PATIENCE) -> tuple[Play, list[str]]:
    """Run a script to its end: how that went, and the lines it printed."""
    with Play(side, script, *arguments, patience=patience) as play:
        lines = list(play.lines())
    return play, lines


def wait_readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def catches(status: str, number: int) -> bool:
    """Whether /proc/PID/status says that a signal has a handler."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)


def shared_memory() -> list[str]:
    """Names in /dev/shm that are weft's or the standard library's."""
    ours = ("weft", "pymp-", "psm_", "wnsm_", "sem.")
    try:
        return [name for name in os.listdir("/dev/shm") if name.startswith(ours)]
    except OSError:
        return []


def unused(names: set[str]) -> set[str]:
    """Those of the names in /dev/shm that no living process has mapped or open."""
    missing = {name for name in names if os.path.exists(f"/dev/shm/{name}")}
    for entry in Path("/proc").iterdir() if missing else ():
        if not entry.name.isdigit():
            continue
        try:
            held = (entry / "maps").read_text(errors="replace")
            held += "\n".join(os.readlink(link) for link in (entry / "fd").iterdir())
        except OSError:
            continue
        missing = {name for name in missing if f"/dev/shm/{name}" not in held}
    return missing


def bound_sockets() -> list[str]:
    """Unix sockets that have a name."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    return [line.split(None, 7)[7] for line in lines if len(line.split(None, 7)) > 7]


def _default_signals() -> None:
    """A background job of a shell ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ends_until(pid: int, deadline: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return wait_readable(descriptor, max(0.0, deadline - time.monotonic()))
    finally:
        os.close(descriptor)


def _is_tracker(pid: int) -> bool:
    return "multiprocessing.resource_tracker" in _command_line(pid)


def _kill(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        wait_readable(descriptor, GRACE)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {pid}"
    return f"{pid}: " + b" ".join(words).decode(errors="replace").strip()
