//! The layer rules, checked against what cargo itself says the packages depend on, and against their sources.
//!
//! Cannot see: code that is copied instead of depended on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use conformance::paths;
use serde_json::Value;

/// Package, and the packages of this project that it may depend on outside of its tests. A package that is not listed here
/// fails, so that a new one gets its place.
const RULES: [(&str, &[&str]); 8] = [
    ("instar-abi", &[]),
    ("instar-formats", &[]),
    ("instar-plan", &["instar-formats"]),
    ("instar-exec", &["instar-abi", "instar-formats", "instar-plan"]),
    ("instar-runtime", &["instar-abi", "instar-exec"]),
    ("instar", &["instar-abi"]),
    ("conformance", &[]),
    // Attacks host and guest alike; nothing depends on it.
    ("instar-fuzz", &["instar", "instar-abi", "instar-exec", "instar-formats", "instar-plan"]),
];

fn metadata() -> Value {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(paths::root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Every package of the workspace with its manifest and its dependencies by kind: `None` is the ordinary kind.
fn packages() -> BTreeMap<String, (String, Vec<(String, Option<String>)>)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("a list of dependencies").iter();
        let dependencies = dependencies.map(|found| (text(&found["name"]), found["kind"].as_str().map(str::to_owned)));
        (text(&package["name"]), (text(&package["manifest_path"]), dependencies.collect()))
    };
    metadata()["packages"].as_array().expect("a list of packages").iter().map(of).collect()
}

#[test]
fn packages_depend_only_on_layers_below_them() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    let ruled: BTreeSet<&str> = RULES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ruled, "the workspace and the rules name different packages");
    for (name, allowed) in RULES {
        for (dependency, kind) in &packages[name].1 {
            let is_own = names.contains(dependency.as_str());
            let is_tested = kind.as_deref() == Some("dev");
            assert!(
                !is_own || is_tested || allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_judge_shares_nothing_with_what_it_judges_even_in_tests() {
    for (dependency, _) in &packages()["conformance"].1 {
        assert!(!dependency.starts_with("instar"), "conformance must not depend on {dependency}");
    }
}

#[test]
fn the_contract_has_no_dependencies() {
    assert_eq!(packages()["instar-abi"].1, []);
}

#[test]
fn guests_need_no_standard_library() {
    for (name, (manifest, _)) in packages() {
        let folder = Path::new(&manifest).parent().expect("a manifest lies in a folder");
        if folder.parent().is_some_and(|parent| parent.ends_with("guests")) {
            let source = fs::read_to_string(folder.join("src/lib.rs")).expect("a library");
            let declared = ["#![no_std]", "#![cfg_attr(not(test), no_std)]"]
                .iter()
                .any(|line| source.lines().any(|found| found == *line));
            assert!(declared, "{name} does not say no_std at the top of its library");
        }
    }
}
