//! The order of the modules of the library.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src`. A module may use those above it.
const MODULES: [&str; 22] = [
    "clock",
    "entry",
    "error",
    "consistency",
    "schema",
    "random",
    "trace",
    "sync",
    "storage",
    "stats",
    "warm",
    "traits",
    "codec",
    "snapshot",
    "metrics",
    "single_flight",
    "policy",
    "local",
    "testing",
    "tiered",
    "config",
    // Documentation only.
    "guide",
];

/// A source file, without comments and without the items that only tests compile.
struct Source {
    path: PathBuf,
    /// The lines of code, with their numbers.
    lines: Vec<(usize, String)>,
    /// The files of modules that only tests compile, without the extension.
    test_modules: Vec<PathBuf>,
}

impl Source {
    /// Parses the text of a file that rustfmt has formatted, so that the end of an item has the indentation of its
    /// first line.
    fn parse(path: &Path, text: &str) -> Self {
        let mut source = Self {
            path: path.to_path_buf(),
            lines: Vec::new(),
            test_modules: Vec::new(),
        };
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            if is_test_attribute(line) {
                source.skip_item(&mut lines);
            } else if !line.trim_start().starts_with("//") {
                let code = line.split(" // ").next().unwrap_or_default();
                source.lines.push((index + 1, code.to_string()));
            }
        }
        source
    }

    /// Skips the item after an attribute, with its other attributes.
    fn skip_item<'a>(&mut self, lines: &mut impl Iterator<Item = (usize, &'a str)>) {
        let mut lines = lines.skip_while(|(_, line)| line.trim_start().starts_with("#["));
        let Some((_, first)) = lines.next() else {
            return;
        };
        let module = first.trim().strip_prefix("mod ");
        if let Some(name) = module.and_then(|name| name.strip_suffix(';')) {
            self.test_modules.push(self.child_folder().join(name));
        }
        if first.ends_with([';', '}', ',']) {
            return;
        }
        let indentation = first.len() - first.trim_start().len();
        for (_, line) in lines {
            let is_end = line.trim_start().starts_with('}');
            if is_end && line.len() - line.trim_start().len() == indentation {
                return;
            }
        }
    }

    /// Returns the folder with the files of the modules that this file declares.
    fn child_folder(&self) -> PathBuf {
        if self.path.ends_with("mod.rs") {
            self.path.with_file_name("")
        } else {
            self.path.with_extension("")
        }
    }

    /// Returns the module of `src` that this file belongs to.
    fn module(&self) -> &str {
        let first = self.path.iter().next().and_then(|first| first.to_str());
        let first = first.unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Returns the paths in this file that begin at the root of the crate and violate the order.
    fn violations(&self) -> Vec<String> {
        let module = self.module();
        let Some(own) = position(module) else {
            return vec![format!(
                "src/{}: the module `{module}` is not in the list MODULES of tests/layout.rs",
                self.path.display()
            )];
        };
        let mut violations = Vec::new();
        for (number, line) in &self.lines {
            for used in modules_used(line) {
                let problem = match position(used) {
                    Some(position) if position <= own => continue,
                    Some(_) => format!("`{module}` uses `crate::{used}`, which is below it"),
                    None => format!("`crate::{used}` does not name a module"),
                };
                let place = format!("src/{}:{number}", self.path.display());
                violations.push(format!("{place}: {problem}: {}", line.trim()));
            }
        }
        violations
    }
}

/// Checks whether a line is an attribute by which only tests compile an item.
fn is_test_attribute(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,")
}

fn position(module: &str) -> Option<usize> {
    MODULES.iter().position(|other| *other == module)
}

/// Returns the first names of the paths of a line that begin with `crate::`.
fn modules_used(line: &str) -> impl Iterator<Item = &str> {
    let paths = line.split("crate::").zip(line.split("crate::").skip(1));
    // `$crate::` is for users of a macro, who see the root of the crate only.
    let paths = paths.filter(|(before, _)| !before.ends_with('$'));
    paths.map(|(_, path)| {
        let end = path.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        &path[..end.unwrap_or(path.len())]
    })
}

/// Adds the sources of a folder. Paths are relative to `root`.
fn add_sources(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_sources(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push(Source::parse(path.strip_prefix(root).unwrap(), &text));
        }
    }
}

/// Returns the sources of the library, without those that only tests compile.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    add_sources(&root, &root, &mut sources);
    let tests: Vec<PathBuf> = sources
        .iter()
        .flat_map(|source| source.test_modules.clone())
        .collect();
    let is_test = |path: &Path| {
        let path = path.with_extension("");
        path.ancestors()
            .any(|folder| tests.iter().any(|test| test == folder))
    };
    sources.retain(|source| !is_test(&source.path) && !source.path.ends_with("lib.rs"));
    sources
}

#[test]
fn modules_use_only_modules_above_them() {
    let sources = sources();
    assert!(sources.len() >= MODULES.len());
    let violations: Vec<String> = sources.iter().flat_map(Source::violations).collect();
    assert!(
        violations.is_empty(),
        "A module may use only modules above it: {}.\n\
         Move the item to the module that it belongs to, or pass it as an argument.\n{}",
        MODULES.join(", "),
        violations.join("\n")
    );
}

#[test]
fn paths_are_found_in_code_but_not_in_comments_and_tests() {
    let text = "\
//! Like [`crate::tiered`].
use crate::local::{A, B};

pub struct C(crate::config::D); // Not crate::codec.

#[cfg(test)]
use crate::tiered::X;

#[cfg(test)]
mod models;

macro_rules! m {
    () => { $crate::E };
}

/// [F](crate::tiered::F)
fn f() -> (crate::policy::G, crate::H) {}

#[cfg(all(test, not(loom_models)))]
#[allow(unused)]
mod tests {
    use crate::tiered::Y;
}
";
    let source = Source::parse(Path::new("local/load.rs"), text);
    let used: Vec<&str> = source
        .lines
        .iter()
        .flat_map(|(_, line)| modules_used(line))
        .collect();
    assert_eq!(used, ["local", "config", "policy", "H"]);
    assert_eq!(source.test_modules, [Path::new("local/load/models")]);
    let violations = source.violations();
    assert_eq!(violations.len(), 2, "{violations:?}");
    let below = "src/local/load.rs:4: `local` uses `crate::config`, which is below it: ";
    assert!(violations[0].starts_with(below), "{violations:?}");
    let root = "src/local/load.rs:17: `crate::H` does not name a module: ";
    assert!(violations[1].starts_with(root), "{violations:?}");
}
