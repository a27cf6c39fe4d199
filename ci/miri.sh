#!/usr/bin/env bash
# The engine's unsafe code over shared memory under Miri, the interpreter that finds undefined behaviour. What it can
# check and what not is in docs/design/queues.md. MIRI_SEEDS (default 4): in so many orders the threads of a test run.
set -euo pipefail
if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "miri: skipped: no nightly toolchain with miri" \
        "(rustup toolchain install nightly --component miri --component rust-src)"
    exit 0
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/miri"
# Isolated from the machine, with a clock of its own, so that a run can be repeated. rustix gives the futex a number for a
# pointer, which is why provenance is not strict. Two processors: one would never spin.
flags="-Zmiri-permissive-provenance -Zmiri-symbolic-alignment-check -Zmiri-isolation-error=hide -Zmiri-num-cpus=2"
run() { # FLAGS CARGO-ARGUMENTS...
    MIRIFLAGS="$flags $1" timeout 3600 cargo +nightly miri test --locked "${@:2}"
}
seeds="-Zmiri-many-seeds=0..${MIRI_SEEDS:-4}"

# Under both models of who may use memory through which reference.
for model in "" "-Zmiri-tree-borrows"; do
    # Threads, in several orders each.
    run "$model $seeds" -p weft-wait --test threads -- --test-threads=1
    run "$model $seeds" -p weft-shm --lib -- --test-threads=1 threads
    run "$model $seeds" -p weft-manager --test threads -- --test-threads=1 callers_get
    # One thread after the other, once.
    run "$model" -p weft-manager --lib -- --test-threads=1
    run "$model" -p weft-manager --test threads -- --test-threads=1 a_c
    run "$model" -p weft-map --test model -- --test-threads=1
    run "$model" -p weft-shm --lib -- --test-threads=1 --skip tests::hostile --skip threads
    run "$model" -p weft-shm --test queue -- --test-threads=1
    # Overwriting atomics in every manner ends in an error inside of Miri's emulation of weak memory. It is one thread.
    run "$model -Zmiri-disable-weak-memory-emulation" -p weft-shm --lib -- --test-threads=1 tests::hostile
done
