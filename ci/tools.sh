#!/usr/bin/env bash
# Makes the environment and installs the pinned tools: ci/tools.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2

command -v cargo >/dev/null || { echo "no Rust toolchain: install Rust 1.88 or newer" >&2; exit 1; }
command -v cc >/dev/null || { echo "no C compiler: install one (a package such as gcc)" >&2; exit 1; }

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    { echo "$python cannot be run: PYTHON is to be the path of a CPython 3.11, 3.12 or 3.13" >&2; exit 1; }
case $version in
3.11 | 3.12 | 3.13) ;;
*) echo "$python is Python $version: CPython 3.11, 3.12 or 3.13 is needed" >&2; exit 1 ;;
esac

if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv"
fi
# The extras name what is installed; the constraints pin it, and what it needs in turn.
requirements=$("$venv/bin/python" - <<'PY'
import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
names = {name for extra in extras.values() for name in extra if not name.startswith("weft[")}
print("\n".join(sorted(names)))
PY
)
echo "installing the tools into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint requirements/constraints.txt $requirements
