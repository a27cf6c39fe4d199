#!/usr/bin/env bash
# The engine crates' tests. WEFT_SOAK_SECONDS makes the random ones long.
set -euo pipefail
cargo test --quiet --locked -p weft-sys -p weft-coroutine -p weft-wait -p weft-shm -p weft-sync -p weft-process \
    -p weft-pipe -p weft-pool -p weft-manager -p weft-map -p weft-reactor -p weft-hub
# The models have a target directory of their own: the flag would rebuild everything twice.
for crate in weft-wait weft-manager; do
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" timeout 600 \
        cargo test --quiet --locked -p "$crate" --release --test loom
done
bash ci/aarch64-switch.sh
