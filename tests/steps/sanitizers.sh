# The tests of the library under the sanitizers of LLVM, which need a nightly toolchain.

sanitizer_features=tokio,snapshot,metrics,testing,serde
sanitizer_target=x86_64-unknown-linux-gnu

# Runs the tests of the library, except for those of modules without threads, and for long tests with one thread. The
# number of reads is small, because each costs much under a sanitizer.
#   run_stress_tests NAME CARGO...
run_stress_tests() {
    # Reports name the lines of their stack traces.
    export HOTSET_STRESS_READS=20000 CARGO_PROFILE_DEV_DEBUG=line-tables-only
    "${@:2}" test --target "$sanitizer_target" --target-dir "$target/$1" \
        --features "$sanitizer_features" --lib --test entries --test loading --test invariants -- \
        --skip policy:: --skip storage:: --skip model:: --skip random_runs:: --skip every_short_schedule
}

# Detects memory that is used after it was freed, overflows of buffers, and leaks.
address_sanitizer() {
    if ! has_toolchain nightly; then
        skip AddressSanitizer "no nightly toolchain can be installed"
        return
    fi
    RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer" \
        run_stress_tests address cargo +nightly
}

# Detects data races. The standard library is built with the sanitizer too, because otherwise its locks and channels
# are reported. What remains is the fence in the destructor of `Arc`, which the sanitizer does not understand; the
# standard library replaces it by a load when it is built with the sanitizer.
thread_sanitizer() {
    local flags="-Zsanitizer=thread" cargo=(cargo +nightly)
    if ! has_toolchain nightly || ! timeout 120 rustup component add rust-src --toolchain nightly 2>/dev/null; then
        if ! unpack_debian_rust; then
            skip ThreadSanitizer "neither rustup nor Debian has the sources of the standard library"
            return
        fi
        # The compiler of Debian comes without the runtime of the sanitizer. Clang has it.
        need clang-22 "the runtime of ThreadSanitizer" clang-22 libclang-rt-22-dev
        flags+=" -Zexternal-clangrt -Clinker=clang-22 -Clink-arg=-fsanitize=thread"
        cargo=(with_debian_rust cargo)
    fi
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=$flags \
        run_stress_tests thread "${cargo[@]}" -Z build-std=std,panic_unwind,test
}
