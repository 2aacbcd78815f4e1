# Shared by the tests: each runs within a Debian, in /job, with the program at /opt/cupscale-fast.
set -euo pipefail

# A photograph with the noise of a scanner in its transparency, 96 × 64, and a plain one.
pictures() {
    python3 - <<'P'
import numpy
from PIL import Image

photo = Image.open("/samples/nuthatch.jpg").convert("RGB")
photo.crop((200, 150, 296, 214)).save("plain.png")
pixels = numpy.array(photo.crop((200, 150, 296, 214)))
alpha = numpy.random.default_rng(0).integers(0, 256, pixels.shape[:2], dtype=numpy.uint8)
Image.fromarray(numpy.dstack([pixels, alpha])).save("alpha.png")
P
}

# A screen with a window manager.
screen() {
    Xvfb :77 -screen 0 1280x900x24 >/dev/null 2>&1 &
    export DISPLAY=:77 GDK_BACKEND=x11 NO_AT_BRIDGE=1
    for _ in $(seq 50); do
        sleep 0.2
        xdpyinfo >/dev/null 2>&1 && break
    done
    openbox >/dev/null 2>&1 &
    sleep 1
}

# The number of a window whose title matches, as soon as it is there.
window() {
    for _ in $(seq 240); do
        sleep 0.5
        found=$(xdotool search --onlyvisible --name "$1" 2>/dev/null | tail -n 1) || true
        [ -n "$found" ] && echo "$found" && return
    done
    echo "no window $1" >&2
    return 1
}

# Waits for a file.
appears() {
    for _ in $(seq 1500); do
        [ -e "$1" ] && return
        sleep 0.2
    done
    echo "$1 does not appear" >&2
    return 1
}

fail() {
    echo "$*" >&2
    exit 1
}

# No process of the program, and none of its files, are left; its own folder for such files stays, empty.
nothing_left() {
    for _ in $(seq 50); do
        running=$(pgrep -ax cupscale-fast || true)
        files=$(find /tmp -mindepth 1 -path '/tmp/cupscale-*' ! -path "/tmp/cupscale-$(id -u)")
        [ -z "$running$files" ] && return
        sleep 0.2
    done
    fail "left: $running $files"
}
