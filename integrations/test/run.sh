#!/bin/bash
# Tests of the integrations with the real programs, without a screen.
#
#     integrations/test/run.sh target/release/cupscale-fast            # all of them
#     integrations/test/run.sh target/release/cupscale-fast gimp krita # some of them
#
# Each runs within a Debian of its own, which is made once, below $CUPSCALE_EDITORS_CACHE (default ~/.cache/cupscale-editors;
# some 4 GB). Needs mmdebstrap and bubblewrap, a network for the first time, and a program that was built for this
# Debian's libraries or older ones. Nothing of the user's own is read or written: the home folder is a new one.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
clone=$(realpath "$here/../..")
cache=${CUPSCALE_EDITORS_CACHE:-$HOME/.cache/cupscale-editors}
all=(gimp gimp2 darktable krita imagemagick imagemagick6 ffmpeg file-managers)

suite() {
    case $1 in
    gimp2 | imagemagick6) echo bookworm ;;
    *) echo trixie ;;
    esac
}

common=xvfb,xauth,openbox,xdotool,dbus,dbus-x11,python3,python3-pil,python3-numpy,imagemagick,fonts-dejavu-core,shared-mime-info,adwaita-icon-theme,x11-utils,procps
trixie=$common,gimp,gir1.2-gtk-3.0,python3-gi,python3-gi-cairo,darktable,krita,python3-pyqt5,ffmpeg,zenity,thunar,nautilus,libglib2.0-bin,desktop-file-utils
bookworm=$common,gimp

# The folder with a Debian, made if it is not there.
debian() {
    local name=$1 root=$cache/$1
    if [ ! -e "$root/.complete" ]; then
        mkdir -p "$cache"
        rm -rf --one-file-system "$root"
        # The last are the places where the tests find what is theirs.
        mmdebstrap --variant=apt --aptopt='APT::Install-Recommends "false"' --include="${!name}" \
            --customize-hook='mkdir "$1/test" "$1/integrations" "$1/samples" "$1/job"; touch "$1/opt/cupscale-fast"' \
            "$name" "$root" >&2
        touch "$root/.complete"
    fi
    echo "$root"
}

[ $# -ge 1 ] || { sed -n '2,11p' "$0"; exit 2; }
program=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- "${all[@]}"

passed=0 failed=0
for name; do
    root=$(debian "$(suite "$name")")
    # What a test leaves stays there to be looked at.
    work=$cache/jobs/$name
    rm -rf "$work"
    mkdir -p "$work/home"
    # A process space of its own: what a test starts ends with it.
    if bwrap --bind "$root" / --dev /dev --proc /proc --tmpfs /tmp --bind "$work" /job \
        --ro-bind "$clone/integrations/test" /test --ro-bind "$clone/integrations" /integrations --ro-bind "$clone/samples" /samples --ro-bind "$program" /opt/cupscale-fast \
        --clearenv --setenv HOME /job/home --setenv PATH /opt:/usr/bin:/bin --setenv LANG C.UTF-8 --setenv NAME "$name" \
        --unshare-pid --unshare-net --die-with-parent --chdir /job /bin/bash "/test/${name%6}.sh" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "$name: $(tail -n 1 "$work/log")"
    else
        failed=$((failed + 1))
        echo "$name: FAILED; $work/log ends with:" && tail -n 20 "$work/log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
