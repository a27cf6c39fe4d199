#!/usr/bin/env bash
# Prints the path of every supported CPython on this machine that has headers, oldest version first.
# WEFT_PYTHONS, a list of paths, takes the place of the search. With --default, prints one: that which
# python3 means if it will do, else the newest.
set -euo pipefail

usable() {
    "$1" - 2>/dev/null <<'PY'
import pathlib, sys, sysconfig
supported = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 13)
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
headers = pathlib.Path(sysconfig.get_path("include"), "Python.h").exists()
if supported and not free_threaded and headers:
    print("%d.%d %s" % (*sys.version_info[:2], sys.executable))
PY
}

candidates() {
    if [ -n "${WEFT_PYTHONS:-}" ]; then
        printf '%s\n' $WEFT_PYTHONS
        return
    fi
    for version in 3.11 3.12 3.13; do
        type -ap "python$version" || true
        for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/"python$version"; do
            [ -x "$path" ] && echo "$path"
        done
    done
    type -ap python3 || true
}

found=$(candidates | while read -r path; do usable "$path" || true; done | sort -t. -k2n -u -k1,1)
if [ -z "$found" ]; then
    echo "no CPython 3.11, 3.12 or 3.13 with headers found: install one (a package such as python3-dev)," >&2
    echo "or name it: make test PYTHON=/path/to/python" >&2
    exit 1
fi
if [ "${1:-}" = --default ]; then
    default=$(usable "$(command -v python3 || echo false)" || true)
    echo "${default:-$(echo "$found" | tail -n 1)}" | awk '{ print $2 }'
    exit
fi
# One for each version: the first found.
echo "$found" | awk '!seen[$1]++ { print $2 }'
