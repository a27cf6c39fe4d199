"""`weft.SharedDict`."""

from __future__ import annotations

import enum
import math
import os
import random
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import weft
from weft.multiprocessing import get_context


def test_it_does_what_a_dictionary_does() -> None:
    d = weft.SharedDict({"a": 1}, b=2)
    assert (len(d), d["a"], "b" in d, "c" in d, d.get("c"), d.get("c", 3)) == (2, 1, True, False, None, 3)
    d["c"] = [1, {"x": (2.5, None, b"y")}]
    assert d["c"] == [1, {"x": (2.5, None, b"y")}]
    assert d["c"] is not d["c"]
    assert sorted(d) == sorted(d.keys()) == ["a", "b", "c"]
    assert dict(d.items()) == d.copy() == {"a": 1, "b": 2, "c": d["c"]}
    assert 2 in d.values()
    assert ("a", 1) in d.items()
    assert (d.pop("a"), d.pop("a", 7), d.setdefault("b", 9), d.setdefault("new", 9)) == (1, 7, 2, 9)
    del d["new"]
    with pytest.raises(KeyError, match="new"):
        d["new"]
    with pytest.raises(KeyError, match="new"):
        del d["new"]
    with pytest.raises(KeyError, match="new"):
        d.pop("new")
    d.update([("p", 1)], q=2)
    assert (d["p"], d["q"]) == (1, 2)
    taken = [d.popitem() for _ in range(len(d))]
    assert {key for key, _ in taken} == {"b", "c", "p", "q"}
    with pytest.raises(KeyError):
        d.popitem()
    d["x"] = 1
    d.clear()
    assert (len(d), list(d)) == (0, [])
    d["x"] = 2
    assert d.copy() == {"x": 2}
    assert repr(d) == "<weft.SharedDict with 1 entries>"


def test_keys_are_equal_as_in_a_dictionary() -> None:
    equal = [
        (1, 1.0, True),
        (0, -0.0, False),
        ((1, "x"), (1.0, "x"), (True, "x")),
        (2**62, float(2**62), 2**62),
    ]
    for one, two, three in equal:
        d = weft.SharedDict({one: "first"})
        d[two] = "second"
        assert (d[three], len(d)) == ("second", 1)
    different = [
        "1",
        b"1",
        1,
        1.5,
        None,
        (),
        (1,),
        ((1,),),
        ("1",),
        "",
        b"",
        -1,
        -(2**63),
        2**63 - 1,
        math.inf,
    ]
    d = weft.SharedDict((key, repr(key)) for key in different)
    assert {repr(key): value for key, value in d.items()} == {repr(key): repr(key) for key in different}


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ([], "list"),
        ({}, "dict"),
        (frozenset(), "frozenset"),
        (object(), "object"),
        (bytearray(), "bytearray"),
        (2**63, "an int outside of 64 bits"),
        (-(2**63) - 1, "an int outside of 64 bits"),
        ("\ud800", "a str with half of a surrogate pair, which has no UTF-8"),
        (([],), "a tuple whose item [0] is list"),
        ((1, ("x", 2**70)), "a tuple whose item [1][1] is an int outside of 64 bits"),
        (Colour.RED, "test_shared_dict.Colour, a subclass of int: make it one by int(...)"),
        (Name("x"), "test_shared_dict.Name, a subclass of str: make it one by str(...)"),
        (Point(1), "test_shared_dict.Point, a subclass of tuple: make it one by tuple(...)"),
        ((None, Name("x")), "a tuple whose item [1] is test_shared_dict.Name, a subclass of str: make it"),
        ((1,) * 129, "a tuple of more than 128 items, or of more than 6 levels"),
        ((((((((1,),),),),),),), "a tuple of more than 128 items, or of more than 6 levels"),
    ],
)
def test_what_cannot_be_a_key(key: Any, what: str) -> None:
    d = weft.SharedDict()
    calls: list[Callable[[], object]] = [
        lambda: d.__setitem__(key, 1),
        lambda: key in d,
        lambda: key in d.keys(),
        lambda: d.get(key),
        lambda: d.pop(key, None),
        lambda: d.setdefault(key, 1),
        lambda: d.add(key),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=re.escape(f"a tuple of these, not {what}")):
            call()
    assert len(d) == 0


