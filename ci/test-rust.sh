#!/usr/bin/env bash
# The engine crates' tests. WEFT_SOAK_SECONDS makes the random ones long.
set -euo pipefail
cargo test --quiet --locked -p weft-sys -p weft-coroutine -p weft-wait -p weft-shm -p weft-sync -p weft-process \
    -p weft-pipe -p weft-pool
# The model of the signal has a target directory of its own: the flag would rebuild everything twice.
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" timeout 600 \
    cargo test --quiet --locked -p weft-wait --release --test loom
bash ci/aarch64-switch.sh
