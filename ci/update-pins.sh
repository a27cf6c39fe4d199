#!/usr/bin/env bash
# Writes requirements/constraints.txt from what the extras need today: ci/update-pins.sh PYTHON
set -euo pipefail
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
: > requirements/constraints.txt
ci/tools.sh "$1" "$venv/env"
{
    echo '# Every package that a development environment may contain, pinned. `make update-pins` writes it again.'
    "$venv/env/bin/python" -m pip freeze --all --exclude pip --exclude weft
} > requirements/constraints.txt
