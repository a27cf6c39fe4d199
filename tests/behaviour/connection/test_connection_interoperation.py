"""A program with weft and one without talk to each other, whatever versions of Python they run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PEER = Path(__file__).with_name("peer.py")
ROOT = Path(__file__).parents[3]
# Without what would steer the interpreters.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WEFT_"))}

found = subprocess.run(["bash", ROOT / "ci" / "interpreters.sh"], capture_output=True, text=True, check=True)
STOCK = [[path] for path in found.stdout.split()] or [[sys.executable]]
WEFT = [sys.executable, "-m", "weft"]


def talk(
    listener: list[str], client: list[str], family: str, keys: tuple[str, str] = ("key", "key")
) -> tuple[str, str]:
    """What each of the two says at the end."""
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    with subprocess.Popen([*listener, PEER, "listen", family, keys[0]], **pipes) as server:
        address = server.stdout.readline()
        ended = subprocess.run(
            [*client, PEER, "connect", family, keys[1]], input=address, check=True, **pipes
        )
        said = server.communicate()[0]
        assert server.returncode == 0
    return said.strip(), ended.stdout.strip()


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
@pytest.mark.parametrize("stock", STOCK, ids=lambda command: Path(command[0]).name)
def test_either_may_listen(stock: list[str], family: str) -> None:
    assert talk(stock, WEFT, family) == ("good", "good")
    assert talk(WEFT, stock, family) == ("good", "good")


def test_two_with_weft() -> None:
    assert talk(WEFT, WEFT, "AF_UNIX") == ("good", "good")
    assert talk(WEFT, WEFT, "AF_INET", ("-", "-")) == ("good", "good")


@pytest.mark.parametrize("stock", STOCK, ids=lambda command: Path(command[0]).name)
def test_the_wrong_key(stock: list[str]) -> None:
    for listener, client in ((stock, WEFT), (WEFT, stock), (WEFT, WEFT)):
        assert talk(listener, client, "AF_UNIX", ("key", "other")) == (
            "AuthenticationError",
            "AuthenticationError",
        )
