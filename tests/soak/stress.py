"""Random life of greenlets over several threads, with a count of everything at the end.

    python tests/soak/stress.py --seconds 600 --seed 7 --threads 4 --slots 2

A *round* is one thread's small world of greenlets: they are spawned, switched to, thrown into, killed,
dropped, collected, handed to other threads, and left behind by ending threads, while they recurse (in Python
and in C), run generators, handle exceptions, set context variables, trace and collect. What a round does is
decided by the seed and its number alone; only how threads interleave is not.

Rounds come in *phases* of equal length. After each phase nothing may be left: no greenlet, no main
greenlet, no value that was sent, no mapping; and memory must stay near what it was after the first phases.
In every other phase threads also end with suspended greenlets. What lay on their evaluation stacks
is lost by design (as in the greenlet package), so there only the number of things left is bounded.
"""

from __future__ import annotations

import argparse
import contextvars
import ctypes
import faulthandler
import gc
import itertools
import json
import os
import random
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable

PHASES = 6
# What threads leave behind stays, and everything is slower with it.
ABANDONING_ROUNDS = 1000
SETTLED_PHASES = 2  # phases in which memory may still rise to what the program needs
MEMORY_SLACK = 8 << 20

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default=None)


class Planned(Exception):
    """Raised and caught on purpose."""


class Token:
    """A value to send; counted."""

    alive = 0
    lock = threading.RLock()  # a collection inside may delete another token

    def __init__(self, text: str) -> None:
        self.text = text
        self.check = text[::-1]
        with Token.lock:
            Token.alive += 1

    def __del__(self) -> None:
        with Token.lock:
            Token.alive -= 1

    def verify(self) -> None:
        assert self.text == self.check[::-1], (self.text, self.check)


class Shared:
    """What rounds of all threads have in common."""

    def __init__(self) -> None:
        self.orphans: list[object] = []  # greenlets handed over to whoever comes next
        self.failures: list[str] = []
        self.abandoned = 0
        self.abandoning_threads = 0
        self.counts: dict[str, int] = {}

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def deep(levels: int, bottom: Callable[[], object]) -> object:
    """`bottom()` below `levels` Python calls."""
    marker = [levels]
    result = deep(levels - 1, bottom) if levels else bottom()
    assert marker == [levels]
    return result


def deep_in_c(levels: int, bottom: Callable[[], object]) -> object:
    """`bottom()` below `levels` of sorted(key=), a few KB of C stack each."""
    found: list[object] = []

    def key(_item: int) -> int:
        found.append(deep_in_c(levels - 1, bottom) if levels else bottom())
        return 0

    sorted([1], key=key)
    return found.pop()


