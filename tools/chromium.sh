#!/usr/bin/env bash
# Unpacks Debian's headless Chromium and a font into DIR, installing nothing into the system, and prints the path of the browser:
#
#   browser=$(bash tools/chromium.sh DIR)
#
# Needs apt and a network for the first time; some 300 MB. A Chromium that is installed is not used: pages are checked with
# the same browser and font wherever the check runs.
set -euo pipefail

fail() { echo "chromium.sh: $*" >&2; exit 1; }
[ $# = 1 ] || fail "usage: chromium.sh DIR"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
wanted=(chromium-headless-shell fonts-inter fonts-dejavu-core)

if [ ! -e "$dir/.complete" ]; then
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "needs apt and dpkg, which Debian has; or run the check with --browser PATH"
    rm -rf "$dir"/{packages,lists,root,font-cache}
    mkdir -p "$dir/packages/partial" "$dir/lists/partial" "$dir/unpacked"
    options=(-qq -o Dir::Cache="$dir/packages" -o APT::Sandbox::User=root)
    # The system's lists of packages, or if they are old or missing some of our own.
    missing() { apt-get "${options[@]}" -s install --no-install-recommends "${wanted[@]}" | awk '$1 == "Inst" { print $2 }'; }
    get() { (cd "$dir/packages" && missing > names && cat names present | sort -u | xargs apt-get "${options[@]}" download >&2); }
    # What is installed already is not among the missing ones: the browser and the fonts are unpacked here all the same.
    printf '%s\n' "${wanted[@]}" chromium-common > "$dir/packages/present"
    get || {
        options+=(-o Dir::State::Lists="$dir/lists")
        apt-get "${options[@]}" update >&2 && get || fail "apt-get cannot get ${wanted[*]}; look at its errors above"
    }
    for package in "$dir"/packages/*.deb; do dpkg -x "$package" "$dir/unpacked"; done
    rm -rf "$dir/packages" "$dir/lists"
    cat > "$dir/fonts.conf" <<END
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
<dir>$dir/unpacked/usr/share/fonts</dir>
<cachedir>$dir/font-cache</cachedir>
<alias binding="strong"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>
<alias binding="strong"><family>sans-serif</family><prefer><family>Inter</family></prefer></alias>
<alias binding="strong"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
END
    cat > "$dir/browser" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$dir/unpacked/usr/lib/$(uname -m)-linux-gnu:$dir/unpacked/usr/lib/$(uname -m)-linux-gnu/pulseaudio"
export FONTCONFIG_FILE="$dir/fonts.conf"
exec "$dir/unpacked/usr/lib/chromium/chromium-headless-shell" "\$@"
END
    chmod +x "$dir/browser"
    "$dir/browser" --version >&2 || fail "the browser in $dir does not start; look at its errors above"
    touch "$dir/.complete"
fi
echo "$dir/browser"
