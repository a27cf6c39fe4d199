"""A manager of the standard library's that was there before weft took its place."""

from __future__ import annotations

from pathlib import Path

from interpreter import prints

PROGRAM = """
import multiprocessing as mp
import multiprocessing.managers as managers


class Mine(managers.SyncManager):
    pass


def work(old, new):
    old["child"] = new["child"] = mp.current_process().name


if __name__ == "__main__":
    # A server that is ended by force leaves its folder behind: let it take its time.
    before = managers.SyncManager(shutdown_timeout=600)
    before.start()
    old = before.dict(x=1)
    mine = Mine(shutdown_timeout=600)
    import weft

    weft.install("multiprocessing")
    after = mp.Manager()
    new = after.dict()
    new["old"], old["new"] = old, new
    print(new["old"]["x"], type(old["new"]).__name__)
    for method in ("fork", "spawn", "forkserver"):
        process = mp.get_context(method).Process(target=work, args=(old, new), name=method)
        process.start()
        process.join()
        print(process.exitcode, old["child"], new["child"])
    mine.start()
    print(mine.list([1]))
    mine.shutdown()
    after.shutdown()
    before.shutdown()
"""


def test_both_go_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert prints(program) == [
        "1 DictProxy",
        "0 fork fork",
        "0 spawn spawn",
        "0 forkserver forkserver",
        "[1]",
    ]
