# The campaigns of `tests/run --soak MINUTES`: searches for rare failures. Each gets the same share of the time, and
# repeats its search until the share is over. The last search of a campaign is not cut off.

soak_steps=(packages histories chaos reads schedules orders inputs mutants)

# The time of each campaign, in seconds.
share() { echo $((${soak_minutes:-10} * 60 / (${#soak_steps[@]} - 1))); }

# Repeats a command until the time of the campaign is over.
repeat() {
    local end=$((SECONDS + $(share))) count=0
    while [ "$count" -eq 0 ] || [ "$SECONDS" -lt "$end" ]; do
        "$@"
        count=$((count + 1))
    done
    echo "repeated $count times without a failure"
}

# Checks histories of processes over Redis while servers fail at random.
histories() {
    # The four histories run one after another on two cores; together they take 2.25 times the time that is set.
    HOTSET_HISTORY_SECONDS=$(($(share) * 4 / 9)) \
        cargo test --workspace --all-features --test tiered -- history --nocapture
}

# Repeats the tests in which servers and processes fail, are stopped, or are cut off.
chaos() {
    repeat cargo test --workspace --all-features --test tiered -- \
        failover outage reconnect processes votes liveness lost_batches corners --skip history
}

# Searches for outdated reads of caches in one process.
reads() {
    HOTSET_STRESS_READS=200000000 repeat cargo test --release --all-features --test invariants -- staleness
}

# Runs the models with random schedules.
schedules() {
    repeat shuttle 100000
}

# Searches for histories of a cache in one process that have no order.
orders() {
    repeat linearizability
}

# Searches for inputs that make a fuzz target fail.
inputs() {
    # Two groups of targets run at a time. The larger one has three, one after another.
    fuzzing $(($(share) / 3))
}

# Changes single expressions of the modules that carry the guarantees, and checks that a test fails for each change. The
# list of changes has 200 parts, each of which takes about a quarter of an hour. A campaign tests as many parts as its
# time allows. The first one depends on the day.
mutants() {
    local parts=200 part
    need_tool cargo-mutants 27.1.0
    part=$(($(date +%s) / 86400 % parts))
    next_part() {
        cargo mutants --package hotset --config .ci/mutants.toml --output "$target/mutants" --shard "$part/$parts"
        part=$(((part + 1) % parts))
    }
    repeat next_part
}