def test_values_of_every_kind_and_size() -> None:
    d = weft.SharedDict()
    for size in (0, 1, 100, 4000, 20_000, 1_000_000, 20_000_000):
        for value in (
            "ü" * size,
            b"b" * size,
            bytearray(size),
            2**size if size < 5000 else 0,
            [None] * (size // 50),
        ):
            d["value"] = value
            assert d["value"] == value
    d["error"] = LookupError("x")
    assert isinstance(d["error"], LookupError)
    with pytest.raises(Exception, match=r"pickle|local object"):
        d["value"] = lambda: None
    assert d["value"] == [None] * 400_000


def test_against_a_dictionary() -> None:
    seed = int(os.environ.get("WEFT_MAP_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_MAP_SEED={seed}")
    dice = random.Random(seed)
    d, model = weft.SharedDict(), {}
    for _ in range(40_000):
        key = dice.choice(
            (dice.randrange(300), str(dice.randrange(300)), (dice.randrange(9), "x"), dice.random())
        )
        match dice.randrange(8):
            case 0 | 1 | 2:
                d[key] = model[key] = dice.randbytes(dice.choice((1, 40, 41, 300, 5000)))
            case 3:
                assert d.pop(key, None) == model.pop(key, None)
            case 4:
                assert d.get(key) == model.get(key)
            case 5:
                assert d.setdefault(key, b"s") == model.setdefault(key, b"s")
            case 6:
                assert (key in d) == (key in model)
            case 7:
                if dice.random() < 0.002:
                    d.clear()
                    model.clear()
                assert len(d) == len(model)
    assert d.copy() == model


def test_it_stays_whole_as_it_grows() -> None:
    d = weft.SharedDict()
    for number in range(100_000):
        d[number] = number
    assert len(d) == 100_000
    assert all(d[number] == number for number in range(0, 100_000, 7))
    assert sorted(d) == [*range(100_000)]


def test_iterating_while_it_changes() -> None:
    d = weft.SharedDict((number, number) for number in range(2000))
    seen = []
    for key in d:
        seen.append(key)
        d.pop(key)
        d["new", key] = 1
        if len(seen) > 10_000:
            break
    assert {key for key in seen if isinstance(key, int)} == set(range(2000))
    assert len(seen) == len(set(seen))


def test_compound_operations() -> None:
    d = weft.SharedDict(n=1, s="a", f=1.5, top=2**63 - 1)
    assert (d.add("n"), d.add("n", 5), d.add("new"), d.add("other", 2, 10)) == (2, 7, 1, 12)
    assert (d.add("s", "b"), d.add("f", 1), d.add("top")) == ("ab", 2.5, 2**63)
    assert d["top"] == 2**63
    assert d.update_with("n", pow, 2) == 49
    assert d.update_with("start", str.upper, default="x") == "X"
    with pytest.raises(KeyError):
        d.update_with("nothing", str.upper)
    with pytest.raises(TypeError, match="default"):
        d.update_with("n", pow, 2, other=1)
    with pytest.raises(ZeroDivisionError):
        d.update_with("n", lambda value: value / 0)
    with pytest.raises(TypeError):
        d.add("n", "x")
    assert d["n"] == 49


def _work(d: Any, times: int) -> None:
    for number in range(times):
        d.add("sum")
        d.update_with("with", int.__add__, 1, default=0)
        d["own", os.getpid(), number] = number


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_many_processes(method: str) -> None:
    context = get_context(method)
    d = weft.SharedDict()
    processes = [context.Process(target=_work, args=(d, 1000)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (d["sum"], d["with"], len(d)) == (4000, 4000, 4002)


def test_it_cannot_be_sent_anywhere_else() -> None:
    import pickle

    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(weft.SharedDict())


def test_a_value_that_cannot_be_pickled_is_named() -> None:
    d = weft.SharedDict(x=1)
    lock = threading.Lock()
    for store in (
        lambda value: d.__setitem__("x", value),
        lambda value: d.update(x=value),
        lambda value: d.setdefault("y", value),
    ):
        with pytest.raises(
            weft.UnpicklableError, match=r"cannot put value\[1\], a _thread.lock, into"
        ) as caught:
            store([0, lock])
        assert caught.value.part is lock and isinstance(caught.value, TypeError)
        with pytest.raises(weft.UnpicklableError, match="only functions and classes at the top"):
            store(lambda: 0)
    assert d.copy() == {"x": 1}
