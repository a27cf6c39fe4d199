"""`weft.forward_logging`: what children log reaches the handlers of the process that asked for it."""

from __future__ import annotations

import pytest
from started import METHODS, begin, finish, prints

PROGRAM = """
import logging

class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []
    def emit(self, record):
        self.records.append(record)

"""


@pytest.mark.parametrize("method", METHODS)
def test_records_of_children_and_grandchildren_arrive(tmp_path, method):
    code = (
        PROGRAM
        + f"""
METHOD = {method!r}

def child(depth):
    logging.getLogger("deep.one").info("at %d", depth, extra={{"what": {{"a": [1]}}, "thing": object}})
    logging.getLogger("deep").debug("not seen")
    logging.getLogger("quiet.one").info("not seen either")
    logging.getLogger("loose").error("by itself")
    logging.warning("at the root")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("deep").exception("failed")
    if depth:
        process = mp.get_context(METHOD).Process(target=child, args=(depth - 1,), name=f"child-{{depth - 1}}")
        process.start()
        process.join()

def main():
    root, loose = Kept(), Kept()
    logging.getLogger().addHandler(root)
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("quiet").setLevel(logging.ERROR)
    logging.getLogger("loose").propagate = False
    logging.getLogger("loose").addHandler(loose)
    forwarding = weft.forward_logging()
    process = mp.get_context(METHOD).Process(target=child, args=(1,), name="child-1")
    process.start()
    process.join()
    forwarding.stop()  # what was on its way is here
    logging.info("here")
    for record in root.records:
        traceback = (record.exc_text or "").splitlines()[-1:]
        print(record.processName, record.name, record.levelname, record.getMessage(), traceback)
        if hasattr(record, "what"):
            print(record.what, record.thing, record.process != os.getpid())
    print([(record.processName, record.msg) for record in loose.records])
    shown = logging.Formatter("%(message)s").format(root.records[2])
    print(shown.startswith("failed\\nTraceback (most recent call last):\\n"))
    print(threading.active_count())
"""
    )
    expected = []
    for depth in (1, 0):
        expected += [
            f"child-{depth} deep.one INFO at {depth} []",
            "{'a': [1]} <class 'object'> True",
            f"child-{depth} root WARNING at the root []",
            f"child-{depth} deep ERROR failed ['ZeroDivisionError: division by zero']",
        ]
    expected += [
        "MainProcess root INFO here []",
        "[('child-1', 'by itself'), ('child-0', 'by itself')]",
        "True",
        "1",
    ]
    assert prints(tmp_path, code) == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_logger_may_get_all_of_it(tmp_path, method):
    code = (
        PROGRAM
        + f"""
def child():
    logging.getLogger("some").warning("one")
    logging.warning("two")

def main():
    mine, kept = logging.getLogger("mine"), Kept()
    mine.addHandler(kept)
    mine.propagate = False
    with weft.forward_logging(mine):
        processes = [weft.Process(target=child, start_method={method!r}) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    print(sorted((record.name, record.msg) for record in kept.records))
"""
    )
    assert prints(tmp_path, code) == [str([("root", "two")] * 3 + [("some", "one")] * 3)]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_at_the_end_of_the_program(tmp_path, method):
    """The program ends without a word; its children are joined, and then what they logged is handled."""
    code = (
        PROGRAM
        + f"""
def child(number):
    for index in range(200):
        logging.info("%d %d", number, index)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)

def main():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s", force=True)
    weft.forward_logging()
    for number in range(3):
        mp.get_context({method!r}).Process(target=child, args=(number,)).start()
"""
    )
    lines = prints(tmp_path, code)
    assert sorted(lines) == sorted(f"{number} {index}" for number in range(3) for index in range(200))


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_child_loses_one_record_at_most(tmp_path, method):
    code = (
        PROGRAM
        + f"""
import random

def child():
    for index in range(1 << 40):
        logging.info("%d", index)

class Counting(logging.Handler):
    def __init__(self):
        super().__init__()
        self.seen = threading.Semaphore(0)
        self.wrong = []
        self.next = {{}}
    def emit(self, record):
        if int(record.msg) != self.next.get(record.process, 0):
            self.wrong.append(record.msg)
        self.next[record.process] = int(record.msg) + 1
        self.seen.release()

def main():
    counting = Counting()
    logging.getLogger().addHandler(counting)
    logging.getLogger().setLevel(logging.INFO)
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    forwarding = weft.forward_logging()
    for _ in range(10):
        process = mp.get_context({method!r}).Process(target=child)
        process.start()
        wanted = chance.randrange(1, 500)
        while counting.next.get(process.pid, 0) < wanted:
            counting.seen.acquire()
        process.kill()
        process.join()
    forwarding.stop()
    print(len(counting.next), counting.wrong or "in order", "" if not counting.wrong else seed)
"""
    )
    assert prints(tmp_path, code) == ["10 in order "]


