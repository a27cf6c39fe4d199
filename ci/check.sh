#!/usr/bin/env bash
# Everything that can be said about the code without running it: ci/check.sh VENV
set -euo pipefail
venv=$(realpath "$1")
step() { echo "== $*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --quiet --locked --workspace --all-targets -- --deny warnings
RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" step cargo doc --quiet --locked --no-deps --workspace --document-private-items
step bash ci/dependencies.sh
step "$venv/bin/ruff" format --check python tests benches demo examples
step "$venv/bin/ruff" check python tests benches demo examples
step "$venv/bin/mypy"
step "$venv/bin/python" -m mypy.stubtest weft --concise --allowlist ci/stubtest-allowlist.txt
step "$venv/bin/python" benches/compare/readme.py --check
