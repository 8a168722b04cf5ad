//! Replays the inputs in `corpus` and `crashes` in each target.

use fuzz::Target;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the files in a folder, in alphabetical order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target with its corpus, and with the inputs that once made it fail.
fn replay(name: &str, target: Target) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = files(&package.join("corpus").join(name));
    assert!(!corpus.is_empty(), "there is no corpus of {name}");
    for path in corpus
        .into_iter()
        .chain(files(&package.join("crashes").join(name)))
    {
        // The output is shown if the target fails, and names the input.
        println!("{}", path.display());
        target(&fs::read(path).unwrap());
    }
}

#[test]
fn inputs_of_envelope_find_no_fault() {
    replay("envelope", fuzz::envelope::run);
}

#[test]
fn inputs_of_snapshot_find_no_fault() {
    replay("snapshot", fuzz::snapshot::run);
}

#[test]
fn inputs_of_config_find_no_fault() {
    replay("config", fuzz::config::run);
}

#[test]
fn inputs_of_scripts_find_no_fault() {
    replay("scripts", fuzz::scripts::run);
}

#[test]
fn inputs_of_operations_find_no_fault() {
    replay("operations", fuzz::operations::run);
}
