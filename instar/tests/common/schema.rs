//! The published schemas, in a stricter form: members that they do not name are errors here.

use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

/// A schema as published.
pub(crate) fn published(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/schemas/{name}.schema.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What checks documents against a schema, and that the schema names all of their members.
pub(crate) fn strict(name: &str) -> Validator {
    let mut schema = published(name);
    forbid_unnamed_members(&mut schema);
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn forbid_unnamed_members(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("type").is_some_and(|kind| kind == "object") && members.contains_key("properties") {
                members.insert("unevaluatedProperties".to_owned(), false.into());
            }
            members.values_mut().for_each(forbid_unnamed_members);
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_unnamed_members),
        _ => {}
    }
}

/// Reads a document, which must be one of the schema's.
#[track_caller]
pub(crate) fn read(schema: &Validator, text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings: Vec<String> =
        schema.iter_errors(&value).map(|finding| format!("{}: {finding}", finding.instance_path())).collect();
    assert!(findings.is_empty(), "{findings:#?}\n{text}");
    value
}
