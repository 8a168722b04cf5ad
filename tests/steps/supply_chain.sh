# The dependencies of all packages, and the public API of the library.

# Checks licenses, sources, duplicates and advisories (`.ci/deny.toml`), and finds unused dependencies.
supply_chain() {
    local deny=(cargo-deny --workspace --all-features --config .ci/deny.toml)
    need_tool cargo-deny 0.20.2
    "${deny[@]}" check licenses sources bans
    if timeout 60 "${deny[@]}" fetch db >/dev/null 2>&1; then
        "${deny[@]}" check advisories
    else
        skip advisories "the database of RustSec cannot be fetched"
    fi
    need_tool cargo-machete 0.9.2
    cargo-machete .
}

# Checks the library with the oldest version of each direct dependency that Cargo.toml allows. The other packages would
# raise the versions, so this happens in a copy without them.
oldest_dependencies() {
    local copy
    if ! has_toolchain nightly; then
        skip "oldest dependencies" "no nightly toolchain can be installed"
        return
    fi
    copy=$(mktemp -d)
    git ls-files -z Cargo.toml Cargo.lock README.md src tests benches/cache.rs benches/common examples/*.rs |
        xargs -0 cp --parents -t "$copy"
    sed -i '/^members = \[/,/^\]/d' "$copy/Cargo.toml"
    (
        export CARGO_TARGET_DIR=$target/oldest_dependencies
        cd "$copy"
        cargo +nightly update --quiet -Z direct-minimal-versions
        cargo check --lib --all-features
    )
    rm -r "$copy"
}

# Compares the public API with `tests/public_api/api.txt`.
public_api() {
    if ! has_toolchain nightly; then
        skip "public API" "no nightly toolchain can be installed"
        return
    fi
    cargo clippy -p public_api --all-targets -- -D warnings
    cargo test -p public_api -- --nocapture
}
