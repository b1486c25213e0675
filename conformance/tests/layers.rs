//! The layer rules, checked against what cargo itself says the packages depend on, and against their sources.
//!
//! Cannot see: code that is copied instead of depended on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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
    // For running the product; which modules may is checked below.
    ("conformance", &["instar", "instar-abi", "instar-exec", "instar-plan"]),
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

/// Dependencies with their kind: `None` is the ordinary one.
type Dependencies = Vec<(String, Option<String>)>;

/// Every package of the workspace with its manifest and its dependencies.
fn packages() -> BTreeMap<String, (String, Dependencies)> {
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

/// All Rust sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn the_judge_shares_nothing_with_what_it_judges() {
    let folder = paths::root().join("conformance/src");
    // These run the product in this process; everything else judges.
    let runners = ["runner/inprocess", "crash"].map(|name| folder.join(name));
    let of_the_product = ["instar::", "instar_abi", "instar_exec", "instar_formats", "instar_plan", "instar_runtime"];
    let mut judged = 0;
    for path in sources(&folder) {
        let source = fs::read_to_string(&path).expect("a source");
        if runners.iter().any(|runner| path.starts_with(runner)) {
            continue;
        }
        judged += 1;
        for name in of_the_product {
            assert!(!source.contains(name), "{} must not use {name}", path.display());
        }
        // Readers and oracles do not reach the product through the runner either.
        if ["image", "oracles"].iter().any(|name| path.starts_with(folder.join(name))) {
            for name in ["inprocess", "crate::crash"] {
                assert!(!source.contains(name), "{} must not use {name}", path.display());
            }
        }
    }
    assert!(judged > 40, "only {judged} sources were found");
}

#[test]
fn only_the_judge_can_plant_bugs() {
    let mut manifests: Vec<PathBuf> = packages().into_values().map(|(manifest, _)| manifest.into()).collect();
    let guests = paths::root().join("guests");
    let programs = ["", "bin/commit", "bin/info", "bin/rebase", "bin/map", "bin/hostile"];
    manifests.extend(programs.map(|name| guests.join(name).join("Cargo.toml")));
    for manifest in manifests {
        let text = fs::read_to_string(&manifest).expect("a manifest");
        let enables = text.lines().any(|line| line.contains("planted-bugs") && line.contains("features"));
        let is_the_judges = manifest.ends_with("conformance/Cargo.toml");
        assert_eq!(enables, is_the_judges, "{}", manifest.display());
    }
}

#[test]
fn the_oracles_reader_is_not_the_products() {
    for (name, (_, dependencies)) in packages() {
        let links = dependencies.iter().any(|(found, kind)| found == "imago" && kind.as_deref() != Some("dev"));
        assert!(!links || name == "conformance", "{name} must not link imago outside of its tests");
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
