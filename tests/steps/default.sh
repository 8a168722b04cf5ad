# The steps of `tests/run`: what a change should pass before it is proposed.

default_steps=(packages formatting clippy dependencies tests)

# Installs what a fresh Debian or Ubuntu machine lacks for the steps of `tests/run`.
packages() {
    need cc "a C compiler, for dependencies of the tests and for SQLite" build-essential
    need redis-server "Redis, its sentinels and clusters, for the tests of TieredCache" redis-server
    [ -n "$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] ||
        install_packages "PostgreSQL, the database in tests of the shop" postgresql
    need promtool "Prometheus, for the tests of metrics, alerts and dashboard" prometheus
    need prometheus-redis-exporter "metrics of Redis, for the tests of alerts" prometheus-redis-exporter
    need chromium "a browser, for the test of the shop's page" chromium
    need chromedriver "the browser's driver" chromium-driver
    if ! command -v cargo >/dev/null; then
        need curl "downloads Rust" curl ca-certificates
        echo "installing Rust, with rustup"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
    fi
    local component
    for component in rustfmt clippy; do
        "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
    done
    echo "all packages are installed"
}

formatting() {
    cargo fmt --all --check
}

# Lints of the library with default features. The step `tests` has the lints of all packages, with all features.
clippy() {
    cargo clippy -- -D warnings
}

# Checks that the library has at most five direct dependencies by default.
dependencies() {
    local direct
    direct=$(cargo tree --edges normal --depth 1 --prefix none | tail -n +2 | sort -u | wc -l)
    echo "$direct direct dependencies with default features"
    [ "$direct" -le 5 ]
}

# Runs all tests and doctests with all features, except those that have a step of their own. The binaries that mostly
# wait for servers are built first, and run while the others are built and run.
tests() {
    local waiting=(tiered monitoring shop) binary logs pids=() status=0 at
    report_lints
    cargo build "${workspace[@]}" --bin shop "${waiting[@]/#/--test=}"
    logs=$(mktemp -d)
    for binary in "${waiting[@]}"; do
        # More tests than processors, because they wait most of the time.
        RUST_TEST_THREADS=6 HOTSET_SHOP=$target/debug/shop \
            cargo test "${workspace[@]}" --test "$binary" >"$logs/$binary" 2>&1 &
        pids+=($!)
    done
    # Binaries that are already running must end first, also after a failure. Wrong calls have a step of their own,
    # because they compile dependencies once more.
    test_in_pairs "${waiting[*]} wrong_calls" "${workspace[@]}" || status=1
    for at in "${!waiting[@]}"; do
        wait "${pids[at]}" || status=1
        cat "$logs/${waiting[at]}"
    done
    rm -r "$logs"
    return "$status"
}

# Runs the tests and doctests of a selection of packages. Two binaries run at a time, beside the doctests, because many
# of them end with a test that uses one processor.
#   test_in_pairs "EXCLUDED BINARY..." OPTION OF CARGO...
test_in_pairs() {
    local excluded=$1 selection=("${@:2}") binaries binary first=(--lib --bins) second=() logs documentation others
    local status=0
    binaries=$(cargo test "${selection[@]}" --lib --bins --tests --no-run 2>&1 | tee >(cat >&2) |
        names_of_test_binaries) || status=1
    for binary in $binaries; do
        if [[ " $excluded " == *" $binary "* ]]; then
            continue
        elif [ "${#first[@]}" -lt "${#second[@]}" ]; then
            first+=(--test "$binary")
        else
            second+=(--test "$binary")
        fi
    done
    [ "${#second[@]}" -gt 0 ] || { echo "Cargo has printed no names of test binaries" >&2; return 1; }
    logs=$(mktemp -d)
    # The documentation's examples are compiled as one crate, which uses one processor for most of the time.
    cargo test "${selection[@]}" --doc >"$logs/documentation" 2>&1 &
    documentation=$!
    cargo test "${selection[@]}" --no-fail-fast "${first[@]}" >"$logs/others" 2>&1 &
    others=$!
    cargo test "${selection[@]}" --no-fail-fast "${second[@]}" || status=1
    wait "$documentation" || status=1
    wait "$others" || status=1
    cat "$logs/documentation" "$logs/others"
    rm -r "$logs"
    return "$status"
}

# Prints the names of integration tests, from the output of `cargo test --no-run`:
#
#       Executable tests/loading/main.rs (target/debug/deps/loading-af4b4a4f94d49323)
names_of_test_binaries() {
    sed -nE '/Executable unittests/d; s|^ +Executable .*/([^/]+)-[0-9a-f]+\)$|\1|p'
}