class World:
    """One round: a thread's greenlets and the random acts on them."""

    def __init__(self, greenlet: object, shared: Shared, rng: random.Random, name: str) -> None:
        self.g = greenlet
        self.shared = shared
        self.rng = rng
        self.name = name
        self.main = greenlet.getcurrent()
        self.members: list[object] = []
        self.made: weakref.WeakSet[object] = weakref.WeakSet()
        self.number = itertools.count()
        self.steps = rng.randint(50, 400)
        self.closing = False

        world = weakref.ref(self)

        class Member(greenlet.greenlet):
            """A greenlet that is counted, and one that looks up `run` the long way."""

            def __init__(self, run: Callable[..., object] | None, parent: object = None) -> None:
                super().__init__(run, parent)
                everything.add(self)
                alive = world()
                if alive is not None:
                    alive.made.add(self)

            def __getattribute__(self, name: str) -> object:
                if name == "run":
                    alive = world()
                    if alive is not None and not alive.closing and alive.rng.random() < 0.05:
                        gc.collect(0)
                return super().__getattribute__(name)

        self.member = Member

    def token(self) -> Token:
        return Token(f"{self.name}/{next(self.number)}")

    # What a greenlet does between its start and its end.

    def body(self, *arguments: object, **keywords: object) -> object:
        self.verify(arguments)
        self.verify(tuple(keywords.values()))
        mine = self.token()
        variable.set(mine)
        try:
            while self.steps > 0 and not self.closing and not self.is_killed():
                self.step()
                assert variable.get() is mine, "the context variable is another greenlet's"
            if self.rng.random() < 0.2:
                raise Planned(mine)
            return mine
        finally:
            if (
                sys.exc_info()[0] is not self.g.GreenletExit
                and not self.is_killed()
                and self.rng.random() < 0.1
                and not self.closing
            ):
                # Does something on the way out; what ends for want of references must not, or it stays.
                self.leave()

    def is_killed(self) -> bool:
        """Whether a deletion swallowed the exception that should have ended the running greenlet."""
        return getattr(self.g.getcurrent(), "killed", False)

    def verify(self, value: object) -> None:
        if isinstance(value, Token):
            value.verify()
        elif isinstance(value, tuple):
            for item in value:
                self.verify(item)

    def pick(self) -> object:
        """A member that is not dead, or None. No list of them stays in a frame: that would keep them alive."""
        alive = [member for member in self.members if not member.dead]
        return self.rng.choice(alive) if alive else None

    def leave(self) -> None:
        """Switch somewhere and take what comes back."""
        rng = self.rng
        target = self.pick() if rng.random() < 0.6 else None
        if target is None:
            target = self.main
        kind = rng.random()
        if kind < 0.6:
            got = target.switch(self.token())
        elif kind < 0.75:
            got = target.switch(self.token(), self.token())
        elif kind < 0.85:
            got = target.switch(key=self.token())
        else:
            got = target.switch()
        self.verify(got)

    def step(self) -> None:
        """One random act of the running greenlet."""
        self.steps -= 1
        rng = self.rng
        act = rng.choice(ACTS)
        self.shared.count(act)
        getattr(self, f"act_{act}")()

    def act_switch(self) -> None:
        self.leave()

    def act_deep(self) -> None:
        deep(self.rng.randint(1, 120), self.leave)

    def act_deep_in_c(self) -> None:
        deep_in_c(self.rng.randint(1, 25), self.leave)

    def act_spawn(self) -> None:
        if len(self.members) >= 40:
            return
        parent = self.pick() if self.rng.random() < 0.3 else None
        made = self.member(self.body, parent) if parent else self.member(self.body)
        self.members.append(made)
        if self.rng.random() < 0.8:
            del parent
            self.verify(made.switch(self.token()))

    def act_throw(self) -> None:
        target = self.pick()
        if target is not None:
            try:
                target.throw(Planned(self.token()))
            except Planned as planned:
                self.verify(planned.args)

    def act_kill(self) -> None:
        target = self.pick()
        if target is not None and target is not self.g.getcurrent():
            self.members.remove(target)
            target.throw()

    def act_drop(self) -> None:
        if len(self.members) > 3:
            index = self.rng.randrange(len(self.members))
            if self.members[index] is not self.g.getcurrent():
                self.members.pop(index)

    def act_give_away(self) -> None:
        if self.members and self.rng.random() < 0.3:
            self.shared.orphans.append(self.members[self.rng.randrange(len(self.members))])

    def act_look_at_orphans(self) -> None:
        orphans = self.shared.orphans
        try:
            orphan = orphans[self.rng.randrange(len(orphans))]
        except (ValueError, IndexError):
            return
        frame = orphan.gr_frame
        for _ in range(200):
            if frame is None:
                break
            assert frame.f_code.co_name
            frame.f_lineno
            frame = frame.f_back
        repr(orphan)
        orphan.dead
        if self.rng.random() < 0.5:
            del frame
            try:
                orphans.remove(orphan)
            except ValueError:
                pass

    def act_collect(self) -> None:
        gc.collect(self.rng.randint(0, 1) if self.rng.random() < 0.95 else 2)

    def act_frames(self) -> None:
        for member in list(self.members):
            frame = member.gr_frame
            depth = 0
            while frame is not None:
                depth += 1
                frame.f_locals
                frame = frame.f_back
            assert depth < 2000

    def act_handle(self) -> None:
        try:
            raise Planned(self.token())
        except Planned as planned:
            self.leave()
            assert sys.exc_info()[1] is planned, "the handled exception is another greenlet's"

    def act_generator(self) -> None:
        def numbers() -> object:
            for number in range(self.rng.randint(1, 5)):
                if self.rng.random() < 0.5:
                    self.leave()
                yield number

        for number in numbers():
            assert number >= 0

    def act_nested_generator(self) -> None:
        def inner() -> object:
            try:
                yield 1
                self.leave()
                yield 2
            except Planned:
                yield 3

        def outer() -> object:
            yield from inner()

        got = []
        for value in outer():
            got.append(value)
            if self.rng.random() < 0.3:
                self.leave()
        assert got[:2] in ([1, 2], [1, 3]), got

    def act_greenlet_trace(self) -> None:
        if self.rng.random() < 0.5:
            self.g.settrace(None)
        else:
            counts = self.shared.counts

            def tracer(event: str, arguments: object) -> None:
                counts[event] = counts.get(event, 0) + 1

            self.g.settrace(tracer)

    def act_trace(self) -> None:
        if sys.gettrace() is None and self.rng.random() < 0.3:
            sys.settrace(lambda frame, event, argument: None)
        else:
            sys.settrace(None)

    def act_profile(self) -> None:
        if sys.getprofile() is None and self.rng.random() < 0.3:
            sys.setprofile(lambda frame, event, argument: None)
        else:
            sys.setprofile(None)

    def act_context(self) -> None:
        def inside() -> None:
            other = self.token()
            variable.set(other)
            self.leave()
            assert variable.get() is other

        before = variable.get()
        contextvars.copy_context().run(inside)
        assert variable.get() is before

    def act_cycle(self) -> None:
        pending = self.member(self.body)
        pending.itself = pending
        pending.value = self.token()

    def act_deletion_that_switches(self) -> None:
        world = self

        class Switches:
            def __del__(self) -> None:
                if world.closing or world.is_killed():
                    return
                try:
                    world.leave()
                except Planned:
                    pass
                except world.g.GreenletExit:
                    world.g.getcurrent().killed = True

        holder = [Switches()]
        self.steps -= 1
        del holder

    def act_json(self) -> None:
        nested: object = 1
        for _ in range(self.rng.randint(1, 150)):
            nested = [nested]
        assert json.loads(json.dumps(nested)) == nested

    # The round itself.

    def run(self) -> None:
        """Acts of the main greenlet until the steps are used up, then the end."""
        while self.steps > 0:
            try:
                if len(self.members) < 3:
                    self.act_spawn()
                self.step()
            except Planned as planned:
                self.verify(planned.args)

    def end(self) -> None:
        """Kills what is left: suspended greenlets whose stacks refer to each other end in no other way."""
        self.g.settrace(None)
        sys.settrace(None)
        sys.setprofile(None)
        self.closing = True
        self.members.clear()
        while remaining := [greenlet for greenlet in self.made if greenlet]:
            try:
                remaining.pop().throw()
            except Planned:
                pass


