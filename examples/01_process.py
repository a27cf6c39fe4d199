"""Process: files are compressed at the same time, each in a process of its own; one that would never end is terminated.

It prints:

    compress-0 ended with exit code 0
    compress-1 ended with exit code 0
    compress-2 ended with exit code 3
    smaller, and the same when unpacked: True
    watcher is alive: True
    watcher was ended by SIGTERM, is alive: False
"""

import gzip
import signal
import sys
import tempfile
import threading
from pathlib import Path

import weft


def compress(path):
    if not path.exists():
        sys.exit(3)  # the parent finds it as the exit code
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))


class Watcher(weft.Process):
    """A process as a subclass: `run` is what it does."""

    def run(self):
        threading.Event().wait()  # for ever


def main(directory):
    texts = [directory / f"{number}.txt" for number in range(2)]
    for text in texts:
        text.write_text("all work and no play\n" * 100_000)

    jobs = [
        weft.Process(target=compress, args=(path,), name=f"compress-{number}")
        for number, path in enumerate([*texts, directory / "missing.txt"])
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        print(f"{job.name} ended with exit code {job.exitcode}")

    originals = [text.read_bytes() for text in texts]
    packed = [text.with_suffix(".gz").read_bytes() for text in texts]
    is_the_same = [gzip.decompress(data) for data in packed] == originals
    is_smaller = sum(map(len, packed)) < sum(map(len, originals))
    print(f"smaller, and the same when unpacked: {is_smaller and is_the_same}")

    watcher = Watcher(
        name="watcher", daemon=True
    )  # daemon: it ends with the program, if nobody ends it before
    watcher.start()
    print(f"{watcher.name} is alive: {watcher.is_alive()}")
    watcher.terminate()
    watcher.join()
    print(
        f"{watcher.name} was ended by {signal.Signals(-watcher.exitcode).name}, is alive: {watcher.is_alive()}"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory))
