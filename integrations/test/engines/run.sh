#!/usr/bin/env bash
# Tests of what runs shares of a folder on many machines, with the real engines where they can be had.
#
#     integrations/test/engines/run.sh target/release/cupscale-fast                    # all of them
#     integrations/test/engines/run.sh target/release/cupscale-fast slurm parallel     # some of them
#
# Needs Python alone. Slurm, GNU parallel and bubblewrap come from Debian's packages, validators from PyPI, once, into folders in
# $CUPSCALE_CI_CACHE (default ~/.cache/cupscale-ci); nothing is installed into the system. What cannot be had is SKIPPED and
# said so. Every process that a test starts ends with it.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
all=(slurm kubernetes_job parallel containers)
[ $# -ge 1 ] || { sed -n '2,9p' "$0"; exit 2; }
program=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- "${all[@]}"

passed=0 failed=0 skipped=0
for name; do
    echo "-- $name"
    # Far more than it takes; SIGTERM lets a test end what it started.
    if said=$(timeout --kill-after=60 900 python3 "$here/$name.py" "$program" 2> >(tail -n 200 >&2) | tee >(cat >&2)); then
        case $said in
        *SKIPPED:*) skipped=$((skipped + 1)) ;;
        *) passed=$((passed + 1)) ;;
        esac
    else
        failed=$((failed + 1))
        echo "$name: FAILED"
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
