"""Coroutine: two directory trees are walked by recursive functions, side by side, until they differ.

Each walk has a stack of its own, so that a plain recursive function can stop anywhere inside of itself, and go on later;
with generators each level would have to pass on what the one below it says.

It prints:

    the same so far: docs, docs/intro.txt
    the first that differs: docs/usage.txt and docs/usage.md
    looked at 6 of 1,003
"""

import tempfile
from pathlib import Path

from weft.greenlet import getcurrent, greenlet

looked_at = []


def walk(directory, root):
    for path in sorted(directory.iterdir()):
        looked_at.append(path)
        getcurrent().parent.switch(path.relative_to(root).as_posix())
        if path.is_dir():
            walk(path, root)


def names(root):
    """An iterator over what `walk` finds, one at a time."""
    coroutine = greenlet(walk)
    name = coroutine.switch(root, root)
    while not coroutine.dead:
        yield name
        name = coroutine.switch()


def main(left, right):
    for root, last in ((left, "usage.txt"), (right, "usage.md")):
        (root / "docs").mkdir(parents=True)
        for name in ("intro.txt", last):
            (root / "docs" / name).touch()
    for number in range(997):
        (left / f"page-{number}.txt").touch()

    same = []
    for ours, theirs in zip(names(left), names(right), strict=False):
        if ours != theirs:
            print("the same so far:", ", ".join(same))
            print(f"the first that differs: {ours} and {theirs}")
            break
        same.append(ours)
    there_are = sum(1 for root in (left, right) for _ in root.rglob("*"))
    print(f"looked at {len(looked_at)} of {there_are:,}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory, "left"), Path(directory, "right"))
