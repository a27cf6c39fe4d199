#!/bin/sh
# Runs the AArch64 context switch in an emulator: the assembler text is taken out of
# crates/coroutine/src/arch/aarch64.rs as it stands, assembled, and driven by a C program.
# Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user (Debian's names); no Rust target.
set -eu

cd "$(dirname "$0")/.."
source=crates/coroutine/src/arch/aarch64.rs
tests=crates/coroutine/tests/aarch64

for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "skipped: $tool is not installed (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"
        exit 0
    fi
done

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# Every string in a naked_asm!( ... ) block, under the name of its function.
awk '
    /extern "C" fn [a-z_]+\(/ { name = $0; sub(/.*extern "C" fn /, "", name); sub(/\(.*/, "", name) }
    /naked_asm!\(/ { inside = 1; printf ".text\n.p2align 2\n.global weft_%s\n.type weft_%s, %%function\nweft_%s:\n", name, name, name; next }
    inside && /^    \)/ { inside = 0; next }
    inside { line = $0; sub(/^ *"/, "", line); sub(/",? *$/, "", line); print line }
' "$source" >"$build/switch.s"
for name in switch switch_via trampoline; do
    if ! grep -q "^weft_$name:" "$build/switch.s"; then
        echo "failed: no naked_asm! block of $name was found in $source; mend the extraction in $0" >&2
        exit 1
    fi
done
echo '.section .note.GNU-stack,"",%progbits' >>"$build/switch.s"

aarch64-linux-gnu-gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static \
    "$tests/switch.c" "$tests/probe.s" "$build/switch.s" -o "$build/switch"
qemu-aarch64 "$build/switch"
