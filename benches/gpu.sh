#!/usr/bin/env bash
# What a GPU does with SDXL at full size, within twelve minutes of a bare machine: a driver, cuBLAS and cuRAND are enough.
# There is no network, no model and no Rust to ask for; the programs are built elsewhere and brought along.
#
#     benches/gpu.sh --pack DIR [OPTIONS OF CARGO]     # elsewhere: builds the programs into DIR, with this script
#     DIR/gpu.sh                                       # there: all sections
#     DIR/gpu.sh doctor calls operations               # some of them
#     benches/gpu.sh --pack DIR --features cli,embedded-model && DIR/gpu.sh --device cpu --tiny    # tries the script itself
#
# --device D     cuda:0 by default
# --out DIR      results, gpu-results by default: SECTION.txt, and SECTION.json with a line of JSON for each result
# --work DIR     room for the model (7 GB) and pictures, a folder in TMPDIR by default
# --minutes N    for all sections together, 12 by default
# --tiny         small shapes and a small model
# PYTHON         the Python with PyTorch to compare with, python3 by default; without PyTorch there it is left out
#
# Sections come in the order of their worth, each with a limit in seconds, and write what they have at once: a run that is
# cut off has told most. None ends the others by failing.
set -uo pipefail

sections=(doctor ceiling model calls jobs parity bytes operations vae captions job8192 streams composed)
declare -A limits=([doctor]=60 [ceiling]=45 [model]=90 [calls]=150 [jobs]=150 [parity]=45 [bytes]=60 [operations]=120
    [vae]=60 [captions]=100 [job8192]=120 [streams]=45 [composed]=60)

here=$(cd "$(dirname "$0")" && pwd)
device=cuda:0 out=gpu-results work="" minutes=12 tiny=0 chosen=()

# The programs, built with CUDA and linked so that they start without NVIDIA's libraries.
pack() {
    local target=$1
    shift
    cd "$here/.."
    local features=(--features cuda) link=()
    [ $# -gt 0 ] && features=("$@")
    if [[ " ${features[*]} " == *cuda* ]] && [ "$(uname -m)" = x86_64 ]; then
        local vars cache=${CUPSCALE_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cupscale-ci}
        vars=$(bash tools/cuda-env.sh "$cache/cuda-toolkit") || exit
        eval "$vars"
        python3 tools/lazylibs.py "$CUDA_HOME" "$cache/lazylibs" || exit
        link=(-- -L native="$cache/lazylibs")
    fi
    local profile=${PROFILE:-release} program
    mkdir -p "$target"
    for program in bin:cupscale-fast bench:ops bench:parts bench:llava bench:random_model; do
        local kind=${program%%:*} name=${program#*:} built
        built=$(cargo rustc --locked --profile "$profile" "${features[@]}" "--$kind" "$name" --message-format json \
            ${link[@]+"${link[@]}"} | sed -n "s/.*\"name\":\"$name\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -1)
        [ -n "$built" ] || { echo "$name was not built" >&2; exit 1; }
        cp "$built" "$target/$name"
    done
    cp "$here"/{gpu.sh,gpu_torch.py,torch_operations.py,turns.py} "$target"
    echo "$target: $(du -sh "$target" | cut -f1)"
}

while [ $# -gt 0 ]; do
    case $1 in
    --pack) pack "${@:2}"; exit ;;
    --device) device=$2; shift ;;
    --out) out=$2; shift ;;
    --work) work=$2; shift ;;
    --minutes) minutes=$2; shift ;;
    --tiny) tiny=1 ;;
    *)
        [[ -v limits[$1] ]] || { echo "gpu.sh: no section is called $1: ${sections[*]}" >&2; exit 2; }
        chosen+=("$1")
        ;;
    esac
    shift
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${sections[@]}")
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -n "$work" ] || work=${TMPDIR:-/tmp}/cupscale-gpu
mkdir -p "$work"
work=$(cd "$work" && pwd)
cd "$here"
model=$work/sdxl
python=${PYTHON:-python3}
if [ "$tiny" = 1 ]; then
    model=$work/sdxl-tiny small=(--tiny) shapes=(1x16x16 2x16x16) vae_shapes=(1x16x16) sides=(32 64) last=96
    batch=2 captions=(2 4) filter=(add) input=40
else
    small=() shapes=(1x128x128 8x128x128) vae_shapes=(1x64x64 1x128x128) sides=(512 1024) last=2048
    batch=8 captions=(49 60 f16) filter=() input=96
fi