def test_one_at_a_time_and_after_stop_another(tmp_path):
    code = (
        PROGRAM
        + """
def child(text):
    logging.warning(text)

def main():
    kept = Kept()
    logging.getLogger().addHandler(kept)
    first = weft.forward_logging()
    try:
        weft.forward_logging()
    except RuntimeError as error:
        print(error)
    first.stop()
    first.stop()
    for method in METHODS:
        with weft.forward_logging():
            process = mp.get_context(method).Process(target=child, args=(method,))
            process.start()
            process.join()
        # What is started from now on handles its records itself.
        process = mp.get_context("spawn").Process(target=child, args=("own",))
        process.start()
        process.join()
    print([record.msg for record in kept.records])
"""
    )
    status, lines, errors = finish(begin(tmp_path, code))
    assert status == 0
    assert lines == [
        "logging is forwarded already; stop() that first",
        "['fork', 'spawn', 'forkserver']",
    ]
    assert errors.splitlines() == ["WARNING:root:own"] * 3


def test_a_handler_that_fails_does_not_end_it(tmp_path):
    code = (
        PROGRAM
        + """
class Failing(Kept):
    def emit(self, record):
        super().emit(record)
        if len(self.records) == 1:
            raise ValueError("this handler fails once")

def child():
    logging.warning("one")
    logging.warning("two")

def main():
    kept = Failing()
    logging.getLogger().addHandler(kept)
    sys.excepthook = lambda kind, value, trace: print(kind.__name__, value)
    with weft.forward_logging():
        process = weft.Process(target=child)
        process.start()
        process.join()
    print([record.msg for record in kept.records])
"""
    )
    assert prints(tmp_path, code) == ["ValueError this handler fails once", "['one', 'two']"]


def test_no_thread_is_there_at_a_fork(tmp_path):
    """From 3.12 on the interpreter warns of a fork in a process with several threads."""
    code = (
        PROGRAM
        + """
import warnings

def main():
    warnings.simplefilter("error")
    kept = Kept()
    logging.getLogger().addHandler(kept)
    with weft.forward_logging():
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(threading.active_count())
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), threading.active_count())
"""
    )
    assert prints(tmp_path, code) == ["1 2"] * 3


def test_it_works_in_a_pool(tmp_path):
    code = (
        PROGRAM
        + """
def square(n):
    logging.getLogger("work").info("%d", n)
    return n * n

def main():
    kept = Kept()
    logging.getLogger().addHandler(kept)
    logging.getLogger().setLevel(logging.INFO)
    for method in METHODS:
        with weft.forward_logging():
            with mp.get_context(method).Pool(2) as pool:
                pool.map(square, range(20))
                pool.close()
                pool.join()
    print(sorted(int(record.msg) for record in kept.records) == sorted(3 * list(range(20))))
"""
    )
    assert prints(tmp_path, code) == ["True"]
