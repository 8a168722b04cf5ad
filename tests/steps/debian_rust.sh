# Compilers of Debian, for machines where rustup cannot download. They are not installed, but unpacked in the build
# folder.

# Unpacks a compiler of Debian, with the sources of its standard library, and sets `debian_rust` to its folder.
#   unpack_debian_rust [VERSION]
unpack_debian_rust() {
    local name version
    debian_rust=$target/debian_rust${1:+-$1}
    [ -x "$debian_rust/usr/bin/rustc" ] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    list_packages
    # `rustc-web` is a newer version, which browsers need.
    for name in "-web" ""; do
        version=$(apt-cache madison "rustc$name" | awk '{print $3}' | grep "^${1:+$1\.}" | head -n 1)
        [ -z "$version" ] || break
    done
    [ -n "$version" ] || return 1
    local std library llvm packages package
    std=libstd-rust$name-dev=$version
    library=$(depends_of "$std" "libstd-rust$name-[0-9.]*")
    llvm=$(depends_of "$library=$version" 'libllvm[0-9]*')
    [ -n "$llvm" ] || return 1
    echo "unpacking Debian's rustc$name $version"
    packages=$(mktemp -d)
    # The sources depend on no architecture.
    (cd "$packages" && apt-get download -qq "rustc$name=$version" "$std" "$library=$version" "$llvm" \
        "rust$name-src=$version" 2>/dev/null) || return 1
    for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$debian_rust" || return 1; done
    rm -r "$packages"
}

# Prints the dependency of a package whose name matches a pattern.
depends_of() {
    apt-cache show "$1" 2>/dev/null | sed -n 's/^Depends: //p' | head -n 1 | tr ',' '\n' |
        sed 's/^ *//; s/ .*//' | grep -x -m 1 "$2" || true
}

# Runs a command, such as cargo, with the compiler that was unpacked. It accepts the options of a nightly toolchain.
with_debian_rust() {
    env LD_LIBRARY_PATH="$(echo "$debian_rust"/usr/lib/*-linux-gnu)" RUSTC="$debian_rust/usr/bin/rustc" \
        RUSTC_BOOTSTRAP=1 "$@"
}
