"""`python -m weft`: run a program with weft's faces in place. See `weft._launch`."""

import sys

from weft import _launch

if __name__ == "__main__":
    _launch.main(sys.argv[1:])
