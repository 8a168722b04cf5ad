//! Fuzz targets of the library.
//!
//! Each target is a module with a function `run`, which takes the bytes of an input and panics if it finds a fault. The
//! programs in `targets` give these functions to libFuzzer when `cargo fuzz` builds them, and otherwise run the files
//! that they are given. The test `replay` runs all inputs in `corpus` and `crashes`, so that an ordinary `cargo test`
//! covers them.
//!
//! This searches for faults for a minute, with `cargo install cargo-fuzz`. It needs no nightly toolchain, because it
//! uses no sanitizer. New inputs are kept in the first folder, and an input that makes the target fail in `artifacts`:
//!
//! ```sh
//! mkdir -p target/corpus/envelope
//! cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none envelope \
//!     target/corpus/envelope tests/fuzz/corpus/envelope -- -max_total_time=60 -len_control=0 -max_len=1000
//! ```
//!
//! A failing input is moved to `crashes`, and its cause also gets a test of its own where the faulty code is tested.

pub mod config;
pub mod envelope;
pub mod operations;
pub mod scripts;
pub mod snapshot;

#[path = "../../invariants/model.rs"]
mod model;
mod values;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Defines the entry point of a program for a target: that of libFuzzer, or a `main` that runs files.
#[macro_export]
macro_rules! fuzz_target {
    ($target:ident) => {
        #[cfg(fuzzing)]
        ::libfuzzer_sys::fuzz_target!(|data: &[u8]| ::fuzz::$target::run(data));

        #[cfg(not(fuzzing))]
        fn main() {
            ::fuzz::run_files(::fuzz::$target::run);
        }
    };
}

/// Runs a target with each file that is named by an argument of this program.
///
/// # Panics
///
/// Panics if a file cannot be read, or if the target does.
pub fn run_files(target: Target) {
    for path in std::env::args().skip(1) {
        println!("{path}");
        target(&std::fs::read(path).unwrap());
    }
}
