//! `qemu-img info --output=json` as lines with JSON pointers: the text has one member a line, so bytes stay comparable.

/// A line and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Pointer of the value on this line; empty for closing brackets.
    pub pointer: String,
    /// The line without its line feed.
    pub text: &'a str,
}

/// Splits a pretty-printed document. Array elements count from 0.
pub fn lines(document: &str) -> Vec<Line<'_>> {
    // One entry an open bracket: its pointer, and the next index if it is an array.
    let mut open: Vec<(String, Option<usize>)> = Vec::new();
    let mut found = Vec::new();
    for text in document.split('\n') {
        let trimmed = text.trim_start();
        let closes = trimmed.starts_with(['}', ']']);
        if closes {
            open.pop();
        }
        let mut pointer = String::new();
        if !closes && !trimmed.is_empty() {
            pointer = match (open.last_mut(), key_of(trimmed)) {
                (Some((parent, None)), Some(key)) => format!("{parent}/{key}"),
                (Some((parent, Some(index))), _) => {
                    *index += 1;
                    format!("{parent}/{}", *index - 1)
                }
                _ => String::new(),
            };
        }
        if trimmed.ends_with('{') {
            open.push((pointer.clone(), None));
        } else if trimmed.ends_with('[') {
            open.push((pointer.clone(), Some(0)));
        }
        found.push(Line { pointer, text });
    }
    found
}

fn key_of(line: &str) -> Option<&str> {
    line.strip_prefix('"')?.split_once("\": ").map(|(key, _)| key)
}

/// The line with its value replaced.
pub fn with_value(line: &str, value: &str) -> String {
    let comma = if line.ends_with(',') { "," } else { "" };
    match line.split_once("\": ") {
        Some((key, _)) => format!("{key}\": {value}{comma}"),
        None => line.to_owned(),
    }
}

/// The value on a line, as text.
pub fn value_of(line: &str) -> &str {
    line.split_once("\": ").map_or("", |(_, value)| value.trim_end_matches(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_follow_objects_and_arrays() {
        let text = "{\n    \"children\": [\n        {\n            \"name\": \"file\",\n            \"info\": {\n                \"children\": [\n                ],\n                \"virtual-size\": 5,\n            }\n        }\n    ],\n    \"x\": 1\n}\n";
        let pointers: Vec<String> = lines(text).into_iter().map(|l| l.pointer).filter(|p| !p.is_empty()).collect();
        assert_eq!(
            pointers,
            [
                "/children",
                "/children/0",
                "/children/0/name",
                "/children/0/info",
                "/children/0/info/children",
                "/children/0/info/virtual-size",
                "/x"
            ]
        );
    }

    #[test]
    fn replace_a_value_and_keep_the_comma() {
        assert_eq!(with_value("    \"a-b\": 17,", "<x>"), "    \"a-b\": <x>,");
    }
}
