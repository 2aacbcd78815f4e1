#!/usr/bin/env bash
# Makes `cargo check` and `cargo clippy` work for aarch64-apple-darwin on Linux, with the toolchain
# that is there, and prints the variables for it:
#
#   vars=$(bash tools/darwin-env.sh DIR) && eval "$vars"
#   cargo check --target aarch64-apple-darwin --features metal
#
# Nothing can be linked: what build scripts would compile for a Mac is left empty.
set -euo pipefail

target=aarch64-apple-darwin
fail() { echo "darwin-env.sh: $*" >&2; exit 1; }
[ $# = 1 ] || fail "usage: darwin-env.sh DIR"
[ "$(uname -s)" = Linux ] || fail "only for Linux; a Mac needs nothing of it"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
version=$(rustc --version | cut -d' ' -f2)
sysroot=$(rustc --print sysroot)

# The standard library for a Mac: the toolchain's own, if `rustup target add` has put it there. If not, it
# is checked here from Debian's package of its source, if there is one of exactly this compiler.
has_std() { compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null; }

# Unpacks Debian's rust-src of this version into $dir/source, with a configuration of apt of its own.
debian_source() {
    local mirror suite found apt=$dir/apt
    command -v apt-get >/dev/null || return 1
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list* | head -n1 | tr -d ' ') || return 1
    local options=(-qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
    for suite in trixie-backports testing unstable; do
        rm -rf "$apt"
        mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
            > "$apt/sources.list"
        apt-get "${options[@]}" update >&2 || continue
        found=$(apt-cache "${options[@]}" madison rust-src | awk '{print $3}' | grep "^$version+" | head -n1) \
            || continue
        (cd "$apt" && apt-get "${options[@]}" download "rust-src=$found" >&2) || return 1
        rm -rf "$dir/source"
        dpkg -x "$apt"/rust-src_*.deb "$dir/source" && rm -rf "$apt" && return 0
    done
    return 1
}

# A sysroot in $dir/sysroot with the libraries of this machine and, checked from source, of a Mac.
build_std() {
    local build=$dir/build host
    host=$(rustc -vV | sed -n 's/^host: //p')
    rm -rf "$dir/sysroot" "$build"
    mkdir -p "$build/src" "$dir/sysroot/lib/rustlib/$target/lib"
    printf '[package]\nname = "empty"\nedition = "2024"\n[workspace]\n' > "$build/Cargo.toml"
    touch "$build/src/lib.rs"
    # A stable cargo builds a standard library only if it takes itself for an unstable one.
    (cd "$build" && env -u RUSTFLAGS -u CARGO_BUILD_TARGET RUSTC_BOOTSTRAP=1 \
        __CARGO_TESTS_ONLY_SRC_ROOT="$dir/source/usr/src/rustc-$version/library" \
        CARGO_TARGET_DIR="$build/target" CARGO_PROFILE_DEV_DEBUG=0 \
        cargo check --quiet -Zbuild-std=std,panic_abort,proc_macro,test --target "$target" >&2)
    cp "$build/target/$target"/debug/deps/*.rlib "$dir/sysroot/lib/rustlib/$target/lib/"
    ln -s "$sysroot/lib/rustlib/$host" "$dir/sysroot/lib/rustlib/"
    rm -rf "$build" "$dir/source"
}

flags=
if ! has_std; then
    if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$sysroot $(rustc --version)" ]; then
        rm -f "$dir/stamp"
        debian_source || fail "Debian has no source of rustc $version's standard library for this machine;" \
            "with rustup, \`rustup target add $target\` brings it"
        build_std
        echo "$sysroot $(rustc --version)" > "$dir/stamp"
    fi
    flags="--sysroot $dir/sysroot"
fi

# Stand-ins for Apple's compiler, archiver and SDK, for crates that build C.
stub=$dir/stub
mkdir -p "$stub/sdk"
cat > "$stub/darwin-cc" <<'END'
#!/usr/bin/env bash
# Preprocesses with gcc, names itself as clang, and writes an empty file for anything else.
out="" mode=write rest=()
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift ;;
        -E) mode=preprocess ;;
        -v | --version | -dumpversion) mode=version ;;
        -arch | -isysroot | -framework | -target) shift ;;
        -c | -mmacosx-version-min=* | --target=*) ;;
        *) rest+=("$1") ;;
    esac
    shift
done
case $mode in
    preprocess) exec gcc -E "${rest[@]}" ;;
    version) echo "clang version 16.0.0" ;;
    write) [ -z "$out" ] || : > "$out" ;;
esac
END
cat > "$stub/darwin-ar" <<'END'
#!/usr/bin/env bash
# Writes an empty archive.
for argument in "$@"; do
    case $argument in *.a) printf '!<arch>\n' > "$argument"; exit ;; esac
done
END
printf '#!/usr/bin/env bash\necho "%s"\n' "$stub/sdk" > "$stub/xcrun"
chmod +x "$stub/darwin-cc" "$stub/darwin-ar" "$stub/xcrun"

cat <<END
export CARGO_TARGET_AARCH64_APPLE_DARWIN_RUSTFLAGS="$flags" SDKROOT="$stub/sdk"
export CC_aarch64_apple_darwin="$stub/darwin-cc" CXX_aarch64_apple_darwin="$stub/darwin-cc"
export AR_aarch64_apple_darwin="$stub/darwin-ar" MISTRALRS_METAL_PRECOMPILE=0
export PATH="$stub:\$PATH"
END
