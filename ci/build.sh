#!/usr/bin/env bash
# Builds weft in release mode and installs it: ci/build.sh VENV
set -euo pipefail
venv=$(realpath "$1")
echo "building weft for $("$venv/bin/python" --version)"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$venv/bin/maturin" build --quiet --release --locked --interpreter "$venv/bin/python" --out "$wheels"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl
