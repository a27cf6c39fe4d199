#!/usr/bin/env bash
# The engine crates' tests. WEFT_SOAK_SECONDS makes the random ones long.
set -euo pipefail
cargo test --quiet --locked -p weft-sys -p weft-coroutine
bash ci/aarch64-switch.sh
