"""Groups of greenlets, of any size and of limited size."""

from __future__ import annotations

import pytest
from weft.gevent import GreenletExit, sleep, spawn
from weft.gevent.pool import Group, Pool, PoolFull


def test_members_leave_when_they_end() -> None:
    group = Group()
    slow, fast = group.spawn(sleep, 0.002), group.spawn(int)
    assert len(group) == 2 and slow in group
    fast.join()
    sleep(0)
    assert list(group) == [slow]
    assert group.join() is True and not group
    kept = spawn(sleep, 3600)
    group = Group([kept])
    assert group.join(timeout=0.001) is False
    group.discard(kept)
    assert not group
    kept.kill()


def test_all_members_are_ended_also_new_ones() -> None:
    group = Group()

    def parent() -> None:
        try:
            sleep(3600)
        finally:
            group.spawn(sleep, 3600)

    members = [group.spawn(parent) for _ in range(3)]
    sleep(0)
    group.kill()
    assert not group and all(isinstance(member.value, GreenletExit) for member in members)


def test_no_more_run_than_there_is_room_for() -> None:
    pool = Pool(3)
    running, most = set(), []

    def work(number: int) -> int:
        running.add(number)
        most.append(len(running))
        sleep(0)
        running.discard(number)
        return number * 2

    assert pool.map(work, range(20)) == [number * 2 for number in range(20)]
    assert max(most) == 3
    pool.join()
    assert pool.free_count() == 3
    fillers = [pool.spawn(sleep, 3600) for _ in range(3)]
    assert pool.full()
    with pytest.raises(PoolFull, match="all 3 places"):
        pool.add(spawn(int), blocking=False)
    with pytest.raises(PoolFull):
        pool.add(spawn(int), timeout=0.001)
    late = pool.apply_async(lambda: "late")
    fillers[0].kill()
    assert late.get() == "late"
    pool.kill()
    assert pool.wait_available() == 3
    with pytest.raises(ValueError, match="negative"):
        Pool(-1)


def test_results_come_in_order_or_as_they_are() -> None:
    pool = Pool(10)

    def work(number: int) -> int:
        sleep((5 - number) / 500)
        return number

    assert list(pool.imap(work, range(5))) == [0, 1, 2, 3, 4]
    assert list(pool.imap_unordered(work, range(5))) == [4, 3, 2, 1, 0]
    assert pool.map_async(work, range(3)).get() == [0, 1, 2]
    seen: list[int] = []
    assert pool.apply_async(work, (4,), callback=seen.append).get() == 4
    sleep(0)
    assert seen == [4]
    assert pool.apply(divmod, (7, 2)) == (3, 1)


def test_the_results_that_wait_are_bounded() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        return number

    results = Pool(10).imap_unordered(work, range(100), maxsize=3)
    assert next(results) in range(100)
    for _ in range(20):
        sleep(0)
    assert len(started) <= 5
    assert len(list(results)) == 99


@pytest.mark.parametrize("order", ["imap", "imap_unordered", "map"])
def test_an_error_is_raised_where_its_result_would_be(order: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> int:
        if number == 2:
            raise LookupError("on purpose")
        return number

    def items() -> object:
        yield 1
        raise KeyError("items")

    with pytest.raises(LookupError, match="on purpose"):
        list(getattr(Pool(2), order)(work, range(4)))
    with pytest.raises(KeyError, match="items"):
        list(getattr(Pool(2), order)(work, items()))
    assert "LookupError" in capsys.readouterr().err