ACTS = [name.removeprefix("act_") for name in vars(World) if name.startswith("act_")]
ACTS += ["switch", "switch", "deep", "handle", "spawn"]

everything: weakref.WeakSet[object] = weakref.WeakSet()


def one_round(greenlet: object, shared: Shared, seed: int, number: int, abandon: bool) -> None:
    """One world from its first to its last moment, in the calling thread."""
    rng = random.Random(f"{seed}/{number}")
    world = World(greenlet, shared, rng, f"{number}")
    try:
        world.run()
    except BaseException:
        shared.failures.append(f"round {number}\n{traceback.format_exc()}")
    if abandon:
        world.closing = True
        greenlet.settrace(None)
        sys.settrace(None)
        sys.setprofile(None)
        shared.abandoned += len(world.made)
        shared.abandoning_threads += 1
        return
    try:
        world.end()
    except BaseException:
        shared.failures.append(f"end of round {number}\n{traceback.format_exc()}")


class Resources:
    """What the process has."""

    def __init__(self, greenlet: object) -> None:
        self.greenlets = len(everything)
        self.tokens = Token.alive
        self.mains = greenlet._greenlet.get_total_main_greenlets()
        with open("/proc/self/maps") as maps:
            self.mappings = sum(1 for _ in maps)
        with open("/proc/self/statm") as statm:
            self.resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def __str__(self) -> str:
        return (
            f"greenlets {self.greenlets}, main greenlets {self.mains}, tokens {self.tokens},"
            f" mappings {self.mappings}, resident {self.resident / 2**20:.1f} MiB"
        )


def tasks() -> int:
    """How many threads the process has, Python's or not."""
    return len(os.listdir("/proc/self/task"))


