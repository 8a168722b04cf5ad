# Functions and variables that all steps share.

# Nothing is built incrementally here. Debug information takes a fifth of the time to build the tests, and panics name
# their line without it.
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=none
# The names of test binaries are taken from the output of Cargo.
export CARGO_TERM_COLOR=never CARGO_TERM_QUIET=false CARGO_TERM_VERBOSE=false
target=${CARGO_TARGET_DIR:-target}
# Absolute, also for paths with a drive.
[[ $target == /* || $target == ?:* ]] || target=$PWD/$target
# Programs that steps install with cargo, in versions that other installed ones may not have.
tools=$target/tools
# Both folders may be created during the run.
PATH="$tools/bin:$PATH:$HOME/.cargo/bin"

summary=$(mktemp)

note() { printf ' %-8s %6s  %s\n' "$1" "$2" "$3" >>"$summary"; }

# What most steps build. `peers` and `public_api` are left out, because Cargo would build dependencies with their features
# once more.
workspace=(--workspace --all-features --exclude peers --exclude public_api)

# Reports lints of Clippy as errors, in everything that the step compiles from now on. Its driver compiles the programs,
# so that dependencies are not compiled once more for Clippy.
report_lints() { export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/steps/rustc_with_lints; }

# Reports in the summary that a check is left out.
#   skip CHECK REASON
skip() {
    echo "skipped: $1: $2"
    note skipped "" "$1: $2"
}

# Runs a step in a subshell, which ends at the first command that fails.
run_step() {
    printf '\n== %s\n' "$1"
    local begun=$SECONDS status=0
    set +e
    (set -e; "${1//-/_}")
    status=$?
    set -e
    local seconds=$((SECONDS - begun)) word=passed
    [ "$status" -eq 0 ] || word=FAILED
    note "$word" "$((seconds / 60)):$(printf %02d $((seconds % 60)))" "$1"
    return "$status"
}

print_summary() {
    local status=$?
    printf '\n== summary\n'
    cat "$summary"
    rm -f "$summary"
    [ "$status" -eq 0 ] || echo "the checks have failed" >&2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Updates the list of packages, once in a step.
list_packages() {
    [ -n "${packages_are_listed-}" ] || as_root apt-get update -qq
    packages_are_listed=yes
}

# Installs packages of Debian or Ubuntu, and says why.
#   install_packages REASON PACKAGE...
install_packages() {
    echo "installing ${*:2}: $1"
    command -v apt-get >/dev/null || { echo "there is no apt-get here: please install them by hand" >&2; return 1; }
    list_packages
    # Runlevel 1 prevents packages from starting their services. Tests start and stop their own servers.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "${@:2}" >/dev/null
}

# Installs a package unless a program of it exists.
#   need PROGRAM REASON PACKAGE...
need() {
    command -v "$1" >/dev/null || install_packages "${@:2}"
}

# Returns whether a toolchain is installed, or can be downloaded.
has_toolchain() {
    rustup run "$1" cargo --version >/dev/null 2>&1 ||
        timeout 300 rustup toolchain install "$1" --profile minimal >/dev/null 2>&1
}

# Installs a program with cargo, unless it is there in this version. It is built without optimization, which takes less
# time than the optimization would save.
#   need_tool NAME VERSION
need_tool() {
    if ! "$tools/bin/$1" --version 2>/dev/null | grep -qF "$2"; then
        echo "installing $1 $2"
        cargo install --quiet --locked --profile dev --root "$tools" --target-dir "$tools/build" "$1@$2"
        rm -r "$tools/build"
    fi
}
