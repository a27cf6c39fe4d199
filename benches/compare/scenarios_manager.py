"""The scenarios of managers, and of dictionaries in shared memory beside a manager's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from itertools import repeat
from typing import Any

from apis import Api, is_weft
from loop import Loop

ITEMS = 100_000
CLIENTS = 4
CALLS = 200  # of each client in a round
PATIENCE = 60  # seconds until a client that failed is missed

# They live as long as this process.
_managers: list[Any] = []
_kept: list[Any] = []


def manager() -> Any:
    started = multiprocessing.get_context("fork").Manager()
    _managers.append(started)
    return started


def repeated(call: Callable[[], object]) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            call()

    return Loop(run)


def gets(d: Any, key: Any) -> Loop:
    """Without a function around it, which would take as long as a get of a dictionary in shared memory."""

    def run(count: int) -> None:
        for _ in repeat(None, count):
            d[key]

    return Loop(run)


def sets(d: Any, key: Any) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            d[key] = 2

    return Loop(run)


def manager_get(api: Api) -> Loop:
    return gets(manager().dict(key=1), "key")


def manager_set(api: Api) -> Loop:
    return sets(manager().dict(), "key")


def manager_append(api: Api) -> Loop:
    items = manager().list()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            items.append(1)

    return Loop(run)


def manager_namespace(api: Api) -> Loop:
    names = manager().Namespace(x=1)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            _ = names.x

    return Loop(run)


def manager_value(api: Api) -> Loop:
    value = manager().Value("i", 1)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            _ = value.value

    return Loop(run)


def manager_queue(api: Api) -> Loop:
    q = manager().Queue()

    def both() -> None:
        q.put(1)
        q.get()

    return repeated(both)


def manager_lock(api: Api) -> Loop:
    lock = manager().Lock()

    def both() -> None:
        lock.acquire()
        lock.release()

    return repeated(both)


def manager_life(api: Api) -> Loop:
    return repeated(manager().dict)


def manager_update(api: Api) -> Loop:
    d, all_items = manager().dict(), dict.fromkeys(range(ITEMS), 1)
    return repeated(lambda: d.update(all_items))


def manager_update_texts(api: Api) -> Loop:
    d, all_items = manager().dict(), {f"key {number}": number * 0.5 for number in range(ITEMS)}
    return repeated(lambda: d.update(all_items))


def manager_copy(api: Api) -> Loop:
    d = manager().dict(dict.fromkeys(range(ITEMS), 1))
    return repeated(d.copy)


def iterated(items: int) -> Loop:
    d = manager().dict(dict.fromkeys(range(items), 1))
    return repeated(lambda: sum(1 for _ in d))


def manager_iterate_1000(api: Api) -> Loop:
    return iterated(1000)


def manager_iterate(api: Api) -> Loop:
    return iterated(ITEMS)


def _calls(d: Any, begin: Any, end: Any) -> None:
    while True:
        begin.wait(PATIENCE)
        for _ in repeat(None, CALLS):
            d["key"]
        end.wait(PATIENCE)


def manager_clients(api: Api) -> Loop:
    """A call, of several clients that call at once."""
    return crowd(manager().dict(key=1))


def crowd(d: Any) -> Loop:
    # Without a reference here, the server may let go of it before the children have theirs.
    _kept.append(d)
    context = multiprocessing.get_context("fork")
    begin, end = context.Barrier(CLIENTS + 1), context.Barrier(CLIENTS + 1)
    for _ in range(CLIENTS):
        context.Process(target=_calls, args=(d, begin, end), daemon=True).start()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            begin.wait(PATIENCE)
            end.wait(PATIENCE)

    return Loop(run, CLIENTS * CALLS)


def manager_remote(api: Api) -> Loop:
    from multiprocessing.managers import SyncManager

    server = SyncManager(("127.0.0.1", 0), b"key", ctx=multiprocessing.get_context("fork"))
    server.start()
    _managers.append(server)
    return gets(server.dict(key=1), "key")


def dictionary(**items: Any) -> Any:
    """In shared memory; with the standard library a manager's, as it has no other."""
    if not is_weft():
        return manager().dict(**items)
    import weft

    shared: Any = weft
    return shared.SharedDict(**items)


def shared_dict_get(api: Api) -> Loop:
    return gets(dictionary(key=1), "key")


def shared_dict_set(api: Api) -> Loop:
    return sets(dictionary(), "key")


def _writes(d: Any, place: int, begin: Any, end: Any) -> None:
    while True:
        begin.wait(PATIENCE)
        for number in range(CALLS):
            d[place, number] = number
        end.wait(PATIENCE)


def shared_dict_writers(api: Api) -> Loop:
    """A write, of several processes that write at once."""
    d = dictionary()
    _kept.append(d)
    context = multiprocessing.get_context("fork")
    begin, end = context.Barrier(CLIENTS + 1), context.Barrier(CLIENTS + 1)
    for place in range(CLIENTS):
        context.Process(target=_writes, args=(d, place, begin, end), daemon=True).start()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            begin.wait(PATIENCE)
            end.wait(PATIENCE)

    return Loop(run, CLIENTS * CALLS)


def grown(items: int) -> Loop:
    d = dictionary()
    d.update(dict.fromkeys(range(items), 1))
    return gets(d, items // 2)


def shared_dict_1000(api: Api) -> Loop:
    return grown(1000)


def shared_dict_1000000(api: Api) -> Loop:
    return grown(1_000_000)
