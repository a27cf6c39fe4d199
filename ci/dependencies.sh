#!/usr/bin/env bash
# The direction of dependencies: no engine crate knows Python, and arrows point down only.
set -euo pipefail

tree() { cargo tree --locked --edges normal --prefix none --package "$1" | awk '{ print $1 }' | sort -u; }

fail=0
for crate in $(cargo metadata --locked --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(*(p["name"] for p in json.load(sys.stdin)["packages"]))'); do
    [ "$crate" = weft-python ] && continue
    if tree "$crate" | grep -qE '^(pyo3|pyo3-ffi|cpython|weft-python)$'; then
        echo "$crate depends on Python" >&2
        fail=1
    fi
done
if tree weft-sys | grep -E '^weft-' | grep -qv '^weft-sys$'; then
    echo "weft-sys depends on a crate above it" >&2
    fail=1
fi
# The coroutine wing knows nothing of the process wing, and the reactor nothing of coroutines.
if tree weft-hub | grep -qE '^weft-(shm|sync|process|pipe|pool|manager|map)$'; then
    echo "weft-hub depends on the process side" >&2
    fail=1
fi
if tree weft-reactor | grep -E '^weft-' | grep -qvE '^weft-(reactor|sys)$'; then
    echo "weft-reactor depends on more than weft-sys" >&2
    fail=1
fi
exit $fail
