"""yield: fifty thousand visitors of a museum, each a generator, wait for the same few guides.

A generator needs no stack of its own, so that so many at once cost little. What it yields is what it waits for: here a time, a queue,
another coroutine; what that gives comes back.

It prints:

    50,000 visitors are there at once
    5,000 tours of 10
    the last visitor heard of 3 rooms
"""

from weft.coroutines import joinall, spawn
from weft.gevent.event import Event
from weft.gevent.queue import Queue

VISITORS = 50_000
GROUP = 10
ROOMS = ("Bronze", "Glass", "Silk")

waiting = Queue()
tours = 0


class Ticket:
    def __init__(self):
        self.called = Event()
        self.heard = []


def visitor():
    ticket = Ticket()
    waiting.put(ticket)
    yield ticket.called
    return ticket.heard


def room(name):
    yield 0.0001  # the way there
    return name


def guide():
    global tours
    while True:
        group = []
        for _ in range(GROUP):
            group.append((yield waiting))
        names = []
        for name in ROOMS:
            names.append((yield spawn(room, name)))
        tours += 1
        for ticket in group:
            ticket.heard = names
            ticket.called.set()


if __name__ == "__main__":
    visitors = [spawn(visitor) for _ in range(VISITORS)]
    print(f"{sum(each.started for each in visitors):,} visitors are there at once")
    guides = [spawn(guide) for _ in range(20)]
    joinall(visitors)
    print(f"{tours:,} tours of {GROUP}")
    print(f"the last visitor heard of {len(visitors[-1].value)} rooms")
