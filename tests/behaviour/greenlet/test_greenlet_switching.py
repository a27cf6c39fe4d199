"""What goes through a switch: values, exceptions, tracebacks, contexts."""

from __future__ import annotations

import contextvars
import gc
import sys
import traceback
import weakref

import pytest
import weft.greenlet as greenlet
from weft.greenlet import GreenletExit, getcurrent

Greenlet = greenlet.greenlet

SENT = [
    ((), {}, ()),
    ((1,), {}, 1),
    ((None,), {}, None),
    (((),), {}, ()),
    (((1, 2),), {}, (1, 2)),
    ((1, 2), {}, (1, 2)),
    ((), {"a": 1}, {"a": 1}),
    ((1,), {"a": 1}, ((1,), {"a": 1})),
    ((1, 2), {"a": 1, "b": 2}, ((1, 2), {"a": 1, "b": 2})),
]


@pytest.mark.parametrize(("arguments", "keywords", "received"), SENT)
class TestValues:
    def test_a_start_calls_run_with_them(self, arguments: tuple, keywords: dict, received: object) -> None:
        assert Greenlet(lambda *a, **k: (a, k)).switch(*arguments, **keywords) == (arguments, keywords)

    def test_a_suspended_switch_returns_them(
        self, arguments: tuple, keywords: dict, received: object
    ) -> None:
        main = getcurrent()
        resumed = Greenlet(lambda: main.switch())
        resumed.switch()
        assert resumed.switch(*arguments, **keywords) == received

    def test_back_to_the_parent(self, arguments: tuple, keywords: dict, received: object) -> None:
        main = getcurrent()
        assert Greenlet(lambda: main.switch(*arguments, **keywords)).switch() == received

    def test_a_dead_one_stands_for_its_parent(
        self, arguments: tuple, keywords: dict, received: object
    ) -> None:
        dead = Greenlet(lambda: None)
        dead.switch()
        assert dead.switch(*arguments, **keywords) == received

    def test_to_itself(self, arguments: tuple, keywords: dict, received: object) -> None:
        assert getcurrent().switch(*arguments, **keywords) == received
        assert Greenlet(lambda: getcurrent().switch(*arguments, **keywords)).switch() == received


def test_a_tuple_that_is_returned_stays_a_tuple() -> None:
    assert Greenlet(lambda: (1,)).switch() == (1,)
    assert Greenlet(lambda: ()).switch() == ()


def test_a_result_goes_up_a_chain_of_dead_parents() -> None:
    outer = Greenlet(lambda: None)
    middle = Greenlet(lambda: None, outer)
    inner = Greenlet(lambda: "result", middle)
    outer.switch()
    middle.switch()
    assert inner.switch() == "result"
    assert inner.dead


def test_a_result_starts_a_parent_that_was_not_started() -> None:
    parent = Greenlet(lambda *arguments: ("parent got", arguments))
    child = Greenlet(lambda: "result", parent)
    assert child.switch() == ("parent got", ("result",))


def test_an_exception_ends_a_parent_that_was_not_started() -> None:
    parent = Greenlet(lambda: pytest.fail("started"))

    def child() -> None:
        raise KeyError("from the child")

    with pytest.raises(KeyError, match="from the child"):
        Greenlet(child, parent).switch()
    assert parent.dead


def test_exceptions_pass_parents_that_do_not_catch_them() -> None:
    seen = []

    def parent() -> None:
        try:
            child.switch()
        finally:
            seen.append(sys.exc_info()[0])

    def raises() -> None:
        raise ZeroDivisionError

    child = Greenlet(raises)
    outer = Greenlet(parent)
    child.parent = outer
    with pytest.raises(ZeroDivisionError):
        outer.switch()
    assert seen == [ZeroDivisionError]


