"""`worker.py` as a program whose main module imports numpy, as its processes may have to again."""

from __future__ import annotations

import sys

import numpy
import worker

nothing = worker.nothing

if __name__ == "__main__":
    assert numpy.__version__
    worker.main(*sys.argv[1:])
