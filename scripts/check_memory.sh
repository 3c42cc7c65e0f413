#!/usr/bin/env bash
# The tests of the CPU kernels where every access to memory is checked.
#
#   scripts/check_memory.sh            under valgrind, which knows no vectors beyond AVX2: a minute
#   scripts/check_memory.sh address    with AddressSanitizer, and all vectors of this processor: builds everything anew
#   scripts/check_memory.sh thread     with ThreadSanitizer: builds the standard library, too, from rust-src
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
# What only nightly compilers take otherwise.
sanitized() {
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$1" CARGO_TARGET_DIR="target/$1" \
        cargo test "${@:2}" -p guard-core --lib --target "$target" -- kernel::packed
}

case "${1:-valgrind}" in
valgrind)
    for program in valgrind python3; do
        if ! command -v "$program" >/dev/null; then
            echo "skipped: $program is not installed"
            exit 0
        fi
    done
    tests=$(cargo test --workspace --no-run --message-format=json-render-diagnostics |
        python3 -c 'import json, sys
for line in sys.stdin:
    found = json.loads(line)
    if found.get("executable") and found["target"]["name"] == "guard_core" and "lib" in found["target"]["kind"]:
        print(found["executable"])')
    valgrind --quiet --error-exitcode=9 "$tests" kernel::packed
    ;;
address) sanitized address ;;
thread) sanitized thread -Zbuild-std ;;
*)
    echo "valgrind, address or thread, not $1" >&2
    exit 2
    ;;
esac
