"""A server that has no descriptor left for another connection."""

from __future__ import annotations

import itertools
import random

import arena
from clients import Questions, check_echo, connect
from stagehand import script

SERVED = 10  # connections before the limit
ROOM = 5  # descriptors that are left then
WAITING = 40  # connections that are opened then
REFUSALS = 8  # by then the pauses are as long as they get
FEW = 100  # turns of the loop from one refusal to the next; one that does not pause makes thousands


def test_it_serves_what_it_has_and_accepts_when_there_is_room(seed: int) -> None:
    rng = random.Random(seed)
    with arena.Play(arena.STOCK, script("server.py")) as play:
        port, questions = map(int, (play.line() or "").split())
        with Questions(questions) as control:
            served = [connect(port, rng) for _ in range(SERVED)]
            for sock in served:
                check_echo(sock, b"before")
            before = control.ask(f"limit {ROOM}")
            waiting = [connect(port, rng) for _ in range(WAITING)]
            found = control.ask("refused 2")
            assert found["begun"] < SERVED + WAITING
            for number in range(20):
                for sock in served:
                    check_echo(sock, rng.randbytes(number))
            found = control.ask(f"refused {REFUSALS}")
            turns = found["turns"][1:REFUSALS]  # between the first two there was traffic
            last = turns[-3:]
            assert all(later - earlier < FEW for earlier, later in itertools.pairwise(last)), turns
            for sock in served:
                sock.close()
            # One after the other gets the descriptor of the one before it.
            for sock in waiting:
                check_echo(sock, b"at last")
                sock.close()
            after = control.ask(f"ended {SERVED + WAITING}")
        play.process.terminate()
    assert after["begun"] == SERVED + WAITING
    assert after["descriptors"] == before["descriptors"] - SERVED
    assert after["greenlets"] == before["greenlets"] - SERVED
    assert not play.left