def settle(greenlet: object, threads: int) -> None:
    """Until ended threads are gone and cleaned up; no garbage is left."""
    while tasks() > threads or greenlet._greenlet.get_pending_cleanup_count():
        os.sched_yield()
    for _ in range(4):
        greenlet.getcurrent()
        gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def phase(
    greenlet: object,
    shared: Shared,
    options: argparse.Namespace,
    rounds: itertools.count,
    stop: Callable[[int], bool],
    abandon: bool,
) -> int:
    """Rounds in `options.threads` threads until `stop(number)`; how many there were."""
    done = itertools.count()

    def work() -> None:
        while not shared.failures:
            number = next(rounds)
            if stop(number):
                return
            rng = random.Random(f"{options.seed}/{number}/thread")
            if rng.random() < 0.3:
                # A thread of its own, which ends with or without suspended greenlets.
                left = abandon and rng.random() < 0.5
                thread = threading.Thread(
                    target=one_round, args=(greenlet, shared, options.seed, number, left)
                )
                thread.start()
                thread.join()
            else:
                one_round(greenlet, shared, options.seed, number, False)
            next(done)

    threads = [threading.Thread(target=work, name=f"worker {index}") for index in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.orphans.clear()
    return next(done)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--slots", type=int, default=None, help="stack slots a thread (default: weft's)")
    parser.add_argument("--watchdog", type=float, default=300.0, help="seconds that a phase may take longer")
    parser.add_argument("--round", type=int, default=None, help="run this round only, in one thread")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    if options.slots is not None:
        os.environ["WEFT_STACK_SLOTS"] = str(options.slots)
    print(f"seed {options.seed}, threads {options.threads}, slots {options.slots or 'default'}", flush=True)

    import weft.greenlet as greenlet

    faulthandler.enable()
    shared = Shared()

    def unraisable(problem: object) -> None:
        # What a greenlet raises that ends for want of references goes nowhere.
        if not isinstance(problem.exc_value, Planned):
            shared.failures.append("".join(traceback.format_exception(problem.exc_value)))

    sys.unraisablehook = unraisable
    if options.round is not None:
        one_round(greenlet, shared, options.seed, options.round, False)
        print("\n".join(shared.failures) or "the round is good")
        return bool(shared.failures)

    # A greenlet begins as deep as the one that starts it, and they start each other.
    sys.setrecursionlimit(20_000)
    greenlet.getcurrent()
    # The tools of the check itself must not count.
    settle(greenlet, tasks())
    before = Resources(greenlet)
    print(f"at the start: {before}", flush=True)
    wrong: list[str] = []
    rounds_a_phase = 0
    for index in range(PHASES):
        faulthandler.dump_traceback_later(options.watchdog + options.seconds, exit=True)
        abandon = index % 2 == 1
        shared.abandoned = shared.abandoning_threads = 0
        threads = tasks()
        start = Resources(greenlet)
        first = index * 10_000_000
        rounds = itertools.count(first)
        if index == 0:
            deadline = time.monotonic() + options.seconds / (PHASES / 2)
            rounds_a_phase = phase(
                greenlet,
                shared,
                options,
                rounds,
                lambda n, deadline=deadline: time.monotonic() > deadline,
                abandon,
            )
        else:
            last = first + (min(rounds_a_phase, ABANDONING_ROUNDS) if abandon else rounds_a_phase)
            phase(greenlet, shared, options, rounds, lambda n, last=last: n >= last, abandon)
        settle(greenlet, threads)
        now = Resources(greenlet)
        kind = (
            f"{shared.abandoning_threads} threads left {shared.abandoned} greenlets"
            if abandon
            else "nothing left"
        )
        print(f"phase {index}: {next(rounds) - first} rounds, {kind}: {now}", flush=True)
        if shared.failures:
            break
        allowed = shared.abandoned if abandon else 0
        for name, limit in (
            ("greenlets", allowed),
            ("mains", shared.abandoning_threads),
            ("tokens", 20 * allowed),
        ):
            rise = getattr(now, name) - getattr(start, name)
            if rise > limit:
                wrong.append(f"phase {index}: {name} rose by {rise}, at most {limit} can be explained")
        if index >= SETTLED_PHASES:
            # What suspended greenlets of an ended thread held is lost, and lies all over the heap.
            for name, slack, each in (("resident", MEMORY_SLACK, 64 << 10), ("mappings", 60, 1)):
                rise = getattr(now, name) - getattr(start, name)
                if rise > slack + each * allowed:
                    wrong.append(f"phase {index}: {name} rose by {rise}")
    faulthandler.cancel_dump_traceback_later()
    print(" ".join(f"{name}={count}" for name, count in sorted(shared.counts.items())))
    for problem in [*shared.failures[:3], *wrong]:
        print(f"FAILED: {problem}")
    print(f"seed {options.seed}: {'failed' if shared.failures or wrong else 'good'}")
    return bool(shared.failures or wrong)


if __name__ == "__main__":
    sys.exit(main())
