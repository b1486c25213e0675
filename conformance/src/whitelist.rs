//! The fields of info JSON that are not compared byte for byte, and the comparison that honours them.

use crate::case::DataError;
use crate::json_lines::{self, Line};
use crate::paths;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// What replaces the comparison of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Any value.
    Any,
    /// The real length of the file, where the recordings show that qemu-img's varies.
    FileLength,
}

/// One entry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// JSON pointers; `*` stands for one segment.
    pub pointers: Vec<String>,
    /// What is accepted.
    pub rule: Rule,
    /// Why qemu-img does not give it deterministically.
    pub reason: String,
    /// Runs that cannot do without it.
    pub needed_in: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    field: Vec<Field>,
}

/// The whitelist with a record of the entries that were needed.
#[derive(Debug)]
pub struct Whitelist {
    fields: Vec<Field>,
    needed: Mutex<BTreeSet<usize>>,
}

/// What is known about the file whose info is compared.
#[derive(Clone, Copy, Debug)]
pub struct FileLength {
    /// Real length now, in bytes.
    pub real: u64,
    /// Longest recorded length where the recordings show more than one; the field is compared otherwise.
    pub varies_up_to: Option<u64>,
}

/// How two documents compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Byte for byte.
    Equal,
    /// Equal apart from whitelisted fields.
    EqualAfterWhitelist,
    /// Different.
    Different,
}

fn matches(pattern: &str, pointer: &str) -> bool {
    let (mut a, mut b) = (pattern.split('/'), pointer.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(x), Some(y)) if x == "*" || x == y => {}
            _ => return false,
        }
    }
}

impl Whitelist {
    /// Loads `whitelist.toml`.
    pub fn load() -> Result<Self, DataError> {
        let path = paths::own("whitelist.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::new(&path, e))?;
        Self::parse(&text).map_err(|e| DataError::new(&path, e))
    }

    /// Reads the document.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|e| e.to_string())?;
        match document.field.iter().find(|field| field.reason.trim().is_empty()) {
            Some(field) => Err(format!("no reason given for {:?}", field.pointers)),
            None => Ok(Self { fields: document.field, needed: Mutex::default() }),
        }
    }

    fn accepts(&self, index: usize, recorded: &Line<'_>, actual: &Line<'_>, length: FileLength) -> bool {
        match self.fields[index].rule {
            Rule::Any => true,
            Rule::FileLength => length.varies_up_to.is_some_and(|longest| {
                let value = json_lines::value_of(actual.text).parse::<u64>().ok();
                let plain = json_lines::value_of(recorded.text).parse::<u64>().is_ok();
                plain && value == Some(length.real.next_multiple_of(512)) && length.real <= longest
            }),
        }
    }

    /// Compares two documents line by line.
    pub fn compare(&self, recorded: &str, actual: &str, length: FileLength) -> Comparison {
        if recorded == actual {
            return Comparison::Equal;
        }
        let (left, right) = (json_lines::lines(recorded), json_lines::lines(actual));
        if left.len() != right.len() {
            return Comparison::Different;
        }
        let mut used = Vec::new();
        for (a, b) in left.iter().zip(&right) {
            if a.text == b.text {
                continue;
            }
            let same_place =
                a.pointer == b.pointer && json_lines::with_value(a.text, "") == json_lines::with_value(b.text, "");
            let entry = (0..self.fields.len()).find(|index| {
                self.fields[*index].pointers.iter().any(|pattern| matches(pattern, &a.pointer))
                    && self.accepts(*index, a, b, length)
            });
            match entry {
                Some(index) if same_place => used.push(index),
                _ => return Comparison::Different,
            }
        }
        self.needed.lock().expect("no panic holds it").extend(used);
        Comparison::EqualAfterWhitelist
    }

    /// Entries whose need does not agree with what they say about this run.
    pub fn disagreements(&self, run: &str) -> Vec<String> {
        let needed = self.needed.lock().expect("no panic holds it");
        let mut found = Vec::new();
        for (index, field) in self.fields.iter().enumerate() {
            match (needed.contains(&index), field.needed_in.iter().any(|name| name == run)) {
                (true, false) => {
                    found.push(format!("{:?} was needed in {run}, which the entry does not name", field.pointers))
                }
                (false, true) => found.push(format!("{:?} was not needed in {run}: remove it", field.pointers)),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[[field]]\npointers=[\"/actual-size\"]\nrule=\"any\"\nreason=\"r\"\nneeded_in=[\"x\"]\n[[field]]\npointers=[\"/children/*/info/virtual-size\"]\nrule=\"file-length\"\nreason=\"r\"\nneeded_in=[]\n";

    fn document(actual: u32, length: u32, size: u32) -> String {
        format!(
            "{{\n    \"children\": [\n        {{\n            \"info\": {{\n                \"virtual-size\": {length}\n            }}\n        }}\n    ],\n    \"actual-size\": {actual},\n    \"virtual-size\": {size}\n}}\n"
        )
    }

    #[test]
    fn whitelisted_field_may_differ_and_counts_as_needed() {
        let list = Whitelist::parse(LIST).expect("valid");
        let fixed = FileLength { real: 512, varies_up_to: None };
        assert_eq!(list.disagreements("x").len(), 1);
        assert_eq!(list.compare(&document(1, 2, 3), &document(9, 2, 3), fixed), Comparison::EqualAfterWhitelist);
        assert!(list.disagreements("x").is_empty());
        assert_eq!(list.disagreements("y").len(), 1);
    }

    #[test]
    fn field_outside_of_the_list_fails() {
        let list = Whitelist::parse(LIST).expect("valid");
        let fixed = FileLength { real: 512, varies_up_to: None };
        assert_eq!(list.compare(&document(1, 2, 3), &document(1, 2, 4), fixed), Comparison::Different);
        assert_eq!(list.compare(&document(1, 2, 3), &document(1, 1, 3), fixed), Comparison::Different);
    }

    #[test]
    fn varying_length_must_still_be_the_real_one() {
        let list = Whitelist::parse(LIST).expect("valid");
        let varying = FileLength { real: 1000, varies_up_to: Some(2048) };
        assert_eq!(
            list.compare(&document(1, 2048, 3), &document(1, 1024, 3), varying),
            Comparison::EqualAfterWhitelist
        );
        assert_eq!(list.compare(&document(1, 2048, 3), &document(1, 1536, 3), varying), Comparison::Different);
        let longer = FileLength { real: 4096, varies_up_to: Some(2048) };
        assert_eq!(list.compare(&document(1, 2048, 3), &document(1, 4096, 3), longer), Comparison::Different);
    }
}
