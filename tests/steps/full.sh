# The steps that `tests/run --full` adds: what CI runs for each change.

full_steps=(
    "${default_steps[@]}" documentation feature-combinations wrong-calls oldest-rust platforms supply-chain
    oldest-dependencies public-api loom shuttle address-sanitizer thread-sanitizer linearizability comparisons
    release-tests examples benchmarks instructions load fuzzing
)

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features --document-private-items
}

# Checks sets of features that users choose, and runs the tests with default features.
feature_combinations() {
    local features
    for features in tokio snapshot metrics tracing redis redis-tls redis-credentials redis,metrics redis,tracing serde \
        testing serde,redis; do
        cargo clippy --features "$features" -- -D warnings
    done
    # Users build it without the features of other packages.
    cargo clippy -p profiles -- -D warnings
    report_lints
    cargo build --examples
    test_in_pairs wrong_calls
}

# Checks the errors of the compiler for calls that users may write wrongly.
wrong_calls() {
    cargo test --all-features --test wrong_calls
}

# Checks the library with the oldest Rust that it supports. Tests and benchmarks need a newer one.
oldest_rust() {
    local oldest check=(check --lib --all-features)
    export CARGO_TARGET_DIR=$target/oldest
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if has_toolchain "$oldest"; then
        rustup run "$oldest" cargo "${check[@]}"
    elif unpack_debian_rust "$oldest"; then
        with_debian_rust cargo "${check[@]}"
    else
        skip "Rust $oldest" "rustup cannot download it, and Debian has no package of it"
    fi
}

# Runs the models of the lock, of single flight and of the bound with all schedules of few preemptions.
loom() {
    report_lints
    RUSTFLAGS="--cfg loom_models" CARGO_TARGET_DIR=$target/loom cargo test --release --lib models
}

# Runs the same models with random schedules.
#   shuttle [SCHEDULES]
shuttle() {
    report_lints
    RUSTFLAGS="--cfg shuttle_models" CARGO_TARGET_DIR=$target/shuttle HOTSET_SCHEDULES=${1-2000} \
        cargo test --release --lib models
}

# Searches with each fuzz target for inputs that make it fail. It uses no sanitizer, so it needs no nightly toolchain. Two
# targets run at a time, because each uses one processor.
#   fuzzing [SECONDS]
fuzzing() {
    local logs first status=0
    report_lints
    need c++ "a C++ compiler, which builds libFuzzer" g++
    need_tool cargo-fuzz 0.13.2
    cargo fuzz build --fuzz-dir tests/fuzz --sanitizer none --target-dir "$target/fuzz"
    logs=$(mktemp -d)
    fuzz "${1-20}" envelope config operations >"$logs/first" 2>&1 &
    first=$!
    fuzz "${1-20}" snapshot scripts || status=1
    wait "$first" || status=1
    cat "$logs/first"
    rm -r "$logs"
    return "$status"
}

# Searches with one fuzz target after another.
#   fuzz SECONDS TARGET...
fuzz() {
    local name corpus
    for name in "${@:2}"; do
        # New inputs are kept in the first folder.
        corpus=$target/corpus/$name
        mkdir -p "$corpus" || return 1
        cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none --target-dir "$target/fuzz" "$name" \
            "$corpus" "tests/fuzz/corpus/$name" -- \
            "-max_total_time=$1" -len_control=0 -max_len=1000 -timeout=60 -verbosity=0 || return 1
    done
}

# Checks that concurrent operations of a cache have an order in which a sequential cache returns the same.
linearizability() {
    HOTSET_OPERATIONS=1000000 cargo test --release -p linearizability
}

# Compares the policies with plain implementations of their papers, and programs of the migration guides with their
# ports to this crate.
comparisons() {
    report_lints
    cargo test -p peers
}

# Runs tests in release mode that take too long without optimization.
release_tests() {
    # A snapshot of a million entries.
    cargo test --release --features snapshot --test features snapshot::
}

# Builds all programs and examples with the features of the step `tests`, whose dependencies are used if they are there.
build_examples() {
    report_lints
    cargo build "${workspace[@]}" --bins --examples
}

# Runs all examples.
examples() {
    local example folder warm
    build_examples
    for example in quickstart async_loading batch negative_caching removal_listener tags time_in_tests metrics; do
        "$target/debug/examples/$example"
    done
    "$target/debug/profiles" --seconds 1 --profiles 20000
    "$target/debug/async_profiles" --seconds 1 --profiles 20000
    warm=("$target/debug/warm" --seconds 1 --products 20000)
    folder=$(mktemp -d)
    "${warm[@]}" --folder "$folder"
    "${warm[@]}" --folder "$folder" --background | grep "^restored"
    rm -r "$folder"
    two_processes
}

# Runs the example `two_tiers`, and checks that a price set by one process of `tiered` is read by another.
two_processes() {
    local folder line=""
    folder=$(mktemp -d)
    # A failed check ends the step, too.
    trap "kill \$(jobs -p) 2>/dev/null; rm -r '$folder'" EXIT
    redis-server --port 0 --unixsocket "$folder/redis" --save "" >"$folder/log" 2>&1 &
    local server=$!
    until redis-cli -s "$folder/redis" ping >/dev/null 2>&1; do
        kill -0 "$server" || { cat "$folder/log"; return 1; }
    done
    "$target/debug/examples/two_tiers" "redis+unix://$folder/redis" | grep "^second process: 130"
    local run=("$target/debug/tiered"
        --redis "redis+unix://$folder/redis" --database "$folder/prices.sqlite")
    mkfifo "$folder/requests" "$folder/replies"
    "${run[@]}" <"$folder/requests" >"$folder/replies" &
    exec 3>"$folder/requests" 4<"$folder/replies"
    echo "set 7 130" >&3
    until [[ $line == acknowledged* ]]; do read -r -t 60 line <&4; done
    echo "set 7 140" | "${run[@]}" | grep "^acknowledged"
    echo "get 7" >&3
    read -r -t 60 line <&4
    echo quit >&3
    echo "$line"
    [[ $line == "140 cents"* ]]
}

# Runs the benchmarks for a moment, which checks that they work. Times are not compared, so they are built with the
# profile of the tests, for which other steps have built the dependencies.
benchmarks() {
    local log cluster status=0 bench=(cargo bench --profile dev -p peers)
    report_lints
    cargo bench --profile dev -- --test hit/1000
    "${bench[@]}" --no-run
    log=$(mktemp)
    "${bench[@]}" --bench cluster -- --quick >"$log" 2>&1 &
    cluster=$!
    "${bench[@]}" --bench compare -- --quick hit 1000 || status=1
    "${bench[@]}" --bench backends -- --quick || status=1
    wait "$cluster" || status=1
    cat "$log"
    rm "$log"
    return "$status"
}

# Compares the instructions per operation with `benches/peers/instructions.txt`.
instructions() {
    need valgrind "counts instructions" valgrind
    cargo bench -p peers --bench instructions -- --check
}

# Runs the load generator of the shop for a moment.
load() {
    build_examples
    HOTSET_SHOP=$target/debug/shop "$target/debug/shop_load" --seconds 1 --slices 2 --changes 1000
}

# Runs the tests of the library alone, on systems where the servers of the other tests cannot be installed.
library() {
    cargo test --all-features
}
