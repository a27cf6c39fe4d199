"""No more descriptors, no more memory: an exception that says so, never a signal; then all goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import arena
import control_group
import pytest

GROUP_LIMIT = 300 << 20  # bytes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("what", ["descriptors", "memory", "file-size"])
def test_exhausted(what: str, method: str, weft: arena.Side) -> None:
    play, lines = arena.run(weft, "exhaust.py", "--what", what, "--method", method)
    assert play.returncode == 0, (lines, play.errors)
    assert lines[-1] == "usable"
    for line in lines[:-1]:
        _, _, message = line.partition(": ")
        assert line == "never refused" or message.strip(), line
    assert not play.left


@pytest.fixture
def memory_group() -> Iterator[Path]:
    with control_group.with_memory(GROUP_LIMIT) as group:
        yield group


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_control_group_is_full(method: str, weft: arena.Side, memory_group: Path) -> None:
    options = ("--what", "group", "--group", str(memory_group), "--method", method)
    play, lines = arena.run(weft, "exhaust.py", *options)
    assert play.returncode == 0, (lines, play.errors)
    assert len(lines) == 4 and lines[-1] == "usable", lines
    assert all("the control group /weft-" in line for line in lines[:-1]), lines
    assert not play.left


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_thousand_queues_with_few_descriptors(method: str, weft: arena.Side) -> None:
    play, lines = arena.run(weft, "many.py", "--what", "queues", "--method", method)
    assert play.returncode == 0, (lines, play.errors)
    assert not play.left


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_thousand_processes_with_few_descriptors(method: str, weft: arena.Side) -> None:
    play, lines = arena.run(weft, "many.py", "--what", "processes", "--method", method)
    assert play.returncode == 0, (lines, play.errors)
    assert not play.left