# NVIDIA's libraries, where the loader does not look by itself.
for folder in "$here/lib" /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib \
    $("$python" -c 'import site; print(*site.getsitepackages(), site.getusersitepackages())' 2>/dev/null |
        xargs -n 1 | while read -r site; do ls -d "$site"/nvidia/*/lib "$site"/nvidia/*/lib/x86_64 2>/dev/null; done); do
    if [ -d "$folder" ]; then LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder; fi
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
# Weights and captions of a run are its own.
export XDG_CACHE_HOME=$work/cache

started=$SECONDS
left() { echo $((minutes * 60 - (SECONDS - started))); }

# The time of each stage and the peak of the device's memory, from what a job tells with -v.
stages() {
    awk -v name="$1" -v json="$2" '
        function seconds(text) {
            number = text + 0
            if (text ~ /ns$/) return number / 1e9
            if (text ~ /µs$/) return number / 1e6
            if (text ~ /ms$/) return number / 1e3
            return number
        }
        / close time.busy=/ {
            busy = $0; sub(/.*time.busy=/, "", busy); sub(/ .*/, "", busy)
            idle = $0; sub(/.*time.idle=/, "", idle)
            span = $0; sub(/: cupscale::.*/, "", span); sub(/.*[:}]/, "", span)
            if (span == "") span = "all"
            time[span] = seconds(busy) + seconds(idle); order[++count] = span
        }
        /peak memory/ { peak = $0; sub(/.*bytes=/, "", peak); sub(/ .*/, "", peak) }
        END {
            printf "%s:", name; fields = ""
            for (i = 1; i <= count; i++) {
                printf " %s %.2f s", order[i], time[order[i]]
                fields = fields sprintf(",\"%s\":%.4f", order[i], time[order[i]])
            }
            if (peak) printf ", peak %.2f GiB", peak / 2 ^ 30
            print ""
            if (count)
                printf "{\"job\":\"%s\",\"seconds\":{%s},\"peak_bytes\":%s}\n",
                    name, substr(fields, 2), (peak ? peak : "null") >> json
        }'
}

# A job with every prior; further arguments are the program's.
job() {
    local name=$1 input=$2 output=$3
    shift 3
    rm -f "$output"
    ./cupscale-fast "$input" -o "$output" --fresh -v --progress none --captioner none --seed 7 "$@" 2>"$work/log" || {
        grep -v ' INFO ' "$work/log" | tail -3
        return 1
    }
    sed 's/\x1b\[[0-9;]*m//g' "$work/log" | stages "$name" "$json"
}

# A test picture of this side.
picture() {
    [ -e "$work/$1.png" ] || ./random_model --picture "$work/$1.png" "$1"
}

has_torch() {
    case $device in
    cpu) "$python" -c 'import torch' 2>/dev/null ;;
    *) "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null ;;
    esac
}

section_doctor() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader 2>/dev/null ||
        echo "nvidia-smi is not here"
    nproc --all | sed 's/$/ cores/'
    local start=$SECONDS
    ./cupscale-fast doctor --device "$device"
    echo "{\"doctor\":$?,\"seconds\":$((SECONDS - start))}" >>"$json"
}

section_ceiling() { ./ops --device "$device" --ceiling --json "$json"; }

section_model() {
    ./random_model "$model" ${small[@]+"${small[@]}"} && du -sh "$model" | cut -f1
    for side in "${sides[@]}" "$last" "$input"; do picture "$side"; done
}

# The rate of SDXL's calls of 128 × 128 latents, 6.76 TFLOP for a sample, and its share of the ceiling, if that was measured.
rates() {
    [ ! -s "$json" ] || sed 's/[",{}:]/ /g' "$out/ceiling.json" "$json" 2>/dev/null | awk '
        { for (i = 1; i < NF; i++) value[$i] = $(i + 1) }
        / ceiling / { ceiling = value["ceiling"] }
        / shape / && value["shape"] ~ /x128x128$/ {
            rate = 6.76e12 * value["shape"] / value["median_s"]
            printf "%s: %.1f TFLOP/s", value["shape"], rate / 1e12
            if (ceiling) printf ", %.0f %% of the ceiling", 100 * rate / ceiling
            print ""
        }'
}

section_calls() {
    if ! has_torch; then
        echo "no PyTorch here ($python): our own times alone"
    elif "$python" gpu_torch.py unet --device "$device" --model "$model" --json "$json" "${shapes[@]}"; then
        rates
        return
    fi
    ./parts --device "$device" --model "$model" --json "$json" --repetitions 7 --shape "${shapes[@]}" && rates
}

