//! The errors of the compiler for calls that users may write wrongly. The calls are in `calls.rs`, which only this test
//! compiles.
// Some of the calls need these features.
#![cfg(all(feature = "metrics", feature = "redis", feature = "serde"))]

#[cfg(wrong_calls)]
mod calls;

use std::env;
use std::mem::take;
use std::path::Path;
use std::process::Command;

/// A call that must not compile.
struct WrongCall {
    name: &'static str,
    /// The number of the function's first line.
    line: usize,
    /// Parts of its errors: the lines of the comment above the function.
    expected: Vec<&'static str>,
    /// All errors in the function.
    errors: String,
}

/// Returns the functions of `calls.rs`.
fn wrong_calls() -> Vec<WrongCall> {
    let mut calls = Vec::new();
    let mut expected = Vec::new();
    for (line, text) in (1..).zip(include_str!("calls.rs").lines()) {
        let function = text.strip_prefix("async ").unwrap_or(text);
        if let Some(comment) = text.strip_prefix("// ") {
            expected.push(comment);
        } else if let Some(function) = function.strip_prefix("fn ") {
            let name = function.split(['(', '<']).next().unwrap();
            let (expected, errors) = (take(&mut expected), String::new());
            calls.push(WrongCall {
                name,
                line,
                expected,
                errors,
            });
        }
    }
    calls
}

/// Compiles `calls.rs`, and returns what the compiler prints.
fn compile() -> String {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let rustc = "rustc --profile check --test wrong_calls --all-features --offline --color never";
    cargo.args(rustc.split(' '));
    cargo.arg("--target-dir").arg(target);
    cargo.args(["--", "--cfg=wrong_calls"]);
    // Build scripts that read these variables would run again. Cargo sets them only for the processes of tests.
    for (name, _) in env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    // With an end of line before the first error, too.
    format!(
        "\n{}",
        String::from_utf8_lossy(&cargo.output().unwrap().stderr)
    )
}

#[test]
fn each_wrong_call_has_an_error_that_says_what_is_wrong() {
    let mut calls = wrong_calls();
    let printed = compile();
    for error in printed.split("\nerror").skip(1) {
        // The first place in an error is the primary one. The summary at the end has none.
        let place = error
            .split_once("calls.rs:")
            .and_then(|(_, place)| place.split_once(':'));
        let Some((line, _)) = place else { continue };
        let line: usize = line.parse().unwrap();
        let call = calls.iter_mut().rfind(|call| call.line <= line).unwrap();
        call.errors += &["error", error, "\n"].concat();
    }
    for call in calls {
        let (name, errors) = (call.name, call.errors);
        assert!(
            !errors.is_empty(),
            "`{name}` has no error, or another one precedes:\n{printed}"
        );
        assert!(
            !call.expected.is_empty(),
            "`{name}` has no comment with parts of its errors"
        );
        for part in call.expected {
            assert!(
                errors.contains(part),
                "no error of `{name}` contains {part:?}:\n{errors}"
            );
        }
    }
}
