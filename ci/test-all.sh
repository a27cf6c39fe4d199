#!/usr/bin/env bash
# make test, and the whole of gevent's suite and of CPython's for multiprocessing and concurrent.futures, for every
# supported interpreter on this machine.
set -euo pipefail
mkdir -p .venvs
for python in $(ci/interpreters.sh); do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "== CPython $version"
    make test PYTHON="$python" VENV=".venvs/$version"
    ".venvs/$version/bin/python" tests/peers/run.py gevent --retries 1
    ".venvs/$version/bin/python" tests/peers/run.py multiprocessing --retries 1
    ".venvs/$version/bin/python" tests/peers/run.py concurrent_futures --retries 1
done