section_jobs() {
    for side in "${sides[@]}"; do
        picture "$side"
        job "$side² to $((4 * side))²" "$work/$side.png" "$work/out-$side.png" \
            --device "$device" --model "$model" --scale 4 --steps 8 --denoise-steps 4 --prompt "a harbour at dusk"
    done
}

section_parity() {
    # The embedded model, every prior on, several regions.
    picture "$input"
    job "embedded model, CPU" "$work/$input.png" "$work/cpu.png" --device cpu --scale 4
    job "embedded model, $device" "$work/$input.png" "$work/gpu.png" --device "$device" --scale 4
    local decibels
    decibels=$(./random_model --compare "$work/cpu.png" "$work/gpu.png") || return
    echo "CPU and $device: $decibels dB (the bar is 45)"
    echo "{\"psnr\":\"$decibels\"}" >>"$json"
}

# Says whether two files are the same.
same() {
    local verdict=equal
    cmp -s "$2" "$3" || verdict=DIFFERENT
    echo "$1: $verdict"
    echo "{\"bytes\":\"$1\",\"verdict\":\"$verdict\"}" >>"$json"
}

section_bytes() {
    picture "$input"
    job "first" "$work/$input.png" "$work/first.png" --device "$device" --scale 4 || return
    job "again" "$work/$input.png" "$work/again.png" --device "$device" --scale 4
    same "run to run" "$work/first.png" "$work/again.png"
    for size in 1 3; do
        job "batch $size" "$work/$input.png" "$work/batch.png" --device "$device" --scale 4 --batch "$size"
        same "batches of $size" "$work/first.png" "$work/batch.png"
    done
}

section_operations() {
    if has_torch; then
        "$python" gpu_torch.py operations --device "$device" --batch "$batch" --json "$json" ${filter[@]+"${filter[@]}"}
    else
        echo "no PyTorch here ($python): our own times alone"
        ./ops --device "$device" --batch "$batch" --json "$json" ${filter[@]+"${filter[@]}"}
    fi
}

section_vae() {
    if has_torch; then
        "$python" gpu_torch.py vae --device "$device" --model "$model" --json "$json" "${vae_shapes[@]}" && return
    fi
    for part in vae encoder; do
        ./parts --device "$device" --model "$model" --part "$part" --json "$json" --repetitions 3 --shape "${vae_shapes[@]}"
    done
}

section_captions() {
    local on=--gpu
    [ "$device" != cpu ] || on=--together
    ./llava "$on" --together --json "$json" "${captions[@]}"
}

section_job8192() {
    picture "$last"
    job "$last² to $((4 * last))²" "$work/$last.png" "$work/out-$last.png" \
        --device "$device" --model "$model" --scale 4 --steps 8 --denoise-steps 4 --prompt "a harbour at dusk"
}

section_streams() {
    # Two streams of one GPU share a job as two GPUs would.
    picture "$input"
    job "one stream" "$work/$input.png" "$work/one.png" --device "$device" --scale 4 || return
    job "two streams" "$work/$input.png" "$work/two.png" --device "$device,$device" --scale 4 || return
    same "two streams of one device" "$work/one.png" "$work/two.png"
}

section_composed() {
    ./parts --device "$device" --model "$model" --kernels composed --json "$json" --repetitions 3 --shape "${shapes[@]}"
}

# What a section starts finds these.
export -f stages rates job picture has_torch same
for name in "${sections[@]}"; do export -f "section_$name"; done
for section in "${chosen[@]}"; do
    limit=${limits[$section]}
    [ "$(left)" -ge "$limit" ] || limit=$(left)
    text=$out/$section.txt json=$out/$section.json
    rm -f "$text" "$json"
    if [ "$limit" -lt 5 ]; then
        echo "== $section: no time left" | tee "$text"
        continue
    fi
    echo "== $section (after $((SECONDS - started)) s)" | tee "$text"
    # Arrays do not go through the environment: the section is told of them here.
    state=$(declare -p here out device work model python small shapes vae_shapes sides last batch captions filter input json)
    timeout --kill-after=5 "$limit" bash -c "$state; cd \"\$here\"; section_$section" 2>&1 | tee -a "$text"
    status=${PIPESTATUS[0]}
    case $status in
    0) ;;
    124 | 137) echo "cut off after $limit s" | tee -a "$text" ;;
    *) echo "failed ($status)" | tee -a "$text" ;;
    esac
done
echo "== $((SECONDS - started)) s; results are in $out"
