"""Plays a script of `scripts/` to its end and gives what it found: the JSON in its last line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import arena

SCRIPTS = Path(__file__).parent / "scripts"
# How much longer than in the short version.
TIMES = int(os.environ.get("WEFT_HUB_FAULTS_TIMES", "1"))


def script(name: str) -> str:
    """What `arena` is to play."""
    return str(SCRIPTS / name)


def outcome(name: str, *arguments: object) -> dict[str, Any]:
    """Play a script that must end well, leave nothing and say a result."""
    play, lines = arena.run(arena.STOCK, script(name), *arguments)
    assert play.returncode == 0, f"{lines[-5:]}\n{play.errors}"
    assert not play.left, play.left
    result = json.loads(lines[-1])
    assert isinstance(result, dict)
    print(name, *arguments, result)
    return {**result, "errors": play.errors}
