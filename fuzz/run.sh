#!/bin/bash
# Builds the fuzz targets on stable Rust without cargo-fuzz, and runs each for some minutes:
#
#     fuzz/run.sh MINUTES [TARGET…]
#
# FUZZ_JOBS (1): targets at a time. CARGO_TARGET_DIR (fuzz/target): builds, and what was found worth keeping
# (corpus/TARGET below it), so that the next run begins there. Inputs that fail are in fuzz/artifacts/TARGET; one more
# look: $CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/TARGET FILE.
set -euo pipefail

minutes=${1:?"fuzz/run.sh MINUTES [TARGET…]"}
shift
here=$(cd "$(dirname "$0")" && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$here/target}
triple=$(rustc -vV | sed -n 's/^host: //p')
all=$(cd "$here/fuzz_targets" && ls -- *.rs | sed 's/\.rs$//')
targets=("${@:-}")
[ -n "${targets[0]}" ] || mapfile -t targets <<<"$all"

# What cargo-fuzz sets; with a --target they are not for build scripts.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
-Cllvm-args=-simplifycfg-branch-fold-threshold=0"
(cd "$here" && ${CARGO:-cargo} build --locked --release --target "$triple" "${targets[@]/#/--bin=}")

# No leaks: a table that is kept for good is none, and the check stops the process now and then.
export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16:malloc_context_size=12
export RAYON_NUM_THREADS=1

dictionary() {
    case $1 in
        *_config) echo config ;;
        clip_tokenizer | llava_tokenizer | qwen_tokenizer | t5_tokenizer) echo tokenizer ;;
        *) echo "$1" ;;
    esac
}

fuzz() {
    local target=$1 kept=$CARGO_TARGET_DIR/corpus/$1 artifacts=$here/artifacts/$1
    local log=$CARGO_TARGET_DIR/logs/$1 words end left runs=0 coverage=0 before
    mkdir -p "$kept" "$artifacts" "$(dirname "$log")"
    words=$here/dictionaries/$(dictionary "$target").dict
    [ -f "$words" ] && words=-dict=$words || words=-verbosity=1
    before=$(find "$artifacts" -type f | wc -l)
    : >"$log"
    end=$(awk "BEGIN { print int($(date +%s) + 60 * $minutes) }")
    # A finding ends the process: it goes on with what was kept until the time is over, or nothing new comes.
    for _ in 1 2 3 4 5 6 7 8; do
        left=$((end - $(date +%s)))
        [ $left -gt 0 ] || break
        "$CARGO_TARGET_DIR/$triple/release/$target" "$kept" "$here/corpus/$target" "$words" \
            -artifact_prefix="$artifacts/" -max_len=4096 -rss_limit_mb=512 -malloc_limit_mb=256 -timeout=10 \
            -max_total_time=$left -print_final_stats=1 >"$log.now" 2>&1 && status=0 || status=$?
        cat "$log.now" >>"$log"
        runs=$((runs + $(sed -n 's/^stat::number_of_executed_units: *//p' "$log.now" | tail -1 | grep . || echo 0)))
        coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log.now" | tail -1 | grep . || echo "$coverage")
        [ $status -ne 0 ] || break
    done
    rm -f "$log.now"
    printf '%-20s %12s %10s %9s\n' "$target" "$runs" "$coverage" $(($(find "$artifacts" -type f | wc -l) - before))
}

printf '%-20s %12s %10s %9s\n' target runs coverage findings
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "${FUZZ_JOBS:-1}" ]; do wait -n; done
    fuzz "$target" &
done
wait
