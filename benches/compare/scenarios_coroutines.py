"""Generators and `async def` functions without a stack of their own: weft's hub, and asyncio's loop on the other side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from itertools import repeat
from typing import Any

from apis import is_weft
from loop import Loop
from scenarios_memory import resident

CROWD = 1000


def all_of(make: Callable[[], Coroutine[Any, Any, Any] | Generator[Any, Any, Any]], size: int) -> None:
    """Run so many at once, to their end."""
    if is_weft():
        from weft.coroutines import joinall, spawn

        joinall([spawn(make()) for _ in range(size)])
        return

    async def main() -> None:
        tasks: list[Awaitable[Any]] = [asyncio.ensure_future(make()) for _ in range(size)]  # type: ignore[arg-type]
        await asyncio.gather(*tasks)

    asyncio.run(main())


async def steps_async(count: int) -> None:
    if is_weft():
        from weft.coroutines import sleep
    else:
        from asyncio import sleep
    for _ in repeat(None, count):
        await sleep(0)


def steps(count: int) -> Generator[None, None, None]:
    for _ in repeat(None, count):
        yield


def step() -> Loop:
    """A crowd gives way in turn. asyncio cannot run a generator: there it is an `async def` function."""
    make = steps if is_weft() else steps_async
    return Loop(lambda count: all_of(lambda: make(count), CROWD), CROWD)


def step_async() -> Loop:
    return Loop(lambda count: all_of(lambda: steps_async(count), CROWD), CROWD)


def step_bare() -> Loop:
    """The stock side is no loop at all: `send` to each of the crowd in turn."""
    if is_weft():
        return step()

    def run(count: int) -> None:
        crowd = [steps(count + 1).send for _ in range(CROWD)]
        for _ in repeat(None, count):
            for send in crowd:
                send(None)

    return Loop(run, CROWD)


async def nothing_async() -> None:
    pass


def life() -> Loop:
    """Spawned, run and waited for, a crowd at a time."""
    return Loop(
        lambda count: [all_of(nothing_async, CROWD) for _ in repeat(None, count)] and None,
        CROWD,
    )


async def waits_for(inner: Callable[[], Coroutine[Any, Any, Any]], count: int) -> None:
    if is_weft():
        from weft.coroutines import spawn

        for _ in repeat(None, count):
            await spawn(inner())
        return
    for _ in repeat(None, count):
        await asyncio.ensure_future(inner())


def await_another() -> Loop:
    """One spawns another and waits for its end."""
    return Loop(lambda count: all_of(lambda: waits_for(nothing_async, count), 1))


async def sleeps(seconds: float) -> None:
    if is_weft():
        from weft.coroutines import sleep
    else:
        from asyncio import sleep
    await sleep(seconds)


def sleepers() -> Loop:
    """Ten thousand that sleep for a moment at the same time."""
    return Loop(
        lambda count: [all_of(lambda: sleeps(1e-6), 10_000) for _ in repeat(None, count)] and None, 10_000
    )


def memory(size: str) -> float:
    """Resident bytes for each of so many that sleep, its generator included."""
    count = int(size)
    if is_weft():
        from weft.coroutines import sleep, spawn

        sleep(0)
        before = resident()
        kept = [spawn(sleeps(3600)) for _ in range(count)]
        sleep(0)
        used = resident() - before
    else:

        async def main() -> int:
            await asyncio.sleep(0)
            before = resident()
            kept = [asyncio.ensure_future(sleeps(3600)) for _ in range(count)]
            await asyncio.sleep(0)
            used = resident() - before
            for task in kept:
                task.cancel()
            return used

        loop = asyncio.new_event_loop()
        used = loop.run_until_complete(main())
        loop.close()
        kept = []
    del kept
    return used / count
