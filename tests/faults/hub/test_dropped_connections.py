"""Ten thousand connections to a server, dropped at random: in the middle of a message, by reset, half closed, before they are
accepted. Afterwards the server answers, and has no more greenlets, descriptors or memory than before."""

from __future__ import annotations

import random

import arena
from clients import Crowd, Questions, check_echo, connect
from stagehand import TIMES, script

ROUNDS = 10 * TIMES
CONNECTIONS = 1000  # a round
SETTLED = 3  # after so many rounds all that is kept for later has been made
MORE = 4096  # kilobytes: long messages that are under way at the same time make memory come and go by several thousand


def test_a_server_keeps_nothing_of_them(seed: int) -> None:
    with arena.Play(arena.STOCK, script("server.py")) as play:
        port, questions = map(int, (play.line() or "").split())
        crowd = Crowd(port, seed)
        found = []
        with Questions(questions) as control:
            before = control.ask("now")
            for number in range(ROUNDS):
                for _ in range(CONNECTIONS):
                    crowd.one()
                crowd.drop_all()
                found.append(control.ask(f"ended {crowd.opened}"))
                print(number, found[-1])
            with connect(port, random.Random(seed)) as sock:
                check_echo(sock, b"still there")
        play.process.terminate()
    last = found[-1]
    assert last["begun"] == last["ended"] == crowd.opened == ROUNDS * CONNECTIONS
    # What was sent by a half closed or deaf one may be echoed to nobody.
    assert last["echoed"] >= crowd.echoed
    assert {each["descriptors"] for each in found} == {before["descriptors"]}
    assert {each["greenlets"] for each in found} == {before["greenlets"]}
    objects = [each["objects"] for each in found[SETTLED:]]
    assert max(objects) - min(objects) < CONNECTIONS // 10
    resident = [each["resident"] for each in found[SETTLED:]]
    half = len(resident) // 2
    assert min(resident[half:]) < max(resident[:half]) + MORE
    assert not play.left
