//! The workflows and templates in .github are YAML, and what they call is there. Cannot see: whether they run.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project")
}

/// Every YAML file of a folder, and what it says.
fn documents(folder: &str) -> Vec<(PathBuf, Value)> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder").map(|entry| entry.expect("an entry").path());
    let yaml = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yml"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("text");
        let value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, value)
    };
    yaml.map(read).collect()
}

#[test]
fn every_script_and_package_that_a_workflow_calls_is_there() {
    let workflows = documents(".github/workflows");
    assert!(workflows.len() >= 4, "tests, nightly, nightly-fuzz and release at least");
    let mut scripts = 0;
    for (path, workflow) in &workflows {
        assert!(!workflow["on"].is_null() && !workflow["permissions"].is_null(), "{}", path.display());
        for (name, job) in workflow["jobs"].as_object().expect("jobs") {
            assert!(job["timeout-minutes"].is_u64(), "{}: {name} has no time limit", path.display());
            for run in job["steps"].as_array().expect("steps").iter().filter_map(|step| step["run"].as_str()) {
                for word in run.split_whitespace().filter(|word| word.starts_with("scripts/") || *word == ".ci/run") {
                    assert!(root().join(word).is_file(), "{}: {word}", path.display());
                    scripts += 1;
                }
            }
        }
    }
    assert!(scripts >= 6, "only {scripts} calls of scripts were found");
}

#[test]
fn every_template_asks_something() {
    let forms = documents(".github/ISSUE_TEMPLATE");
    let asking: Vec<usize> = forms.iter().filter_map(|(_, form)| form["body"].as_array().map(Vec::len)).collect();
    assert!(asking.len() >= 2 && asking.iter().all(|&questions| questions > 0), "{asking:?}");
    for (path, form) in forms.iter().filter(|(_, form)| !form["body"].is_null()) {
        assert!(form["name"].is_string() && form["description"].is_string(), "{}", path.display());
    }
}
