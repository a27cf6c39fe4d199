"""The programs in the README print what their comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from interpreter import prints

README = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def promised(program: str) -> list[str]:
    """What stands in comments behind calls of `print`, or of what lets a child print; several in one are one line."""
    return re.findall(r"^ *(?:print\(.*|process\.join\(\))  # (.*)$", program, re.MULTILINE)


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 7


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_prints_what_it_says(program: str, tmp_path: Path) -> None:
    expected = promised(program)
    assert expected
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    assert prints(path) == expected
