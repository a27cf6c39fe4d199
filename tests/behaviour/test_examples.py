"""Every example does what its first lines say that it prints."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from interpreter import prints

EXAMPLES = sorted(Path(__file__).parents[2].joinpath("examples").glob("*.py"))


def promised(example: Path) -> list[str]:
    """What stands indented in the docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")), clean=False)
    assert docstring is not None, f"{example.name} does not say what it does"
    return [line[4:] for line in docstring.splitlines() if line.startswith("    ")]


def test_there_are_examples():
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_prints_what_it_says(example: Path):
    expected = promised(example)
    assert expected
    assert prints(example) == expected
