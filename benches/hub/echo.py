"""TCP echo, messages a second: greenlets on weft's hub (bare streams, and sockets), gevent, and a bare epoll server, in turns.

    python benches/hub/echo.py [--seconds 2] [--rounds 3] [--size 64] [--connections 100 1000] [--burn]

Wants `cargo build --release -p weft-reactor --example echo`, and gevent installed. With `--burn`, a
thread computes beside each Python server.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVERS = Path(__file__).with_name("servers.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--connections", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--burn", action="store_true")
    options = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target" / ".venv"))
    bare = target / "release" / "examples" / "echo"
    burn = ["--burn"] if options.burn else []
    sides = {
        "epoll": [str(bare), "serve"],
        "weft": [sys.executable, str(SERVERS), "weft"],
        "weft-socket": [sys.executable, str(SERVERS), "weft-socket"],
        "gevent": [sys.executable, str(SERVERS), "gevent"],
    }
    for connections in options.connections:
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, command in sides.items():
                port = free_port()
                extra = [] if side == "epoll" else burn
                server = subprocess.Popen([*command, str(port), *extra], stdout=subprocess.PIPE)
                try:
                    assert server.stdout is not None
                    server.stdout.readline()
                    load = [str(bare), "load", str(port), str(connections), str(options.size)]
                    answer = subprocess.run([*load, str(options.seconds)], stdout=subprocess.PIPE, check=True)
                    rates[side].append(float(answer.stdout))
                finally:
                    server.kill()
                    server.wait()
                    if server.stdout is not None:
                        server.stdout.close()
        middle = {side: statistics.median(found) for side, found in rates.items()}
        print(
            f"{connections} connections, {options.size} B:",
            *(
                f"{side} {rate / 1000:.1f} k/s ({rate / middle['epoll']:.0%})"
                for side, rate in middle.items()
            ),
        )


if __name__ == "__main__":
    main()
