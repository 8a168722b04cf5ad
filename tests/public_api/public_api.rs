//! Compares the public API of the library with the snapshot in `api.txt`, which a reviewer reads.
//!
//! The snapshot has the API with default features, what each feature adds to it, and what only all features together
//! add. `HOTSET_UPDATE_API=1 cargo test -p public_api` writes it. Only a nightly rustdoc can describe an API as JSON.
//! The test uses the toolchain `nightly`, or the one that `HOTSET_NIGHTLY` names, and skips itself if there is none,
//! or if the format of its JSON is another one than that of the package `public-api`.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Implementations that the compiler derives and on which users hardly depend. `Send` and `Sync` are not among them.
const UNLISTED_TRAITS: [&str; 5] = [
    "core::marker::Freeze for",
    "core::marker::Unpin for",
    "core::marker::UnsafeUnpin for",
    "core::panic::unwind_safe::RefUnwindSafe for",
    "core::panic::unwind_safe::UnwindSafe for",
];

/// The features that a list of items is built with.
#[derive(Clone, Copy)]
enum Features<'a> {
    Default,
    One(&'a str),
    All,
}

/// Returns the items of the API, one a line, by module and type, or `None` if the JSON has an unknown format.
fn items(toolchain: &str, features: Features<'_>) -> Result<Option<Vec<String>>, Box<dyn Error>> {
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut cargo = Command::new("rustup");
    cargo
        .args([
            "run",
            toolchain,
            "cargo",
            "rustdoc",
            "--quiet",
            "--lib",
            "--manifest-path",
        ])
        .arg(library().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir);
    match features {
        Features::Default => {}
        Features::One(feature) => {
            cargo.args(["--features", feature]);
        }
        Features::All => {
            cargo.arg("--all-features");
        }
    }
    cargo.args([
        "--",
        "-Z",
        "unstable-options",
        "--output-format",
        "json",
        "--cap-lints",
        "allow",
    ]);
    // Cargo and nextest set these for the toolchain that runs this test.
    let status = cargo
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTDOC")
        .status()?;
    if !status.success() {
        return Err(format!("{cargo:?} has failed").into());
    }
    let api = public_api::Builder::from_rustdoc_json(target_dir.join("doc/hotset.json"))
        .omit_blanket_impls(true)
        .build();
    match api {
        Ok(api) => {
            let lines = api.items().map(ToString::to_string);
            let is_listed = |line: &String| {
                !UNLISTED_TRAITS
                    .iter()
                    .any(|unlisted| line.contains(unlisted))
            };
            Ok(Some(lines.filter(is_listed).collect()))
        }
        Err(public_api::Error::SerdeJsonError(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the folder of the library.
fn library() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// Returns the features of the library, each with the features that it includes.
fn features() -> Result<BTreeMap<String, Vec<String>>, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Manifest {
        features: BTreeMap<String, Vec<String>>,
    }
    let manifest: Manifest = toml::from_str(&fs::read_to_string(library().join("Cargo.toml"))?)?;
    Ok(manifest.features)
}

/// Returns the text of the snapshot, or `None` if the JSON has an unknown format.
fn describe_api(toolchain: &str) -> Result<Option<String>, Box<dyn Error>> {
    let Some(by_default) = items(toolchain, Features::Default)? else {
        return Ok(None);
    };
    let features = features()?;
    let mut with_feature = BTreeMap::new();
    for feature in features.keys() {
        let items = items(toolchain, Features::One(feature))?.unwrap_or_default();
        with_feature.insert(feature, items);
    }
    let mut text = section("default features", &by_default, &[]);
    for (feature, included) in &features {
        let included = included
            .iter()
            .filter_map(|included| with_feature.get(included));
        let known: Vec<_> = included.chain([&by_default]).collect();
        let title = format!("added by the feature {feature}");
        text += &section(&title, &with_feature[feature], &known);
    }
    let all = items(toolchain, Features::All)?.unwrap_or_default();
    let known: Vec<_> = with_feature.values().collect();
    text += &section("added by several features together", &all, &known);
    // No feature removes anything, because another dependency of a program may enable it.
    for item in with_feature.values().flatten().chain(&by_default) {
        assert!(all.contains(item), "{item} is missing with all features");
    }
    Ok(Some(text))
}

/// Returns a title and those of the items that are not known.
fn section(title: &str, items: &[String], known: &[&Vec<String>]) -> String {
    let known: BTreeSet<&String> = known.iter().copied().flatten().collect();
    let added = items
        .iter()
        .filter(|item| !known.contains(item))
        .map(String::as_str);
    let lines: String = added.flat_map(|item| [item, "\n"]).collect();
    format!("== {title}\n{lines}")
}

#[test]
fn public_api_is_that_of_the_snapshot() -> Result<(), Box<dyn Error>> {
    let toolchain = env::var("HOTSET_NIGHTLY").unwrap_or_else(|_| "nightly".into());
    let version = Command::new("rustup")
        .args(["run", &toolchain, "rustdoc", "--version"])
        .output();
    if !version.is_ok_and(|version| version.status.success()) {
        eprintln!("skipped: there is no toolchain {toolchain}");
        return Ok(());
    }
    let Some(api) = describe_api(&toolchain)? else {
        eprintln!(
            "skipped: the package public-api does not read the JSON of rustdoc of the toolchain {toolchain}"
        );
        return Ok(());
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api.txt");
    if env::var_os("HOTSET_UPDATE_API").is_some() {
        return Ok(fs::write(path, api)?);
    }
    let snapshot = fs::read_to_string(path)?;
    let (before, now): (BTreeSet<&str>, BTreeSet<&str>) =
        (snapshot.lines().collect(), api.lines().collect());
    before
        .difference(&now)
        .for_each(|line| eprintln!("- {line}"));
    now.difference(&before)
        .for_each(|line| eprintln!("+ {line}"));
    assert!(
        snapshot == api,
        "the public API has changed: if it has to, run `HOTSET_UPDATE_API=1 cargo test -p public_api`, \
         and describe the change in CHANGELOG.md"
    );
    Ok(())
}
