//! The threat model names tests; they exist. Cannot see: whether they test what the text says.

use std::fs;
use std::path::Path;

/// `FILE`: `NAME`, `NAME`; in the order of the text.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let mut file = None;
    let mut named = Vec::new();
    for line in text.lines() {
        for span in line.split('`').skip(1).step_by(2) {
            let is_name =
                span.contains('_') && span.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if span.ends_with(".rs") {
                file = Some(span.to_owned());
            } else if let (true, Some(file)) = (is_name, &file) {
                named.push((file.clone(), span.to_owned()));
            }
        }
        file = None;
    }
    named
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project");
    let text = fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model");
    let named = named_tests(&text);
    assert!(named.len() > 30, "only {} tests were found in the text", named.len());
    for (file, name) in named {
        let source = fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let exists = source.contains(&format!("fn {name}(")) || source.contains(&format!("\"{name}\""));
        assert!(exists, "{file} has no test {name}");
    }
}
