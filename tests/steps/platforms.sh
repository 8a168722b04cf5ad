# The library on other platforms than this one.

# `wasm32-unknown-unknown` is checked apart, because tokio and with it Redis do not work there.
platform_targets=(
    x86_64-pc-windows-msvc x86_64-pc-windows-gnu aarch64-apple-darwin aarch64-unknown-linux-gnu i686-unknown-linux-gnu
)
wasm=wasm32-unknown-unknown
wasm_features=snapshot,metrics,tracing,serde,testing

# Builds the library for each target with default features, and checks it with all features.
platforms() {
    local name archiver=$target/platforms/archiver
    export CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$target/platforms
    # The C part of `ring`, a dependency of the feature `redis-tls`, is not compiled: the compilers of the targets do
    # nothing, and the archivers create empty libraries.
    mkdir -p "$CARGO_TARGET_DIR"
    printf '#!/bin/sh\nfor it; do case $it in -out:* | *.a) : >"${it#-out:}" ;; esac; done\n' >"$archiver"
    chmod +x "$archiver"
    for name in "${platform_targets[@]//-/_}"; do
        export "CC_$name=true" "AR_$name=$archiver"
    done
    if timeout 120 rustup target add "${platform_targets[@]}" $wasm >/dev/null 2>&1; then
        echo "standard libraries: from rustup"
        need x86_64-w64-mingw32-dlltool "creates import libraries for Windows" binutils-mingw-w64-x86-64
        cargo_for() { cargo "$1" --lib "${@:2}"; }
    elif unpack_debian_rust; then
        echo "standard libraries: built from Debian's sources"
        cargo_for() { with_debian_rust cargo "$1" --lib -Z build-std=std,panic_abort "${@:2}"; }
    else
        skip platforms "neither rustup nor Debian has the standard libraries of ${platform_targets[*]} $wasm"
        return
    fi
    # One call for several targets uses all cores. WebAssembly has its own, because cargo enables the features of
    # dependencies for all targets of a call.
    cargo_for build "${platform_targets[@]/#/--target=}"
    cargo_for build --target=$wasm
    cargo_for check --all-features "${platform_targets[@]/#/--target=}"
    cargo_for check --features $wasm_features --target=$wasm
    # The library explains why a feature cannot work.
    ! cargo_for check --features tokio --target=$wasm >"$target/platforms/tokio" 2>&1
    grep "feature .tokio. does not work" "$target/platforms/tokio"
}

# Runs the tests of the library as 32-bit programs.
i686() {
    local run=(cargo test --all-features --lib --tests --target i686-unknown-linux-gnu)
    if [ "$(uname -sm)" != "Linux x86_64" ] || ! command -v apt-get >/dev/null; then
        skip "32-bit tests" "this is no x86-64 Debian or Ubuntu"
        return
    fi
    need i686-linux-gnu-gcc "a C compiler and linker for 32-bit programs" gcc-i686-linux-gnu libc6-dev-i386-cross
    [ -e /lib/ld-linux.so.2 ] || install_packages "the C library, which 32-bit programs load" libc6-i386 lib32gcc-s1
    export CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$target/i686
    export CC_i686_unknown_linux_gnu=i686-linux-gnu-gcc AR_i686_unknown_linux_gnu=i686-linux-gnu-ar
    export CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_LINKER=i686-linux-gnu-gcc
    if timeout 120 rustup target add i686-unknown-linux-gnu >/dev/null 2>&1; then
        "${run[@]}"
    elif unpack_debian_rust; then
        with_debian_rust "${run[@]}" -Z build-std=std,panic_unwind,proc_macro,test
    else
        skip "32-bit tests" "neither rustup nor Debian has the standard library of i686-unknown-linux-gnu"
    fi
}
