# The compiler of Debian and the sources of its standard library, for machines where rustup cannot download.

debian_rust=$target/debian_rust

# Unpacks the compiler and the sources below the build folder, without installing them.
unpack_debian_rust() {
    [ -x "$debian_rust/usr/bin/rustc" ] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    as_root apt-get update -qq || return 1
    local packages std library llvm package
    std=$(depends_of rustc-web libstd-rust-web-dev)
    library=$(depends_of "$std" 'libstd-rust-web-[0-9.]*')
    llvm=$(depends_of "$library" 'libllvm[0-9]*')
    [ -n "$llvm" ] || return 1
    echo "unpacking Debian's rustc-web and rust-web-src: a compiler with the sources of its standard library"
    packages=$(mktemp -d)
    (cd "$packages" && apt-get download -qq rustc-web rust-web-src "$std" "$library" "$llvm" 2>/dev/null) || return 1
    for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$debian_rust" || return 1; done
    rm -r "$packages"
}

# Prints the dependency of a package whose name matches a pattern.
depends_of() { apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1; }

# Runs a command, such as cargo, with the compiler that was unpacked. It accepts the options of a nightly toolchain.
with_debian_rust() {
    env LD_LIBRARY_PATH="$(echo "$debian_rust"/usr/lib/*-linux-gnu)" RUSTC="$debian_rust/usr/bin/rustc" \
        RUSTC_BOOTSTRAP=1 "$@"
}
