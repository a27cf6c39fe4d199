"""What cannot be printed, because standard error is closed or broken, is handled all the same."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from weft.gevent import get_hub, sleep, spawn


class Broken:
    def write(self, _text: str) -> None:
        raise OSError("broken")


@pytest.mark.parametrize("stream", [Broken(), object()])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_the_main_greenlets_arrives_there(
    monkeypatch: pytest.MonkeyPatch, stream: Any, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    get_hub().exception_stream = stream
    get_hub().loop.run_callback(fail)
    with pytest.raises(kind):
        sleep(1)
    assert spawn(abs, -1).get() == 1
