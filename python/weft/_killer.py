"""Whether it was the kernel that killed a process, for want of memory.

The kernel does not say so to anybody; it counts. A process that was killed by SIGKILL while the count rose was most
likely one of those counted.
"""

from __future__ import annotations

from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/vmstat")


def kills() -> tuple[int, int]:
    """How many processes were killed for want of memory: in this process's control group, and in all the machine."""
    return _in_group(), _field(_MACHINE, "oom_kill")


def suspicion(before: tuple[int, int]) -> str:
    """In words what follows for a process that was killed since `before`; empty if nothing does."""
    group, machine = kills()
    if group > before[0]:
        return "most likely by the kernel, because the control group's memory limit was reached"
    if machine > before[1]:
        return "most likely by the kernel, because the machine was out of memory"
    return ""


def _in_group() -> int:
    for file in _files():
        count = _field(file, "oom_kill")
        if count:
            return count
    return 0


def _files() -> list[Path]:
    files = []
    for line in _text(_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files += [_MOUNT / path.lstrip("/") / "memory.events", _MOUNT / "memory.events"]
        elif "memory" in controllers.split(","):
            files += [
                _MOUNT / "memory" / path.lstrip("/") / "memory.oom_control",
                _MOUNT / "memory" / "memory.oom_control",
            ]
    return files


def _field(file: Path, name: str) -> int:
    for line in _text(file).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # another kernel, or no such control group here