def test_a_traceback_has_the_frames_of_both_greenlets() -> None:
    def innermost() -> None:
        raise ValueError("here")

    def run() -> None:
        innermost()

    def starts() -> None:
        Greenlet(run).switch()

    with pytest.raises(ValueError, match="here") as caught:
        starts()
    names = [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert names[-3:] == ["starts", "run", "innermost"]


def test_a_thrown_traceback_is_kept() -> None:
    def origin() -> None:
        raise ValueError

    try:
        origin()
    except ValueError as error:
        thrown = error
    main = getcurrent()

    def waits() -> None:
        main.switch()

    target = Greenlet(waits)
    target.switch()
    with pytest.raises(ValueError) as caught:
        target.throw(ValueError, thrown, thrown.__traceback__)
    names = [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert names[-2:] == ["waits", "origin"] or names[-1] == "origin"
    assert "waits" in names


def test_the_handled_exception_is_the_greenlets_own() -> None:
    main = getcurrent()

    def handles(kind: type[BaseException]) -> object:
        assert sys.exc_info() == (None, None, None)
        try:
            raise kind
        except kind:
            main.switch()
            first = sys.exc_info()[0]
            try:
                raise
            except BaseException as again:
                return first, type(again)

    one, two = Greenlet(handles), Greenlet(handles)
    try:
        raise KeyError
    except KeyError:
        one.switch(ValueError)
        assert sys.exc_info()[0] is KeyError
        two.switch(TypeError)
        assert sys.exc_info()[0] is KeyError
    assert sys.exc_info()[0] is None
    assert one.switch() == (ValueError, ValueError)
    assert two.switch() == (TypeError, TypeError)


def test_an_exception_has_no_context_from_another_greenlet() -> None:
    def raises() -> None:
        raise ValueError

    try:
        raise KeyError
    except KeyError:
        with pytest.raises(ValueError) as caught:
            Greenlet(raises).switch()
    assert not isinstance(caught.value.__context__, ValueError)


def test_exit_is_returned_and_anything_derived_from_it() -> None:
    class Quit(GreenletExit):
        pass

    def run() -> None:
        raise Quit("value")

    result = Greenlet(run).switch()
    assert type(result) is Quit
    assert result.args == ("value",)


@pytest.mark.parametrize("started", [False, True])
def test_throw_without_arguments_ends_it(started: bool) -> None:
    main = getcurrent()
    target = Greenlet(lambda: main.switch())
    if started:
        target.switch()
    assert isinstance(target.throw(), GreenletExit)
    assert target.dead
    assert isinstance(target.throw(), GreenletExit)


def test_a_generator_is_suspended_inside_and_continued_elsewhere() -> None:
    main = getcurrent()

    def numbers() -> object:
        try:
            raise KeyError
        except KeyError:
            yield main.switch("from the generator")
            yield sys.exc_info()[0]

    generator = numbers()
    one = Greenlet(lambda: next(generator))
    assert one.switch() == "from the generator"
    with pytest.raises(ValueError, match="already executing"):
        next(generator)
    assert one.switch("yielded") == "yielded"
    # Its next step is made on another stack.
    assert Greenlet(lambda: next(generator)).switch() is KeyError
    assert sys.exc_info()[0] is None


def test_a_generator_that_is_executing_dies_with_its_greenlet() -> None:
    main = getcurrent()
    ended = []

    def inner() -> object:
        try:
            yield main.switch()
        finally:
            ended.append("inner")

    def outer() -> object:
        try:
            yield from inner()
        finally:
            ended.append("outer")

    target = Greenlet(lambda: list(outer()))
    target.switch()
    del target
    assert ended == ["inner", "outer"]


variable = contextvars.ContextVar("variable", default="unset")


def test_each_greenlet_has_its_context() -> None:
    main = getcurrent()

    def run(value: str) -> object:
        before = variable.get()
        variable.set(value)
        main.switch()
        return before, variable.get()

    variable.set("main")
    one, two = Greenlet(run), Greenlet(run)
    one.switch("one")
    two.switch("two")
    assert variable.get() == "main"
    assert one.switch() == ("unset", "one")
    assert two.switch() == ("unset", "two")
    assert variable.get() == "main"


def test_a_context_is_given_before_and_looked_at_during() -> None:
    main = getcurrent()
    given = contextvars.copy_context()
    given.run(variable.set, "given")
    target = Greenlet(lambda: (main.switch(variable.get()), variable.get())[1])
    target.gr_context = given
    assert target.switch() == "given"
    assert target.gr_context is given
    other = contextvars.Context()
    other.run(variable.set, "other")
    target.gr_context = other
    assert target.switch() == "other"


def test_a_context_entered_with_run_survives_switches() -> None:
    main = getcurrent()
    context = contextvars.copy_context()

    def inside() -> str:
        variable.set("inside")
        main.switch()
        return variable.get()

    target = Greenlet(lambda: (context.run(inside), variable.get()))
    target.switch()
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(lambda: None)
    assert target.switch() == ("inside", "unset")
    context.run(lambda: None)


class TestSubclasses:
    def test_run_as_a_method(self) -> None:
        class Runs(Greenlet):
            def run(self, value: int) -> object:
                return self, value

        made = Runs()
        assert made.switch(3) == (made, 3)

    def test_looking_up_run_switches_away(self) -> None:
        main = getcurrent()

        class Looks(Greenlet):
            def __getattribute__(self, name: str) -> object:
                if name == "run":
                    return main.switch("looking")
                return super().__getattribute__(name)

        made = Looks()
        searcher = Greenlet(lambda: made.switch("argument"))
        assert searcher.switch() == "looking"
        assert not made
        assert searcher.switch(lambda value: ("ran", value)) == ("ran", "argument")
        assert made.dead

    def test_looking_up_run_starts_it(self) -> None:
        log = []

        class Starts(Greenlet):
            looked = False

            def __getattribute__(self, name: str) -> object:
                if name == "run" and not type(self).looked:
                    type(self).looked = True
                    log.append(self.switch("inner"))
                return super().__getattribute__(name)

            def run(self, value: object) -> object:
                log.append(value)
                log.append(self.parent.switch("suspended"))
                return "end"

        made = Starts()
        assert made.switch("outer") == "end"
        assert log == ["inner", "suspended", "outer"]

    def test_looking_up_run_raises(self) -> None:
        class Raises(Greenlet):
            @property
            def run(self) -> object:
                raise LookupError("no run")

        made = Raises()
        for _ in range(2):
            with pytest.raises(LookupError, match="no run"):
                made.switch()
        assert not made.dead

    def test_slots_and_attributes(self) -> None:
        class Slotted(Greenlet):
            __slots__ = ("mine",)

        made = Slotted(lambda: made.mine)
        made.mine = 5
        made.other = 6
        assert made.switch() == 5
        assert made.__dict__ == {"other": 6}


class TestCollection:
    def test_a_cycle_through_one_that_was_not_started(self) -> None:
        class Marker:
            pass

        marker = Marker()
        made = Greenlet(lambda: marker)
        made.itself = made
        made.marker = marker
        gone = weakref.ref(marker), weakref.ref(made)
        del made, marker
        gc.collect()
        assert [reference() for reference in gone] == [None, None]

    def test_a_cycle_through_a_dead_one(self) -> None:
        made = Greenlet(lambda: None)
        made.switch()
        made.itself = [made]
        gone = weakref.ref(made)
        del made
        gc.collect()
        assert gone() is None

    def test_a_chain_of_parents_that_were_not_started(self) -> None:
        one = Greenlet(lambda: None)
        two = Greenlet(lambda: None, one)
        one.child = two
        gone = weakref.ref(one), weakref.ref(two)
        del one, two
        gc.collect()
        assert [reference() for reference in gone] == [None, None]

    def test_what_a_suspended_one_holds_is_not_collected(self) -> None:
        main = getcurrent()

        def run() -> list[int]:
            held = [1, 2]
            held.append(held)
            main.switch()
            return held[:2]

        target = Greenlet(run)
        target.itself = target
        target.switch()
        gc.collect()
        assert target.switch() == [1, 2]

    def test_dropping_a_suspended_one_ends_it(self) -> None:
        main = getcurrent()
        log = []

        def run() -> None:
            try:
                main.switch()
            except GreenletExit as why:
                log.append(why)
                raise

        target = Greenlet(run)
        target.switch()
        gone = weakref.ref(target)
        del target
        assert gone() is None
        assert len(log) == 1

    def test_weak_references_are_told(self) -> None:
        log = []
        target = Greenlet(lambda: None)
        reference = weakref.ref(target, log.append)
        del target
        assert log == [reference]

    def test_deletion_of_an_attribute_that_switches(self) -> None:
        main = getcurrent()
        log = []

        class Switches:
            def __del__(self) -> None:
                log.append(Greenlet(lambda: main.switch("inside") or "after").switch())

        made = Greenlet(lambda: None)
        made.attribute = Switches()
        made.switch()
        del made
        assert log == ["inside"]


def test_names_on_the_type_are_those_of_the_module() -> None:
    for name in ("getcurrent", "error", "GreenletExit", "settrace", "gettrace"):
        assert getattr(Greenlet, name) is getattr(greenlet, name)
    assert Greenlet.getcurrent() is getcurrent()


def test_references_are_kept_exactly() -> None:
    main = getcurrent()
    value = object()

    def run(*arguments: object, **keywords: object) -> object:
        arguments = keywords = None
        got = main.switch(value)
        got = main.switch(value, value)
        got = main.switch(key=value)
        return got

    counts = []
    for _ in range(10):
        target = Greenlet(run)
        target.switch(value, key=value)
        target.switch(value)
        target.switch(value, key=value)
        target.switch(value)
        with pytest.raises(KeyError):
            Greenlet(run).throw(KeyError(value))
        with pytest.raises(TypeError):
            Greenlet(lambda: 0).switch(value, key=value)
        Greenlet(run).throw(GreenletExit, value)
        target = Greenlet(run)
        target.switch()
        del target
        gc.collect()
        counts.append((sys.getrefcount(value), sys.getrefcount(main)))
    assert len(set(counts[1:])) == 1, counts
