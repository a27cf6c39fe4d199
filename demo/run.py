"""Unmodified programs that live on greenlet, gevent or multiprocessing, run on these and on weft.

    python demo/run.py [--rounds N]

* `orders.py`: SQLAlchemy's asyncio layer with aiosqlite; the time is that of the whole process.
* `quotes.py`: a Flask application served by gunicorn's gevent worker; the time is that of all
  requests, from the first to the last answer, over some connections at once.
* `census.py`: processes and queues that count what is in the standard library's sources; the time
  is that of the whole program.
* `concordance.py`: a pool that indexes every identifier there; the same, three rounds at most.
* `crawler.py`: greenlets that crawl a site of a thousand pages (`site.py`, served on this machine by a process that is the
  same for both sides); the time is that of the whole program.

Both sides run in turn. Whatever they say is compared byte for byte: a difference is exit code 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
PACKAGES = ("weft", "greenlet", "sqlalchemy", "aiosqlite", "gunicorn", "gevent", "flask")
PRODUCTS = ("anchor", "buoy", "compass", "dinghy", "ensign", "fender", "grapnel", "hawser")
CONNECTIONS = 8
PATIENCE = 120  # seconds until something is taken to hang


class DemoError(Exception):
    """A program failed, or ran on something else than it should have."""


@dataclass(frozen=True)
class Side:
    name: str
    command: tuple[str, ...]
    module: str  # in the path of the file that its greenlets, or queues, come from


UNDER_WEFT = (sys.executable, "-m", "weft", "--only")
SIDES = (
    Side("greenlet", (sys.executable,), "/greenlet/_greenlet."),
    Side("weft", (*UNDER_WEFT, "greenlet"), "/weft/_native."),
)
PROCESS_SIDES = (
    Side(
        "the stdlib",
        (sys.executable,),
        f"/python{sys.version_info[0]}.{sys.version_info[1]}/multiprocessing/",
    ),
    Side("weft", (*UNDER_WEFT, "multiprocessing"), "/weft/"),
)
GEVENT_SIDES = (
    Side("gevent", (sys.executable,), "/site-packages/gevent/"),
    Side("weft", (*UNDER_WEFT, "gevent"), "/weft/gevent/"),
)
SOURCE_OF_HUBS = "import sys, gevent.hub as m; print(sys.modules[m.Hub.__module__].__file__)"
SOURCE_OF_GREENLETS = "import greenlet; print(greenlet._greenlet.__file__)"
SOURCE_OF_QUEUES = "import sys, multiprocessing.queues as m; print(sys.modules[m.Queue.__module__].__file__)"


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "WEFT_INSTALL"}


def check_side(side: Side, module: str) -> None:
    if side.module not in module:
        raise DemoError(f"on {side.name}, but what it uses comes from {module or 'nowhere'}")


def check_command(side: Side, code: str) -> None:
    """That what `side` starts gets what it should."""
    check_side(side, output_of([*side.command, "-c", code]).decode())


def output_of(command: list[str]) -> bytes:
    ended = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
    )
    if ended.returncode != 0:
        raise DemoError(f"exit code {ended.returncode}: {' '.join(command)}")
    return ended.stdout


def whole_program(side: Side, name: str, *arguments: str) -> tuple[float, bytes]:
    started = time.perf_counter()
    output = output_of([*side.command, str(HERE / name), *arguments])
    return time.perf_counter() - started, output


# -- SQLAlchemy


def orders(side: Side) -> tuple[float, bytes]:
    return whole_program(side, "orders.py")


# -- multiprocessing


def census(side: Side) -> tuple[float, bytes]:
    return whole_program(side, "census.py")


def concordance(side: Side) -> tuple[float, bytes]:
    return whole_program(side, "concordance.py")


# -- gunicorn


class Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise DemoError(f"{path}: {response.status} {response.reason}")
    return body


@contextmanager
def gunicorn(side: Side, folder: Path) -> Iterator[Path]:
    """A server on `side`; gives the path of its socket, which accepts at once."""
    path = folder / "quotes.sock"
    log = folder / "gunicorn.log"
    options = ["--worker-class", "gevent", "--no-control-socket", "--log-level", "warning"]
    # The socket is open before the server is: whoever connects early waits, nobody polls.
    with socket.socket(socket.AF_UNIX) as listener, log.open("wb") as errors:
        listener.bind(str(path))
        listener.listen(CONNECTIONS * 2)
        bind = ["--bind", f"fd://{listener.fileno()}", "--chdir", str(HERE)]
        server = subprocess.Popen(
            [*side.command, "-m", "gunicorn", *options, *bind, "quotes:app"],
            env=environment(),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=[listener.fileno()],
        )
    # From here on only the server has it: if that dies, connections break.
    try:
        yield path
        check_side(side, greenlets_of_children(server.pid))
    except (OSError, HTTPException, DemoError) as error:
        raise DemoError(f"{error}\n{log.read_text()}") from error
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def greenlets_of_children(pid: int) -> str:
    """The shared object with greenlets that the workers of a server have loaded."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    loaded = {
        line.split()[-1]
        for child in children
        for line in Path(f"/proc/{child}/maps").read_text().splitlines()
        if any(side.module in line for side in SIDES)
    }
    return ", ".join(sorted(loaded))


