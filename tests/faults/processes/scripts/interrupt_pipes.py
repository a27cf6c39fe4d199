"""Blocks in one call of a connection; SIGINT must raise KeyboardInterrupt there and leave everything usable.

    interrupt_pipes.py --call recv --method fork

Prints `blocks` when it is about to, `interrupted` when the exception came, `usable` at the end.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import multiprocessing
import pickle
from multiprocessing import connection
from typing import Any

FOR_EVER = 10_000  # seconds, for the calls with a timeout
LARGE = bytes(range(256)) * (3 << 12)  # 3 MiB, more than may be on its way
END = b"end"


def answer(idle: Any, outlet: Any, go: Any) -> None:
    """Receives what was sent, says what that was, and sends back whatever comes then."""
    go.acquire()
    numbers, large, lost = [], 0, 0
    while True:
        try:
            found = outlet.recv_bytes()
        except OSError:
            lost += 1
            continue
        if found == END:
            break
        if found == LARGE:
            large += 1
        else:
            numbers.append(pickle.loads(found)[0])
    idle.send((numbers, large, lost))
    while (one := idle.recv()) is not None:
        idle.send(one)


class Calls:
    """The blocking calls by their names; each blocks until it is interrupted."""

    def __init__(self, context: Any) -> None:
        self.idle, self.far = context.Pipe()
        self.outlet, self.inlet = context.Pipe(duplex=False)
        self.listener = connection.Listener()
        self.sent = 0
        self.room = bytearray(100)

    def accept(self) -> None:
        self.listener.accept()

    def poll(self) -> None:
        self.idle.poll(None)

    def poll_timeout(self) -> None:
        self.idle.poll(FOR_EVER)

    def recv(self) -> None:
        self.idle.recv()

    def recv_bytes(self) -> None:
        self.idle.recv_bytes()

    def recv_bytes_into(self) -> None:
        self.idle.recv_bytes_into(self.room)

    def send(self) -> None:
        while True:
            self.inlet.send((self.sent, "x" * 500))
            self.sent += 1

    def send_bytes_large(self) -> None:
        self.inlet.send_bytes(LARGE)

    def send_bytes_shown(self) -> None:
        """In pieces through the descriptor, since somebody may read from it."""
        self.outlet.fileno()
        self.inlet.send_bytes(LARGE)

    def wait(self) -> None:
        connection.wait([self.idle, self.outlet])

    def wait_timeout(self) -> None:
        connection.wait([self.idle, self.outlet], FOR_EVER)


CALLS = sorted(name for name in vars(Calls) if not name.startswith("_"))

# How many large messages come whole, and how many are lost: of three that were interrupted, the first had been begun.
LEFT = {"send_bytes_large": (1, 0), "send_bytes_shown": (0, 1)}


def main() -> None:
    options = stage.interrupted_call(CALLS)
    context: Any = multiprocessing.get_context(options.method)
    calls = Calls(context)
    go = context.Semaphore(0)
    # A program's own children get the terminal's Ctrl-C as well; here only the program is hit.
    child = context.Process(target=answer, args=(calls.far, calls.outlet, go))
    child.start()
    stage.be_interrupted(getattr(calls, options.call), options.times)

    # Everything still works: what was sent arrives, and no more than that.
    go.release()
    calls.inlet.send_bytes(END)
    assert calls.idle.poll(60)
    numbers, large, lost = calls.idle.recv()
    assert numbers == list(range(calls.sent)), (numbers, calls.sent)
    assert (large, lost) == LEFT.get(options.call, (0, 0)), (large, lost)
    for one in ("small", "x" * 20_000, "x" * (3 << 20)):
        calls.idle.send(one)
        assert connection.wait([calls.idle, calls.outlet], 60) == [calls.idle]
        assert calls.idle.recv() == one
    calls.idle.send(None)
    child.join()
    assert child.exitcode == 0, child.exitcode
    with connection.Client(calls.listener.address) as client, calls.listener.accept() as served:
        client.send("asked")
        assert served.recv() == "asked"
    calls.listener.close()
    stage.say("usable")


if __name__ == "__main__":
    main()
