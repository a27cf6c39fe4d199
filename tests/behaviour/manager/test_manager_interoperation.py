"""A server with weft and clients without, and the other way round, whatever versions of Python they run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PEER = Path(__file__).with_name("manager_peer.py")
ROOT = Path(__file__).parents[3]
# Without what would steer the interpreters.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WEFT_"))}

found = subprocess.run(["bash", ROOT / "ci" / "interpreters.sh"], capture_output=True, text=True, check=True)
STOCK = [[path] for path in found.stdout.split()] or [[sys.executable]]
WEFT = [sys.executable, "-m", "weft"]


def talk(server: list[str], client: list[str], family: str) -> str:
    """What the client says at the end."""
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    with subprocess.Popen([*server, PEER, "serve", family], stdin=subprocess.PIPE, **pipes) as serving:
        address = serving.stdout.readline().strip()
        ended = subprocess.run([*client, PEER, "use", address], check=True, **pipes)
        serving.communicate()
        assert serving.returncode == 0
    return ended.stdout.strip()


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
@pytest.mark.parametrize("stock", STOCK, ids=lambda command: Path(command[0]).name)
def test_either_may_serve(stock: list[str], family: str) -> None:
    assert talk(stock, WEFT, family) == "good"
    assert talk(WEFT, stock, family) == "good"


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_two_with_weft(family: str) -> None:
    assert talk(WEFT, WEFT, family) == "good"