def requests_of(client: int) -> list[str]:
    """What one connection asks for."""
    return [
        f"/ledger/{product}" if pieces % 10 == 0 else f"/quote/{product}/{pieces + client}"
        for pieces in range(1, 41)
        for product in PRODUCTS
    ]


def quotes(side: Side) -> tuple[float, bytes]:
    with tempfile.TemporaryDirectory() as folder, gunicorn(side, Path(folder)) as path:

        def ask(client: int) -> bytes:
            connection = Connection(path)
            try:
                return b"".join(get(connection, url) for url in requests_of(client))
            finally:
                connection.close()

        warm = Connection(path)
        get(warm, "/quote/anchor/1")
        warm.close()
        started = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as clients:
            answers = b"".join(clients.map(ask, range(CONNECTIONS)))
        return time.perf_counter() - started, answers


# -- gevent


@contextmanager
def site() -> Iterator[int]:
    """The site; gives its port, which accepts at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        port = listener.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, str(HERE / "site.py"), str(listener.fileno())],
            env=environment(),
            stdin=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
    try:
        yield port
        if server.poll() is not None:
            raise DemoError(f"the site ended with exit code {server.returncode}")
    finally:
        server.kill()  # it has nothing to put in order, and a stopped one would never do it
        server.wait()


def crawler(side: Side, port: int) -> tuple[float, bytes]:
    return whole_program(side, "crawler.py", str(port))


# -- The comparison


def compare(
    title: str,
    program: Callable[[Side], tuple[float, bytes]],
    rounds: int,
    sides: tuple[Side, Side] = SIDES,
) -> bool:
    """Run `program` on both sides in turn, print the times; whether the output was the same."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    outputs: dict[str, set[bytes]] = {side.name: set() for side in sides}
    print(f"\n{title}", flush=True)
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            seconds, output = program(side)
            times[side.name].append(seconds)
            outputs[side.name].add(output)
    for name, taken in times.items():
        low, high = min(taken), max(taken)
        print(f"  on {name:10}{median(taken):7.3f} s   ({low:.3f} … {high:.3f})")
    print(f"  weft: {median(times[sides[0].name]) / median(times['weft']):.2f} times as fast")
    every = set().union(*outputs.values())
    if len(every) == 1:
        size = len(every.pop())
        print(f"  same output: {size:,} bytes, {2 * rounds} runs")
        return True
    print("  DIFFERENT OUTPUT:", *(f"{len(found)} on {name}" for name, found in outputs.items()))
    return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    rounds = max(1, parser.parse_args().rounds)
    v = {name: version(name) for name in PACKAGES}
    print(
        f"CPython {platform.python_version()}, greenlet {v['greenlet']}, weft {v['weft']}: "
        f"unmodified programs, medians of {rounds} rounds"
    )
    count = CONNECTIONS * len(requests_of(0))
    try:
        for side in SIDES:
            check_command(side, SOURCE_OF_GREENLETS)
        for side in GEVENT_SIDES:
            check_command(side, SOURCE_OF_HUBS)
        for side in PROCESS_SIDES:
            check_command(side, SOURCE_OF_QUEUES)
        same = [
            compare(
                f"SQLAlchemy {v['sqlalchemy']} asyncio with aiosqlite {v['aiosqlite']}: "
                "demo/orders.py, the whole process",
                orders,
                rounds,
            ),
            compare(
                f"gunicorn {v['gunicorn']} with gevent {v['gevent']}, Flask {v['flask']}: "
                f"demo/quotes.py, {count:,} requests over {CONNECTIONS} connections",
                quotes,
                rounds,
            ),
            compare(
                "the standard library's sources, three processes, queues, and a process a module: "
                "demo/census.py, the whole program",
                census,
                rounds,
                PROCESS_SIDES,
            ),
            compare(
                "every identifier in the standard library's sources, a pool of two workers: "
                "demo/concordance.py, the whole program",
                concordance,
                min(rounds, 3),
                PROCESS_SIDES,
            ),
        ]
        with site() as port:
            same.append(
                compare(
                    f"gevent {v['gevent']}, fifty greenlets crawl a local site of a thousand pages: "
                    "demo/crawler.py, the whole program",
                    partial(crawler, port=port),
                    rounds,
                    GEVENT_SIDES,
                )
            )
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\nSame output everywhere." if all(same) else "\nThe output differs.")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
